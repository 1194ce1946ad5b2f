"""Thumbnails show the whole image, and an atlas has each where its cell is."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from support.moving_pictures import moving

from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.image_files.atlas import (
    CELL_PX,
    CELLS,
    COLUMNS,
    STRIP_CELLS,
    encode_atlas,
    fitted_size,
    strip_frames,
    strip_of_file,
    strip_of_pixels,
    thumb_of_file,
    thumb_of_pixels,
)
from nightpress.pipelines.image_files.clips import mp4
from nightpress.pipelines.image_files.clips.mp4 import encode_mp4
from nightpress.pipelines.image_files.clips.webp import encode_webp


def gradient(width: int, height: int) -> np.ndarray:
    """An image that is dark on the left and light on the right."""
    values = np.linspace(0, 255, width).astype(np.uint8)
    return np.broadcast_to(values[None, :, None], (height, width, 3)).copy()


def saved(pixels: np.ndarray, form: str) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, form, quality=95)
    return file.getvalue()


@pytest.mark.parametrize(
    ("size", "fitted"),
    [
        ((1024, 1024), (192, 192)),
        ((1024, 512), (192, 96)),
        ((333, 1000), (64, 192)),
        ((192, 100), (192, 100)),
        ((128, 64), (128, 64)),
        ((16_000, 8), (192, 1)),
        ((1000, 2), (192, 1)),
        ((193, 96), (192, 96)),
    ],
)
def test_an_image_is_fitted_whole_and_never_enlarged(
    size: tuple[int, int], fitted: tuple[int, int]
) -> None:
    assert fitted_size(*size) == fitted
    assert thumb_of_pixels(gradient(*size)).shape == (fitted[1], fitted[0], 3)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_a_file_gives_the_thumbnail_of_its_pixels(form: str) -> None:
    pixels = gradient(1024, 640)
    found = thumb_of_file(saved(pixels, form))
    assert found.shape == (120, 192, 3)
    assert np.abs(found.astype(int) - thumb_of_pixels(pixels)).max() <= 4


def test_a_file_that_is_no_image_is_refused() -> None:
    whole = saved(gradient(300, 300), "PNG")
    for data in (b"", b"not an image", whole[:-200]):
        with pytest.raises(ValueError, match=r"not a PNG|truncated or invalid"):
            thumb_of_file(data)


def test_each_thumbnail_lies_centred_in_its_cell() -> None:
    wide, small = np.full((96, 192, 3), 250, np.uint8), np.full((10, 20, 3), 5, np.uint8)
    data = encode_atlas({0: wide, 9: small, CELLS - 1: wide})
    sheet = np.asarray(Image.open(BytesIO(data)).convert("RGB")).astype(int)
    assert sheet.shape == (CELL_PX * 8, CELL_PX * COLUMNS, 3)

    def at(cell: int, x: int, y: int) -> int:
        row, column = divmod(cell, COLUMNS)
        return int(sheet[row * CELL_PX + y, column * CELL_PX + x].mean())

    assert at(0, 5, 96) > 240
    assert 118 < at(0, 5, 20) < 138, "beside the picture it is grey"
    assert at(9, 96, 96) < 20
    assert 118 < at(9, 60, 96) < 138
    assert at(CELLS - 1, 187, 96) > 240
    assert 118 < at(30, 96, 96) < 138, "an empty cell is grey"


def test_equal_thumbnails_give_equal_bytes() -> None:
    thumbs = {n: gradient(192, 100 + n) for n in range(8)}
    assert encode_atlas(thumbs) == encode_atlas(dict(reversed(thumbs.items())))


@pytest.mark.parametrize("num_frames", [1, 2, 3, 15, 16, 17, 31, 40, 49, 1000])
def test_a_strip_has_16_evenly_spaced_frames_with_the_first_and_the_last(num_frames: int) -> None:
    frames = strip_frames(num_frames)
    assert len(frames) == min(num_frames, STRIP_CELLS)
    assert (frames[0], frames[-1]) == (0, num_frames - 1)
    steps = np.diff(frames)
    assert num_frames == 1 or (steps.min() >= 1 and steps.max() - steps.min() <= 1)


@pytest.mark.parametrize("num_frames", [3, 16, 40])
def test_the_file_of_a_clip_gives_the_strip_of_its_frames(num_frames: int) -> None:
    frames = moving(num_frames, 240, 320)
    of_pixels = strip_of_pixels(frames)
    lossless = strip_of_file(encode_webp(frames, 8, None, None))
    assert all(map(np.array_equal, lossless, of_pixels))
    lossy = strip_of_file(encode_mp4(frames, 8, {}))
    assert len(lossy) == len(lossless) == len(of_pixels)
    for one, two in zip(lossy, of_pixels, strict=True):
        assert np.abs(one.astype(int) - two).mean() < 6


def test_a_clip_that_is_cut_short_has_no_strip() -> None:
    frames = moving(6, 48, 64)
    for data in (encode_webp(frames, 8, None, None), encode_mp4(frames, 8, {})):
        with pytest.raises(ValueError, match=r"truncated or invalid|not a PNG"):
            strip_of_file(data[: len(data) // 2])


def test_without_av_an_mp4_file_is_no_damaged_one(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode_mp4(moving(3), 8, {})
    monkeypatch.setattr(mp4, "has_av", lambda: False)
    for make in (thumb_of_file, strip_of_file):
        with pytest.raises(SpecError, match=r"nightpress\[video\]"):
            make(data)
