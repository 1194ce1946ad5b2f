"""Atlases: 64 thumbnails in one WebP picture, in a grid of square cells.

A strip is the thumbnails of some frames of a clip, in cells that follow each other.
"""

from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.image_files.clips.reading import frames_in
from nightpress.pipelines.image_files.encoding import BROKEN, opened

CELL_PX = 192
"""Side of a cell."""

COLUMNS = ROWS = 8
CELLS = COLUMNS * ROWS

STRIP_CELLS = 16
"""Cells of a strip; a clip of fewer frames has one for each."""

STRIPS = CELLS // STRIP_CELLS
"""Strips of an atlas."""

ATLAS_QUALITY = 80
ATLAS_METHOD = 1
"""WebP effort from 0 to 6."""

MARGIN = (128, 128, 128)
"""Colour of a cell around a thumbnail, and of an empty one."""

Thumb = NDArray[np.uint8]
"""(h, w, 3), RGB, at most CELL_PX a side."""

Strip = Sequence[Thumb]
"""Thumbnails of frames of a clip, at most STRIP_CELLS, in their order."""


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
        SpecError: it is an MP4 file, and `av` is not installed.
        ValueError: it is no image, or damaged.
    """
    with opened(data) as image:
        width, height = fitted_size(*image.size)
        image.draft("RGB", (2 * width, 2 * height))  # only for JPEG
        try:
            return _thumb(image.convert("RGB"), (width, height))
        except SpecError:
            raise
        except (*BROKEN, ValueError) as error:
            raise ValueError("truncated or invalid image") from error


def strip_frames(num_frames: int) -> list[int]:
    """Which frames a strip shows: evenly spaced, the first and the last among them."""
    last, steps = num_frames - 1, min(num_frames, STRIP_CELLS) - 1
    return [(2 * n * last + steps) // (2 * steps) for n in range(steps + 1)] if steps else [0]


def strip_of_pixels(frames: NDArray[np.uint8]) -> Strip:
    """The strip of a clip in memory.

    Args:
        frames: (F, H, W, 3), RGB.
    """
    return [thumb_of_pixels(frames[number]) for number in strip_frames(len(frames))]


def num_frames_of_file(data: bytes) -> int:
    """How many frames the header of an image file tells; 1 for a still image.

    Raises:
        ValueError: it is no image, or damaged.
    """
    with opened(data) as image:
        return int(getattr(image, "n_frames", 1))


def strip_of_file(data: bytes) -> Strip:
    """The strip of a clip's file; one frame is in memory at a time.

    Raises:
        SpecError: it is an MP4 file, and `av` is not installed.
        ValueError: it is no clip, or damaged.
    """
    wanted = strip_frames(num_frames_of_file(data))
    try:
        strip = _some_thumbs(frames_in(data), set(wanted))
    except SpecError:
        raise
    except (*BROKEN, ValueError) as error:
        raise ValueError("truncated or invalid clip") from error
    if len(strip) != len(wanted):
        raise ValueError("the clip has fewer frames than it says")
    return strip


def _some_thumbs(frames: Iterable[NDArray[np.uint8]], wanted: set[int]) -> Strip:
    return [thumb_of_pixels(frame) for number, frame in enumerate(frames) if number in wanted]


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
