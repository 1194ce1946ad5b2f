"""Sample sheets and the film that is made of them."""

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
    film_strip,
    sample_sheet,
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
    """The grey level inside the first picture, and the time, of each frame."""
    frames = ImageSequence.Iterator(Image.open(io.BytesIO(data)))
    found = []
    for frame in frames:
        time_ms = frame.info["duration"]
        found.append((frame.convert("L").getpixel((60, 100)), time_ms))
    return found  # type: ignore[return-value]


def test_every_picture_is_on_the_sheet() -> None:
    levels = (10, 90, 170)
    pixels = np.asarray(opened(sample_sheet([plain(v) for v in levels], ["a"] * 3, "t")))
    for level in levels:
        assert (pixels == level).all(axis=-1).sum() >= 128 * 128


def test_the_title_and_the_captions_are_drawn() -> None:
    def sheet(title: str, caption: str) -> bytes:
        return opened(sample_sheet([plain(9)], [caption], title)).tobytes()

    assert len({sheet("", ""), sheet("step 5", ""), sheet("", "a cat")}) == 3


def test_a_title_longer_than_the_sheet_stays_on_it() -> None:
    image = opened(sample_sheet([plain(9)], ["a"], "many words " * 50))
    assert image.size == opened(sample_sheet([plain(9)], ["a"], "")).size


def test_no_pictures_or_missing_captions_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        sample_sheet([], [], "t")
    with pytest.raises(ValueError, match="shorter"):
        sample_sheet([plain(1)] * 2, ["a"], "t")


def test_the_film_shows_the_sheets_in_order_and_holds_the_last(store: Store) -> None:
    for step, level in ((1000, 200), (5, 20), (200, 110)):
        put_sheet(store, step, level)
    assert frames_of(film_strip(store)) == [
        (20, FRAME_MS), (110, FRAME_MS), (200, LAST_FRAME_MS)
    ]  # fmt: skip


def test_a_film_of_one_sheet_is_that_sheet(store: Store) -> None:
    put_sheet(store, 5, 20)
    assert opened(film_strip(store)).format == "GIF"


def test_the_film_is_not_part_of_itself(store: Store) -> None:
    put_sheet(store, 5, 20)
    put_sheet(store, 10, 90)
    first = film_strip(store)
    store.put("samples/film.gif", first)
    assert film_strip(store) == first


def test_a_long_training_makes_a_bounded_film(store: Store) -> None:
    for step in range(1, MAX_FRAMES + 30):
        put_sheet(store, step, step * 2, num=1)
    frames = frames_of(film_strip(store))
    assert len(frames) == MAX_FRAMES
    assert frames[0][0] == 2
    assert frames[-1][0] == 2 * (MAX_FRAMES + 29)


def test_sheets_of_other_sizes_fit_the_last_one(store: Store) -> None:
    put_sheet(store, 1, 20, num=1)
    put_sheet(store, 2, 90, num=36)
    image = opened(film_strip(store))
    assert max(image.size) == FRAME_SIDE
    assert getattr(image, "n_frames", 1) == 2


def test_without_samples_there_is_no_film(store: Store) -> None:
    store.put("samples/notes.txt", b"not a sheet")
    with pytest.raises(StoreMissing, match="no samples"):
        film_strip(store)


def test_a_damaged_sheet_is_named(store: Store) -> None:
    store.put("samples/step-00000005.png", b"no picture")
    with pytest.raises(DataError, match=r"step-00000005\.png: no picture"):
        film_strip(store)
