"""What a picture file has to be, and its pixels as training sees them.

Knows nothing of where files lie.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from warnings import catch_warnings, simplefilter

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

Pixels = NDArray[np.uint8]
"""(H, W, 3), RGB."""

MAX_BYTES = 256 * 2**20
"""A larger file is no picture to train on."""

BROKEN = (
    *(OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError),
    *(OverflowError, SystemError, struct.error, zlib.error),
)
"""What Pillow's readers raise at bytes that they do not understand."""


class BadPicture(Exception):
    """A picture that cannot be used; the message is the reason."""


@contextmanager
def bombs_are_refused() -> Iterator[None]:
    """Have Pillow refuse what it would only warn of; for all threads while it lasts."""
    with catch_warnings():
        simplefilter("error", Image.DecompressionBombWarning)
        yield


def decode(data: bytes) -> Image.Image:
    """The picture upright, in RGB, on white where it is transparent; the first of an animation.

    Raises:
        BadPicture: it is none, is cut short, or has more pixels than Pillow's limit.
    """
    if not data:
        raise BadPicture("zero bytes")
    try:
        with Image.open(io.BytesIO(data)) as image:
            return _on_white(ImageOps.exif_transpose(_eight_bits(image)))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadPicture(
            f"more than {Image.MAX_IMAGE_PIXELS:,} pixels: a decompression bomb?"
        ) from error
    except UnidentifiedImageError as error:
        raise BadPicture("not a picture that Pillow can read") from error
    except BROKEN as error:
        raise BadPicture(f"broken: {' '.join(str(error).split()) or type(error).__name__}") from (
            error
        )


def square(image: Image.Image, size: int) -> Pixels:
    """The middle square of a picture, resampled with Lanczos' filter; (size, size, 3)."""
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS, box), np.uint8)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Deeper greys scaled, where Pillow would clip them."""
    if image.mode == "F":
        raise BadPicture("its pixels are floating point numbers, and nothing says their range")
    if not image.mode.startswith("I"):
        return image
    values: NDArray[Any] = np.asarray(image).astype(np.int64)
    grey = Image.fromarray((values.clip(0, 65535) >> 8).astype(np.uint8))
    grey.info["exif"] = image.getexif().tobytes()
    return grey


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    picture = image.convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture).convert("RGB")
