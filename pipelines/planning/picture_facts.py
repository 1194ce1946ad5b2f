"""What is known about a picture once it is decoded."""

import hashlib
from dataclasses import dataclass

import numpy as np

from nightpress.pipelines.errors import InputError
from nightpress.pipelines.inputs.decoding import decode

WHITE_FROM = 128
"""From this grey value on, a pixel of a mask is white."""


@dataclass(frozen=True)
class PictureFacts:
    """A picture that can be decoded."""

    sha256: str
    """Of its bytes."""
    width: int
    """Pixels, once it is turned as its EXIF data say."""
    height: int
    is_black: bool = False
    """Whether it is a mask without a white pixel."""


def facts_of(content: bytes, *, is_mask: bool) -> PictureFacts | str:
    """The facts of a picture, or why it cannot be decoded."""
    try:
        image = decode(content, "mask_image" if is_mask else "init_image")
    except InputError as error:
        return str(error)
    black = is_mask and not bool((np.asarray(image.convert("L")) >= WHITE_FROM).any())
    return PictureFacts(hashlib.sha256(content).hexdigest(), image.width, image.height, black)
