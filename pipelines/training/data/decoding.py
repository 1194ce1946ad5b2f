"""Decode and check image files, and turn them into the pixels that training uses."""

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

from nightpress.diffusion_core.errors import one_line

ImageArray = NDArray[np.uint8]
"""(H, W, 3), RGB."""

MAX_BYTES = 256 * 2**20
"""The largest image file that is read."""

DECODING_ERRORS = (
    *(OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError),
    *(OverflowError, SystemError, struct.error, zlib.error),
)
"""What Pillow's decoders raise on malformed files."""


class BadImageError(Exception):
    """An image that cannot be used; the message is the reason."""


@contextmanager
def refuse_decompression_bombs() -> Iterator[None]:
    """Turn Pillow's decompression bomb warning into an error, in all threads."""
    with catch_warnings():
        simplefilter("error", Image.DecompressionBombWarning)
        yield


def decode(data: bytes) -> Image.Image:
    """Decode an image to RGB, upright and on white; of an animation, the first frame.

    Raises:
        BadImageError: the file is not an image, is truncated, or exceeds Pillow's pixel limit.
    """
    if not data:
        raise BadImageError("the file is empty")
    try:
        with Image.open(io.BytesIO(data)) as image:
            return _on_white(ImageOps.exif_transpose(_eight_bits(image)))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImageError(
            f"more than {Image.MAX_IMAGE_PIXELS:,} pixels: possibly a decompression bomb"
        ) from error
    except UnidentifiedImageError as error:
        raise BadImageError("not an image that Pillow can read") from error
    except DECODING_ERRORS as error:
        reason = one_line(error, None) or type(error).__name__
        raise BadImageError(f"cannot be decoded: {reason}") from error


def center_crop(image: Image.Image, size: int) -> ImageArray:
    """Crop to the central square and resize it with a Lanczos filter; (size, size, 3)."""
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS, box), np.uint8)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit greyscale to 8 bits, which Pillow would clip instead."""
    if image.mode == "F":
        raise BadImageError("floating-point pixels, whose range is unknown")
    if not image.mode.startswith("I"):
        return image
    values: NDArray[Any] = np.asarray(image).astype(np.int64)
    grey = Image.fromarray((values.clip(0, 65535) >> 8).astype(np.uint8))
    grey.info["exif"] = image.getexif().tobytes()
    return grey


def _on_white(image: Image.Image) -> Image.Image:
    """Composite transparent pixels onto white; RGB."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    foreground = image.convert("RGBA")
    white = Image.new("RGBA", foreground.size, "white")
    return Image.alpha_composite(white, foreground).convert("RGB")
