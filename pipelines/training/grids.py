"""Sheets of samples, and the film of a training: pictures coming out of the noise.

Owns their looks. Knows nothing of how samples are drawn.
"""

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps, UnidentifiedImageError

from nightpress.diffusion_core.theory.spacing import evenly_spaced
from nightpress.pipelines.errors import DataError, StoreMissing
from nightpress.pipelines.reporting.contact_sheet import (
    INK,
    PAPER,
    Grid,
    contact_sheet,
    default_font,
    drawable,
    wrapped,
)
from nightpress.pipelines.storage import Store
from nightpress.pipelines.training.layout import SAMPLES_FOLDER, sheet_path, sheets_of

SMALLEST, LARGEST = 128, 256
"""Sides of a picture on a sheet, in pixels."""

MAX_FRAMES = 60
FRAME_SIDE = 800
"""The longer side of a film's frame, at most, in pixels."""
FRAME_MS, LAST_FRAME_MS = 200, 3000


def sample_sheet(
    pictures: Sequence[NDArray[np.uint8]], captions: Sequence[str], title: str
) -> bytes:
    """A PNG of all pictures under a title, a caption under each.

    Args:
        pictures: (H, W, 3) each, of any size.
        captions: one for each picture.

    Raises:
        ValueError: no pictures, or not one caption for each.
    """
    images = [Image.fromarray(picture) for picture in pictures]
    longest = max((max(image.size) for image in images), default=SMALLEST)
    thumb = min(LARGEST, max(SMALLEST, longest))
    buffer = io.BytesIO()
    _titled(contact_sheet(images, captions, thumb=thumb), title, thumb).save(buffer, "PNG")
    return buffer.getvalue()


def film_strip(store: Store) -> bytes:
    """A GIF of all `samples/step-*.png` of a run, in order of steps; the last one is held.

    Of more than MAX_FRAMES sheets an even choice is shown, first and last among them.

    Raises:
        StoreMissing: there are none.
        DataError: one of them is no picture.
    """
    paths = [sheet_path(step) for step in sheets_of(store)]
    if not paths:
        raise StoreMissing(f"{store.url}/{SAMPLES_FOLDER}: no samples to make a film of")
    chosen = evenly_spaced(paths, MAX_FRAMES)
    last = _frame(store, chosen[-1])
    # Sheets of an earlier start may have another number of pictures: all get the last one's size.
    frames = [ImageOps.pad(_frame(store, path), last.size, color=PAPER) for path in chosen[:-1]]
    durations = [FRAME_MS] * len(frames) + [LAST_FRAME_MS]
    frames = [image.quantize(dither=Image.Dither.NONE) for image in (*frames, last)]
    buffer = io.BytesIO()
    frames[0].save(
        buffer, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0
    )
    return buffer.getvalue()


def _titled(sheet: Image.Image, title: str, thumb: int) -> Image.Image:
    font = default_font(max(13, thumb // 12))
    margin = Grid(1, thumb, 0).margin
    width = sheet.width - 2 * margin
    text = wrapped(drawable(title, font), width, font.getlength, num_lines=1)
    head = sum(font.getmetrics()) + margin // 2
    found = Image.new("RGB", (sheet.width, sheet.height + head), PAPER)
    found.paste(sheet, (0, head))
    ImageDraw.Draw(found).text((margin, margin * 3 // 4), "".join(text), INK, font)
    return found


def _frame(store: Store, path: str) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(store.read(path))).convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise DataError(f"{store.url}/{path}: no picture ({error}); delete it") from error
    if max(image.size) <= FRAME_SIDE:
        return image
    return ImageOps.contain(image, (FRAME_SIDE, FRAME_SIDE), Image.Resampling.LANCZOS)
