"""Convert a picture to sRGB by the ICC profile that it carries.

A photograph in Display P3 or Adobe RGB looks pale if its numbers are taken for sRGB, and CMYK has
no other meaning than its profile's. LittleCMS computes with integers, so the same picture gives the
same bits on every machine. A profile that is damaged, or made for other channels than the picture
has, is ignored.
"""

import io
from typing import Any

import numpy as np
from PIL import Image, ImageCms

GRID = np.linspace(0, 255, 17).round().astype(np.uint8)
"""The values of a channel at which a profile is compared with sRGB."""

SAME_WITHIN = 2
"""A profile that moves no colour by more levels than this is sRGB, but for rounding."""

MODES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}
"""The colour space of a profile -> Pillow's mode."""


def in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """An opaque picture in RGB.

    Args:
        image: of any mode.
        profile: its ICC profile, if it has one.
    """
    transform = None if not profile else _transform(profile, image.mode)
    if transform is None:
        return image.convert("RGB")
    mode = transform.input_mode
    if mode != "CMYK" and _changes_nothing(transform):
        return image.convert("RGB")
    return _applied(image.convert(mode), transform)


def _applied(image: Image.Image, transform: Any) -> Image.Image:
    made = ImageCms.applyTransform(image, transform)
    assert made is not None  # noqa: S101 - it is None only for a change in place
    return made


def _transform(profile: bytes, image_mode: str) -> Any:
    """The way from a profile to sRGB; None if it is unusable for such a picture."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = MODES.get(source.profile.xcolor_space)
        if mode is None or mode != _channels(image_mode):
            return None
        return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


def _channels(image_mode: str) -> str:
    """The mode of the profile that suits a picture; a palette holds colours."""
    return {"CMYK": "CMYK", "1": "L", "L": "L"}.get(image_mode, "RGB")


def _changes_nothing(transform: Any) -> bool:
    if transform.input_mode == "L":
        colours = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
        given = Image.fromarray(colours[..., 0])
    else:
        grid = np.stack(np.meshgrid(GRID, GRID, GRID, indexing="ij"), axis=-1)
        colours = grid.reshape(len(GRID), -1, 3)
        given = Image.fromarray(colours)
    found = np.asarray(_applied(given, transform))
    return bool(np.abs(found.astype(np.int16) - colours).max() <= SAME_WITHIN)
