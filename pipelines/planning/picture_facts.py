"""What is known about a picture once it is decoded."""

import hashlib
from dataclasses import dataclass

from nightpress.pipelines.inputs.decoding import (
    DecodeLimits,
    Undecodable,
    decode_colour,
    decode_mask,
)


@dataclass(frozen=True)
class PictureFacts:
    """A picture that can be decoded."""

    sha256: str
    """The hash of its bytes."""
    width: int
    """Pixels, once it is turned as its EXIF data say."""
    height: int
    is_black: bool = False
    """Whether it is a mask without a white pixel."""


def facts_of(content: bytes, limits: DecodeLimits, *, is_mask: bool) -> PictureFacts | str:
    """The facts of a picture, or why it cannot be decoded."""
    try:
        image = (decode_mask if is_mask else decode_colour)(content, limits)
    except Undecodable as error:
        return str(error)
    black = is_mask and image.getbbox() is None
    return PictureFacts(hashlib.sha256(content).hexdigest(), image.width, image.height, black)
