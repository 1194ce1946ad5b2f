"""Decode a picture, turn it as its EXIF data say, flatten it to RGB, and bring it to a size."""

import io

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from nightpress.diffusion_core.conditioning.spec import Pixels
from nightpress.diffusion_core.errors import one_line
from nightpress.pipelines.errors import InputUndecodable


def decode(data: bytes, role: str) -> Image.Image:
    """The picture in RGB.

    Raises:
        InputUndecodable: it is not a picture, or it is too large.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            turned = ImageOps.exif_transpose(image)
            return turned.convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise InputUndecodable(f"{role}: {one_line(error)}") from error


def fitted(image: Image.Image, width: int, height: int, fit: str) -> Pixels:
    """The picture at exactly this size; (H, W, 3), or (H, W) for one channel."""
    size = (width, height)
    if image.size == size:
        return np.asarray(image)
    match fit:
        case "cover":
            return np.asarray(ImageOps.fit(image, size, Image.Resampling.LANCZOS))
        case "contain":
            return np.asarray(ImageOps.pad(image, size, Image.Resampling.LANCZOS))
        case _:
            return np.asarray(image.resize(size, Image.Resampling.LANCZOS))
