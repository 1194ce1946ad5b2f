"""Pixels to the bytes of an image file, with what made the image inside; and back to the facts.

The same pixels and facts give the same bytes, and a file can tell by itself whether all of them are
as they were written. Knows nothing of where the bytes go.
"""

import hashlib
import struct
import zlib
from collections.abc import Iterable, Iterator
from io import BytesIO
from typing import Any

import numpy as np
from PIL import ExifTags, Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngInfo

from nightpress.pipelines.image_files.embedded_metadata import (
    DIGEST_MARK,
    DIGEST_NAME,
    facts_from_json,
    facts_from_xmp,
    facts_json,
    parameters_text,
    xmp_extension,
    xmp_main,
    xmp_packet,
)
from nightpress.pipelines.job.sections import ImagesSpec
from nightpress.pipelines.records import ImageFacts

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

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_CHUNK = struct.Struct(">I4s")
"""What a chunk begins with: bytes of its content, and its name, which the checksum covers too."""

NO_DIGEST = "0" * 64
"""Stands where a file's SHA-256 will, while that is taken."""

BROKEN = (OSError, SyntaxError, IndexError, TypeError, struct.error)
"""What Pillow raises, and takes itself, for a file that is not as its format says."""


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
            return file.getvalue()
        case "webp":
            image.save(file, "WEBP", **_webp_options(facts, images.quality))
        case "jpeg":
            image.save(file, "JPEG", **_jpeg_options(facts, images.quality))
    return _with_digest(file.getvalue())


def opened(data: bytes) -> Image.Image:
    """An image file of one of our formats, its pixels not decoded yet; a context manager.

    Raises:
        ValueError: it is none, or its decoded pixels might fill the memory.
    """
    try:
        return Image.open(BytesIO(data), formats=("PNG", "WEBP", "JPEG"))
    except Image.DecompressionBombError as error:
        raise ValueError("it says that it has more pixels than any image should") from error
    except BROKEN as error:
        raise ValueError("it is no PNG, WebP or JPEG file") from error
    except ValueError as error:  # such as compressed text that grows beyond all measure
        raise ValueError(f"it is no sound image: {_one_line(error)}") from error


def decoded(data: bytes) -> Image.Image:
    """An image file of one of our formats with its pixels.

    Raises:
        ValueError: it is none, is not whole, or its pixels might fill the memory.
    """
    image = opened(data)
    try:
        image.load()
    except (*BROKEN, ValueError) as error:
        raise ValueError(f"it is no whole image: {_one_line(error)}") from error
    return image


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def read_facts(data: bytes) -> ImageFacts | None:
    """The facts inside an image file; None when there are none, or it is no image file."""
    try:
        image = opened(data)
    except ValueError:
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
    """Whether an image file of ours proves by itself that every bit is as it was written.

    PNG has a checksum for each of its chunks; the others hold a digest of all their bytes. A
    file without such a proof, as older versions wrote it, is not known to be whole.
    """
    if data.startswith(PNG_SIGNATURE):
        return _has_its_checksums(data)
    digest = data[_digest_place(data)]
    return bool(digest) and digest == _own_digest(data)


def without_digest(data: bytes) -> bytes:
    """The bytes of a file as older versions wrote it, but for the lengths of what holds its XMP."""
    digest = _digest_place(data)
    if not digest.stop:
        return data
    older = data[: digest.start - len(DIGEST_NAME)] + data[digest.stop + len('"') :]
    return older + bytes(len(older) % 2)  # what is odd in a WebP file is padded


def _with_digest(data: bytes) -> bytes:
    place = _digest_place(data)
    return data[: place.start] + _own_digest(data) + data[place.stop :]


def _own_digest(data: bytes) -> bytes:
    """SHA-256, in hex digits, of a file with `NO_DIGEST` where its digest is."""
    place = _digest_place(data)
    blank = data[: place.start] + NO_DIGEST.encode() + data[place.stop :]
    return hashlib.sha256(blank).hexdigest().encode()


def _digest_place(data: bytes) -> slice:
    """Where a file holds its digest; nowhere, (0, 0), if it has none.

    The last mark counts: only what lies before the XMP can hold others, as a prompt in EXIF may.
    """
    mark = data.rfind(DIGEST_MARK)
    start = mark + len(DIGEST_MARK)
    return slice(start, start + len(NO_DIGEST)) if mark >= 0 else slice(0, 0)


def _has_its_checksums(png: bytes) -> bool:
    """Whether a PNG file is chunks with right checksums up to its last byte, the last one IEND.

    Reference: PNG specification (third edition), section 5.3, "Chunk layout".
    """
    view, place, name = memoryview(png), len(PNG_SIGNATURE), b""
    while name != b"IEND" and place + PNG_CHUNK.size <= len(png):
        length, name = PNG_CHUNK.unpack_from(png, place)
        end = place + PNG_CHUNK.size + length
        if zlib.crc32(view[place + 4 : end]).to_bytes(4) != png[end : end + 4]:
            return False
        place = end + 4
    return name == b"IEND" and place == len(png)


def _png_options(facts: ImageFacts) -> dict[str, Any]:
    text = PngInfo()
    text.add_text("parameters", parameters_text(facts))
    text.add_itxt("nightpress", facts_json(facts))
    text.add_itxt("XML:com.adobe.xmp", xmp_packet(facts))
    return {"pnginfo": text, "compress_level": 1, "compress_type": ZLIB_RLE}


def _webp_options(facts: ImageFacts, quality: int | None) -> dict[str, Any]:
    inside = {"xmp": xmp_packet(facts, NO_DIGEST), "exif": _exif(facts)}
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
    packet = xmp_packet(facts, NO_DIGEST)
    if len(XMP_HEADER) + len(packet) <= SEGMENT_BYTES:
        yield _app1(XMP_HEADER + packet)
        return
    extension = xmp_extension(facts)
    guid = hashlib.md5(extension, usedforsecurity=False).hexdigest().upper()
    yield _app1(XMP_HEADER + xmp_main(facts, guid, NO_DIGEST))
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
