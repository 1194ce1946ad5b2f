"""Pixels to the bytes of an image file, with what made the image inside; and back to the facts.

The same pixels and facts give the same bytes. Knows nothing of where the bytes go.
"""

import hashlib
import struct
from collections.abc import Iterable, Iterator
from io import BytesIO
from typing import Any

import numpy as np
from PIL import ExifTags, Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngInfo

from pipelines.provenance import (
    facts_from_json,
    facts_from_xmp,
    facts_json,
    parameters_text,
    xmp_extension,
    xmp_main,
    xmp_packet,
)
from pipelines.records import ImageFacts
from pipelines.sections import ImagesSpec

JPEG_QUALITY = 95

ZLIB_RLE = 3
"""zlib's strategy: about the size of level 6 on pictures, at a third of its time."""

WEBP_LOSSLESS_METHOD = 1
"""Of 0 to 6. Method 0 is ten times larger on flat art; 4 is a tenth smaller, and slower still."""

SEGMENT_BYTES = 65_533
"""What one segment of a JPEG file holds."""

TIFF_LONG, TIFF_UNDEFINED = 4, 7
"""Types of EXIF values: a number of 32 bits, and bytes that the tag explains."""

XMP_HEADER = b"http://ns.adobe.com/xap/1.0/\0"
XMP_EXTENSION_HEADER = b"http://ns.adobe.com/xmp/extension/\0"
EXTENSION_PREFIX = struct.Struct(">32sII")
"""GUID, bytes of the whole extension, offset of this piece."""


def encode(pixels: np.ndarray, facts: ImageFacts, images: ImagesSpec) -> bytes:
    """The image file, its facts inside.

    Args:
        pixels: uint8 (H, W, 3), RGB.
        facts: what made the image.
        images: format and quality.
    """
    image = Image.fromarray(pixels)
    file = BytesIO()
    match images.format:
        case "png":
            image.save(file, "PNG", **_png_options(facts))
        case "webp":
            image.save(file, "WEBP", **_webp_options(facts, images.quality))
        case "jpeg":
            image.save(file, "JPEG", **_jpeg_options(facts, images.quality))
    return file.getvalue()


def read_facts(data: bytes) -> ImageFacts | None:
    """The facts inside an image file; None when there are none, or it is no image file."""
    try:
        image = Image.open(BytesIO(data), formats=("PNG", "WEBP", "JPEG"))
    except (OSError, ValueError):
        return None
    with image:
        chunk = image.info.get("nightpress")
        if isinstance(chunk, str):
            return facts_from_json(chunk)
        for packet in _xmp_packets(image):
            facts = facts_from_xmp(packet)
            if facts is not None:
                return facts
    return None


def is_whole(data: bytes) -> bool:
    """Whether every byte of an image file that is needed is there, as far as it can tell.

    PNG has a checksum for each of its chunks; of the others, all pixels can be decoded.
    """
    try:
        with Image.open(BytesIO(data), formats=("PNG", "WEBP", "JPEG")) as image:
            image.verify()
        with Image.open(BytesIO(data), formats=("PNG", "WEBP", "JPEG")) as image:
            image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False
    return True


def _png_options(facts: ImageFacts) -> dict[str, Any]:
    text = PngInfo()
    text.add_text("parameters", parameters_text(facts))
    text.add_itxt("nightpress", facts_json(facts))
    text.add_itxt("XML:com.adobe.xmp", xmp_packet(facts))
    return {"pnginfo": text, "compress_level": 1, "compress_type": ZLIB_RLE}


def _webp_options(facts: ImageFacts, quality: int | None) -> dict[str, Any]:
    inside = {"xmp": xmp_packet(facts), "exif": _exif(facts)}
    if quality is None:
        return {"lossless": True, "method": WEBP_LOSSLESS_METHOD, **inside}
    return {"quality": quality, **inside}


def _jpeg_options(facts: ImageFacts, quality: int | None) -> dict[str, Any]:
    """Full colour resolution: drawings and lettering have edges between pure colours."""
    options: dict[str, Any] = {"quality": quality or JPEG_QUALITY, "subsampling": "4:4:4"}
    exif = _exif(facts)
    if len(exif) <= SEGMENT_BYTES:
        options["exif"] = exif
    return options | {"extra": b"".join(_xmp_segments(facts))}


def _exif(facts: ImageFacts) -> bytes:
    """EXIF with the parameters as user comment, where readers look when there are no PNG chunks.

    Two directories of one entry each: the image's points to the EXIF one, which holds the comment.
    """
    comment = b"UNICODE\0" + parameters_text(facts).encode("utf-16-be")
    exif_pointer = (1, ExifTags.IFD.Exif, TIFF_LONG, 1, 26, 0)
    user_comment = (1, ExifTags.Base.UserComment, TIFF_UNDEFINED, len(comment), 44, 0)
    head = struct.pack(">2sHI HHHIII HHHIII", b"MM", 42, 8, *exif_pointer, *user_comment)
    return b"Exif\0\0" + head + comment


def _xmp_segments(facts: ImageFacts) -> Iterator[bytes]:
    """APP1 segments: one packet where it fits, else its head and the pieces of its extension.

    References: XMP specification part 3, section 1.1.3.1, "Extended XMP in JPEG".
    """
    packet = xmp_packet(facts)
    if len(XMP_HEADER) + len(packet) <= SEGMENT_BYTES:
        yield _app1(XMP_HEADER + packet)
        return
    extension = xmp_extension(facts)
    guid = hashlib.md5(extension, usedforsecurity=False).hexdigest().upper()
    yield _app1(XMP_HEADER + xmp_main(facts, guid))
    room = SEGMENT_BYTES - len(XMP_EXTENSION_HEADER) - EXTENSION_PREFIX.size
    for offset in range(0, len(extension), room):
        prefix = EXTENSION_PREFIX.pack(guid.encode(), len(extension), offset)
        yield _app1(XMP_EXTENSION_HEADER + prefix + extension[offset : offset + room])


def _app1(content: bytes) -> bytes:
    return struct.pack(">HH", 0xFFE1, len(content) + 2) + content


def _xmp_packets(image: Image.Image) -> Iterator[bytes]:
    packet = image.info.get("xmp")
    if packet:
        yield packet
    if isinstance(image, JpegImageFile):
        yield _joined_extension(content for name, content in image.applist if name == "APP1")


def _joined_extension(segments: Iterable[bytes]) -> bytes:
    header_bytes = len(XMP_EXTENSION_HEADER) + EXTENSION_PREFIX.size
    pieces = [
        (EXTENSION_PREFIX.unpack_from(segment, len(XMP_EXTENSION_HEADER)), segment)
        for segment in segments
        if segment.startswith(XMP_EXTENSION_HEADER) and len(segment) > header_bytes
    ]
    return b"".join(segment[header_bytes:] for _, segment in sorted(pieces))
