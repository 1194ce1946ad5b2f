"""Decode a picture alone: turned as its EXIF data say, in sRGB, without transparency, 8 bit.

A mask becomes black and white instead. What cannot be read in one way only is refused: animations,
grey values without a known range, and masks with transparent pixels.
"""

import io
import re
import threading
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from nightpress.diffusion_core.errors import one_line
from nightpress.pipelines.inputs.colour_profiles import in_srgb
from nightpress.pipelines.job.inputs_section import InputsSpec

FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "TIFF", "BMP")
"""Pillow's names; a JPEG with a preview in it, as cameras make them, opens as `MPO`."""

ALLOWED = "PNG, JPEG, WebP, AVIF, GIF, TIFF or BMP"

WHITE_FROM = 128
"""From this grey value on, a pixel of a mask is white."""

LARGE_PIXELS = 24_000_000
"""A picture of more pixels is decoded while no other large one is."""

MAX_REASON = 200
"""Characters of another library's error in a message."""

SIGNATURES = (b"\x89PNG", b"\xff\xd8", b"RIFF", b"GIF8", b"II*\0", b"MM\0*", b"BM")
"""How files of these formats begin; AVIF has `ftyp` behind a size."""

MARKUP = re.compile(rb"\s*(<!doctype\s+html|<html)", re.IGNORECASE)


class Undecodable(ValueError):
    """The bytes are not a picture that can be used; the message says why."""


@dataclass(frozen=True)
class DecodeLimits:
    """How large a picture may be."""

    max_bytes: int
    max_pixels: int
    one_at_a_time: threading.Lock = field(default_factory=threading.Lock, compare=False)

    def turn(self, image: Image.Image) -> AbstractContextManager[object]:
        """Hold while a picture is decoded: large ones take turns, which bounds the memory."""
        is_large = image.width * image.height > LARGE_PIXELS
        return self.one_at_a_time if is_large else nullcontext()


def limits_of(spec: InputsSpec) -> DecodeLimits:
    """The limits that a job sets."""
    return DecodeLimits(spec.max_bytes, spec.max_pixels)


def decode_colour(data: bytes, limits: DecodeLimits) -> Image.Image:
    """The picture in RGB; transparent parts are white, as on paper.

    Raises:
        Undecodable: it is not a picture, is damaged, too large or an animation.
    """
    return _decoded(data, limits, is_mask=False)


def decode_mask(data: bytes, limits: DecodeLimits) -> Image.Image:
    """The picture in grey, only 0 and 255: its brightness at a threshold of 128.

    Raises:
        Undecodable: as for `decode_colour`, or it has transparent pixels.
    """
    return _decoded(data, limits, is_mask=True)


def _decoded(data: bytes, limits: DecodeLimits, *, is_mask: bool) -> Image.Image:
    if not data:
        raise Undecodable("the file is empty")
    if len(data) > limits.max_bytes:
        raise Undecodable(f"larger than {limits.max_bytes:,} bytes, which inputs.max_bytes allows")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _require_usable(image, limits)
            _verify(image, data)
            with limits.turn(image):
                image.load()
                turned = ImageOps.exif_transpose(image)
                return _black_and_white(turned) if is_mask else _rgb(turned)
    except Undecodable:
        raise
    except UnidentifiedImageError as error:
        raise Undecodable(_not_a_picture(data)) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        pixels = next(iter(re.findall(r"\d+", str(error))), "0")
        raise Undecodable(_too_large(f"{int(pixels):,}", limits)) from error
    except Exception as error:  # whatever a picture does to its decoder, it must fail alone
        raise Undecodable(f"damaged: {one_line(error, MAX_REASON)}") from error


def _require_usable(image: Image.Image, limits: DecodeLimits) -> None:
    """Refuse by the header what must not be decoded."""
    width, height = image.size
    if width * height > limits.max_pixels:
        raise Undecodable(_too_large(f"{width:,} x {height:,}", limits))
    num_frames = getattr(image, "n_frames", 1)
    if num_frames > 1 and image.format != "MPO":
        raise Undecodable(f"{num_frames} pictures in one {image.format} file; one is allowed")


def _too_large(pixels: str, limits: DecodeLimits) -> str:
    return f"{pixels} pixels; inputs.max_pixels allows {limits.max_pixels:,}"


def _verify(image: Image.Image, data: bytes) -> None:
    """Compare the checksums of a PNG file, which Pillow passes over when it decodes the pixels."""
    if image.format == "PNG":
        with Image.open(io.BytesIO(data), formats=("PNG",)) as copy:
            copy.verify()


def _not_a_picture(data: bytes) -> str:
    if data[4:8] == b"ftyp" or data.startswith(SIGNATURES):
        return f"damaged, or of another kind than {ALLOWED}"
    found = "an HTML page" if MARKUP.match(data[:1024]) else f"it begins with {data[:12]!r}"
    return f"not a picture ({found}); it must be {ALLOWED}"


def _rgb(image: Image.Image) -> Image.Image:
    profile = image.info.get("icc_profile")
    image = _eight_bit(image)
    if not image.has_transparency_data:
        return in_srgb(image, profile)
    alpha = image.convert("RGBA").getchannel("A")
    opaque = in_srgb(_without_alpha(image), profile)
    return Image.composite(opaque, Image.new("RGB", image.size, "white"), alpha)


def _without_alpha(image: Image.Image) -> Image.Image:
    """The colours, also those of transparent pixels."""
    return image.convert("L") if image.mode in ("L", "LA") else image.convert("RGBA").convert("RGB")


def _black_and_white(image: Image.Image) -> Image.Image:
    image = _eight_bit(image)
    if image.has_transparency_data:
        alpha = np.asarray(image.convert("RGBA").getchannel("A"))
        if alpha.min() < 255:
            raise Undecodable(
                "a mask with transparent pixels; it must be opaque: white where the image is made "
                "anew, black where it is kept"
            )
    if image.mode not in ("1", "L"):
        image = image.convert("RGBA").convert("RGB") if "A" in image.mode else image.convert("RGB")
    return image.convert("L").point([0] * WHITE_FROM + [255] * (256 - WHITE_FROM))


def _eight_bit(image: Image.Image) -> Image.Image:
    """The picture with 8 bits a channel: of 16 bits the upper ones, as Pillow reads colours."""
    if image.mode in ("I", "F"):
        raise Undecodable("grey values of 32 bits, whose range is not known; save it with 8 or 16")
    clear = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(clear, tuple) and max(clear) > 255:
        image.info["transparency"] = tuple(value >> 8 for value in clear)
    if not image.mode.startswith("I;16"):
        return image
    grey = np.asarray(image)
    upper = Image.fromarray((grey >> 8).astype(np.uint8))
    if clear is None:
        return upper
    return Image.merge("LA", [upper, Image.fromarray(np.where(grey == clear, 0, 255).astype("u1"))])
