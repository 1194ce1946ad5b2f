"""Atlases: 64 thumbnails in one WebP picture, in a grid of square cells."""

from collections.abc import Mapping
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nightpress.pipelines.image_files.encoding import BROKEN, opened

CELL_PX = 192
"""Side of a cell."""

COLUMNS = ROWS = 8
CELLS = COLUMNS * ROWS

ATLAS_QUALITY = 80
ATLAS_METHOD = 1
"""WebP effort from 0 to 6."""

MARGIN = (128, 128, 128)
"""Colour of a cell around a thumbnail, and of an empty one."""

Thumb = NDArray[np.uint8]
"""(h, w, 3), RGB, at most CELL_PX a side."""


def fitted_size(width: int, height: int) -> tuple[int, int]:
    """Width and height of an image that is fitted into a cell; a small one keeps its size."""
    longer = max(width, height)
    if longer <= CELL_PX:
        return width, height
    # Rounded half up in whole numbers, as Math.round does it on the page.
    return _scaled(width, longer), _scaled(height, longer)


def _scaled(side: int, longer: int) -> int:
    return max(1, (2 * side * CELL_PX + longer) // (2 * longer))


def thumb_of_pixels(pixels: NDArray[np.uint8]) -> Thumb:
    """The thumbnail of an image in memory.

    Args:
        pixels: (H, W, 3), RGB.
    """
    return _thumb(Image.fromarray(pixels))


def thumb_of_file(data: bytes) -> Thumb:
    """The thumbnail of an image file; a JPEG file is decoded at a fraction of its size.

    Raises:
        ValueError: it is no image, or damaged.
    """
    with opened(data) as image:
        width, height = fitted_size(*image.size)
        image.draft("RGB", (2 * width, 2 * height))  # only for JPEG
        try:
            return _thumb(image.convert("RGB"), (width, height))
        except (*BROKEN, ValueError) as error:
            raise ValueError("truncated or invalid image") from error


def _thumb(image: Image.Image, size: tuple[int, int] | None = None) -> Thumb:
    size = size or fitted_size(*image.size)
    if size == image.size:
        return np.asarray(image)
    small = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
    return np.asarray(small)


def encode_atlas(thumbs: Mapping[int, Thumb]) -> bytes:
    """A WebP picture of COLUMNS x ROWS cells; equal thumbnails give equal bytes.

    Args:
        thumbs: cell, counted by rows from 0 -> its thumbnail, which is centred in the cell.
    """
    sheet = np.full((ROWS * CELL_PX, COLUMNS * CELL_PX, 3), MARGIN, np.uint8)
    for cell, thumb in thumbs.items():
        height, width, _ = thumb.shape
        y = cell // COLUMNS * CELL_PX + (CELL_PX - height) // 2
        x = cell % COLUMNS * CELL_PX + (CELL_PX - width) // 2
        sheet[y : y + height, x : x + width] = thumb
    file = BytesIO()
    Image.fromarray(sheet).save(file, "WEBP", quality=ATLAS_QUALITY, method=ATLAS_METHOD)
    return file.getvalue()
