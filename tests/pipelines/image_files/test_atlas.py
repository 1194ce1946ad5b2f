"""Thumbnails show the whole image, and an atlas has each where its cell is."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from nightpress.pipelines.image_files.atlas import (
    CELL_PX,
    CELLS,
    COLUMNS,
    encode_atlas,
    fitted_size,
    thumb_of_file,
    thumb_of_pixels,
)


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
