"""Thumbnails: small JPEG files of images that are not kept."""

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

THUMBNAIL_SIDE = 256
"""Pixels of the longer side."""

THUMBNAIL_QUALITY = 80


def thumbnail(pixels: NDArray[np.uint8]) -> bytes:
    """A small JPEG file; an image that is smaller keeps its size.

    Args:
        pixels: (H, W, 3), RGB.
    """
    image = Image.fromarray(pixels)
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), reducing_gap=2.0)
    file = BytesIO()
    image.save(file, "JPEG", quality=THUMBNAIL_QUALITY)
    return file.getvalue()
