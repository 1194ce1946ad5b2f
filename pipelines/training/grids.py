"""Draw sample sheets, and the animated GIF of all sheets of a training run."""

import io
from collections.abc import Sequence

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
from nightpress.pipelines.training.data.decoding import ImageArray
from nightpress.pipelines.training.layout import (
    SAMPLES_FOLDER,
    sample_sheet_path,
    sample_sheet_steps,
)

SMALLEST, LARGEST = 128, 256
"""Limits of the side of an image on a sheet, in pixels."""

MAX_FRAMES = 60
FRAME_SIDE = 800
"""Limit of the longer side of a GIF frame, in pixels."""
FRAME_MS, LAST_FRAME_MS = 200, 3000
"""How long a frame of the GIF is shown."""


def sample_sheet(images: Sequence[ImageArray], captions: Sequence[str], title: str) -> bytes:
    """Draw a PNG of all images, with a caption under each and a title above.

    Args:
        images: (H, W, 3) each, of any size.
        captions: one for each image.

    Raises:
        ValueError: there are no images, or not one caption for each.
    """
    pictures = [Image.fromarray(image) for image in images]
    longest = max((max(picture.size) for picture in pictures), default=SMALLEST)
    thumb = min(LARGEST, max(SMALLEST, longest))
    buffer = io.BytesIO()
    sheet = contact_sheet(pictures, captions, thumb=thumb)
    _with_title(sheet, title, thumb).save(buffer, "PNG")
    return buffer.getvalue()


def training_film(store: Store) -> bytes:
    """Animate all `samples/step-*.png` of a run as a GIF, in order; the last frame is held.

    Of more than MAX_FRAMES sheets it shows an even selection that includes the first and the last.

    Raises:
        StoreMissing: there are no sample sheets.
        DataError: a sheet is not a readable image.
    """
    paths = [sample_sheet_path(step) for step in sample_sheet_steps(store)]
    if not paths:
        raise StoreMissing(f"{store.url}/{SAMPLES_FOLDER}: no sample sheets to animate")
    chosen = evenly_spaced(paths, MAX_FRAMES)
    last = _frame(store, chosen[-1])
    # Sheets from before a restart may have another size: all are padded to that of the last one.
    frames = [ImageOps.pad(_frame(store, path), last.size, color=PAPER) for path in chosen[:-1]]
    durations = [FRAME_MS] * len(frames) + [LAST_FRAME_MS]
    frames = [image.quantize(dither=Image.Dither.NONE) for image in (*frames, last)]
    buffer = io.BytesIO()
    frames[0].save(
        buffer, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0
    )
    return buffer.getvalue()


def _with_title(sheet: Image.Image, title: str, thumb: int) -> Image.Image:
    font = default_font(max(13, thumb // 12))
    margin = Grid(1, thumb, 0).margin
    width = sheet.width - 2 * margin
    text = wrapped(drawable(title, font), width, font.getlength, num_lines=1)
    head = sum(font.getmetrics()) + margin // 2
    titled = Image.new("RGB", (sheet.width, sheet.height + head), PAPER)
    titled.paste(sheet, (0, head))
    ImageDraw.Draw(titled).text((margin, margin * 3 // 4), "".join(text), INK, font)
    return titled


def _frame(store: Store, path: str) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(store.read(path))).convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise DataError(
            f"{store.url}/{path}: not a readable image ({error}); delete it to continue"
        ) from error
    if max(image.size) <= FRAME_SIDE:
        return image
    return ImageOps.contain(image, (FRAME_SIDE, FRAME_SIDE), Image.Resampling.LANCZOS)
