"""Sample sheets, and the GIF that shows them in order."""

import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageSequence

from nightpress.pipelines.errors import DataError, StoreMissing
from nightpress.pipelines.storage import Store
from nightpress.pipelines.training.grids import (
    FRAME_MS,
    FRAME_SIDE,
    LAST_FRAME_MS,
    MAX_FRAMES,
    sample_sheet,
    training_film,
)


def plain(level: int, side: int = 32) -> NDArray[np.uint8]:
    return np.full((side, side, 3), level, np.uint8)


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


def put_sheet(store: Store, step: int, level: int, num: int = 4) -> None:
    sheet = sample_sheet([plain(level)] * num, ["a cat"] * num, f"step {step}")
    store.put(f"samples/step-{step:08d}.png", sheet)


def frames_of(data: bytes) -> list[tuple[int, int]]:
    """The grey level inside the first image, and the duration, of each frame."""
    frames = ImageSequence.Iterator(Image.open(io.BytesIO(data)))
    return [(frame.convert("L").getpixel((60, 100)), frame.info["duration"]) for frame in frames]  # type: ignore[return-value]


def test_every_image_is_on_the_sheet() -> None:
    levels = (10, 90, 170)
    pixels = np.asarray(opened(sample_sheet([plain(v) for v in levels], ["a"] * 3, "t")))
    for level in levels:
        assert (pixels == level).all(axis=-1).sum() >= 128 * 128


def test_the_title_and_the_captions_are_drawn() -> None:
    def sheet(title: str, caption: str) -> bytes:
        return opened(sample_sheet([plain(9)], [caption], title)).tobytes()

    assert len({sheet("", ""), sheet("step 5", ""), sheet("", "a cat")}) == 3


def test_a_title_longer_than_the_sheet_does_not_widen_it() -> None:
    image = opened(sample_sheet([plain(9)], ["a"], "many words " * 50))
    assert image.size == opened(sample_sheet([plain(9)], ["a"], "")).size


def test_a_sheet_without_images_or_with_too_few_captions_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        sample_sheet([], [], "t")
    with pytest.raises(ValueError, match="shorter"):
        sample_sheet([plain(1)] * 2, ["a"], "t")


def test_the_gif_shows_the_sheets_in_order_and_holds_the_last(store: Store) -> None:
    for step, level in ((1000, 200), (5, 20), (200, 110)):
        put_sheet(store, step, level)
    assert frames_of(training_film(store)) == [
        (20, FRAME_MS), (110, FRAME_MS), (200, LAST_FRAME_MS)
    ]  # fmt: skip


def test_a_gif_of_one_sheet_has_one_frame(store: Store) -> None:
    put_sheet(store, 5, 20)
    image = opened(training_film(store))
    assert (image.format, getattr(image, "n_frames", 1)) == ("GIF", 1)


def test_the_gif_does_not_include_itself(store: Store) -> None:
    put_sheet(store, 5, 20)
    put_sheet(store, 10, 90)
    first = training_film(store)
    store.put("samples/film.gif", first)
    assert training_film(store) == first


def test_the_gif_of_a_long_training_has_a_limited_number_of_frames(store: Store) -> None:
    for step in range(1, MAX_FRAMES + 30):
        put_sheet(store, step, step * 2, num=1)
    frames = frames_of(training_film(store))
    assert len(frames) == MAX_FRAMES
    assert frames[0][0] == 2
    assert frames[-1][0] == 2 * (MAX_FRAMES + 29)


def test_sheets_of_other_sizes_are_padded_to_the_last_one(store: Store) -> None:
    put_sheet(store, 1, 20, num=1)
    put_sheet(store, 2, 90, num=36)
    image = opened(training_film(store))
    assert max(image.size) == FRAME_SIDE
    assert getattr(image, "n_frames", 1) == 2


def test_a_gif_without_sheets_is_refused(store: Store) -> None:
    store.put("samples/notes.txt", b"not a sheet")
    with pytest.raises(StoreMissing, match="no sample sheets"):
        training_film(store)


def test_a_damaged_sheet_is_named(store: Store) -> None:
    store.put("samples/step-00000005.png", b"not an image")
    with pytest.raises(DataError, match=r"step-00000005\.png: not a readable image"):
        training_film(store)
