"""Files of images and clips: encode pixels with embedded facts, and read the facts back.

Equal pixels and facts give equal bytes. A file contains checksums or a digest of itself, so that it
can be checked without its metadata row.
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

from nightpress.diffusion_core.errors import one_line
from nightpress.pipelines.image_files.clips.frames import is_clip
from nightpress.pipelines.image_files.clips.mp4 import encode_mp4
from nightpress.pipelines.image_files.clips.mp4_boxes import is_mp4, xmp_box
from nightpress.pipelines.image_files.clips.reading import open_mp4
from nightpress.pipelines.image_files.clips.webp import encode_webp
from nightpress.pipelines.image_files.content_credentials import can_check
from nightpress.pipelines.image_files.content_credentials.parts import (
    PNG_CHUNK,
    PNG_SIGNATURE,
    split,
)
from nightpress.pipelines.image_files.embedded_metadata import (
    DIGEST_MARK,
    DIGEST_NAME,
    Embedded,
    SealedFacts,
    embedded_from_json,
    embedded_from_xmp,
    embedded_json,
    parameters_text,
    xmp_extension,
    xmp_main,
    xmp_packet,
)
from nightpress.pipelines.job.images_section import ImagesSpec
from nightpress.pipelines.job.provenance_section import Embed
from nightpress.pipelines.records import ImageFacts

JPEG_QUALITY = 95

ZLIB_RLE = 3
"""A zlib strategy: about the file size of level 6 on typical images, in a third of the time."""

WEBP_LOSSLESS_METHOD = 1
"""From 0 to 6. Method 0 makes flat art ten times larger; 4 saves a tenth, but is slower."""

SEGMENT_BYTES = 65_533
"""The most that one segment of a JPEG file holds."""

TIFF_LONG, TIFF_UNDEFINED = 4, 7
"""Types of EXIF values: a 32-bit number, and bytes whose meaning depends on the tag."""

XMP_HEADER = b"http://ns.adobe.com/xap/1.0/\0"
XMP_EXTENSION_HEADER = b"http://ns.adobe.com/xmp/extension/\0"
EXTENSION_PREFIX = struct.Struct(">32sII")
"""GUID, size of the whole extension in bytes, offset of this piece."""

NO_DIGEST = "0" * 64
"""Takes the place of a file's SHA-256 while that is computed."""

BROKEN = (OSError, SyntaxError, IndexError, TypeError, struct.error)
"""What Pillow raises for a file that violates its format."""

MAX_REASON = 200
"""Characters of another library's error in an error message."""


def encode(
    pixels: np.ndarray, facts: ImageFacts, images: ImagesSpec, embed: Embed = "full"
) -> bytes:
    """Encode the file of an image or a clip with embedded facts.

    Args:
        pixels: uint8 (H, W, 3), RGB; (F, H, W, 3) for a clip.
        facts: the facts of the image.
        images: format and quality.
        embed: whether the file has the facts, only what stands for them, or no metadata.
    """
    embedded = _embedded(facts, embed)
    if is_clip(pixels):
        data = _encoded_clip(pixels, facts, images, embedded)
        return data if embedded is None else _with_digest(data)
    image, file = Image.fromarray(pixels), BytesIO()
    match images.format:
        case "png":
            image.save(file, "PNG", **_png_options(embedded))
            return file.getvalue()
        case "webp":
            image.save(file, "WEBP", **_webp_options(embedded, images.quality))
        case "jpeg":
            image.save(file, "JPEG", **_jpeg_options(embedded, images.quality))
    return file.getvalue() if embedded is None else _with_digest(file.getvalue())


def _encoded_clip(
    frames: np.ndarray, facts: ImageFacts, images: ImagesSpec, embedded: Embedded | None
) -> bytes:
    """The file of a clip, with a place for its digest."""
    if facts.fps is None:
        raise ValueError(f"{facts.image_id}: a clip without a frame rate")
    xmp = None if embedded is None else xmp_packet(embedded, NO_DIGEST)
    if images.format == "webp":
        exif = _exif(embedded) if isinstance(embedded, ImageFacts) else None
        return encode_webp(frames, facts.fps, exif, xmp)
    if images.format != "mp4":
        raise ValueError(f"{facts.image_id}: {images.format} files hold one image, not a clip")
    tags = {} if embedded is None else {"nightpress": embedded_json(embedded)}
    if isinstance(embedded, ImageFacts):
        tags["comment"] = parameters_text(embedded)
    return encode_mp4(frames, facts.fps, tags) + (b"" if xmp is None else xmp_box(xmp))


def _embedded(facts: ImageFacts, embed: Embed) -> Embedded | None:
    match embed:
        case "full":
            return facts
        case "minimal":
            return SealedFacts.of(facts)
        case "none":
            return None


def opened(data: bytes) -> Image.Image:
    """Open a PNG, WebP, JPEG or MP4 file without decoding its pixels; a context manager.

    A clip opens as its first frame, and has the attribute `n_frames`.

    Raises:
        ValueError: another format, or too large to decode safely.
    """
    if is_mp4(data):
        return open_mp4(data)
    try:
        return Image.open(BytesIO(data), formats=("PNG", "WEBP", "JPEG"))
    except Image.DecompressionBombError as error:
        raise ValueError("its header claims more pixels than any image should have") from error
    except BROKEN as error:
        raise ValueError("not a PNG, WebP, JPEG or MP4 file") from error
    except ValueError as error:  # such as compressed text that expands without bound
        raise ValueError(f"invalid image: {one_line(error, MAX_REASON)}") from error


def decoded(data: bytes) -> Image.Image:
    """Open and decode a PNG, WebP or JPEG file, or the first frame of a clip.

    Raises:
        ValueError: another format, truncated, invalid, or too large to decode safely.
        SpecError: it is an MP4 file, and what decodes it is not installed.
    """
    image = opened(data)
    try:
        image.load()
    except (*BROKEN, ValueError) as error:
        raise ValueError(f"truncated or invalid image: {one_line(error, MAX_REASON)}") from error
    return image


def read_facts(data: bytes) -> ImageFacts | None:
    """The facts embedded in an image file; None if there are none, or it is not an image file."""
    found = read_embedded(data)
    return found if isinstance(found, ImageFacts) else None


def read_embedded(data: bytes) -> Embedded | None:
    """The facts embedded in an image file, or what stands for them; None if it has neither."""
    try:
        image = opened(data)
    except ValueError:
        return None
    with image:
        chunk = image.info.get("nightpress")
        if isinstance(chunk, str):
            return embedded_from_json(chunk)
        for packet in xmp_packets(image):
            found = embedded_from_xmp(packet)
            if found is not None:
                return found
    return None


def is_whole(data: bytes) -> bool:
    """Whether the checksums in an image file show that every bit is as it was written.

    A PNG file has a checksum for each of its chunks; the other formats hold a digest of the whole
    file, but for its credential, which must be valid. A file without a digest is not known to be
    whole, nor is one with the credential of another program.
    """
    if data.startswith(PNG_SIGNATURE):
        return _has_valid_checksums(data)
    parts = split(data)
    if parts is not None:
        return _is_intact(parts.unsigned) and _is_valid_if_checked(data)
    return _is_intact(data)


def _is_intact(data: bytes) -> bool:
    """Whether a file without a credential matches its digest."""
    digest = data[_digest_slice(data)]
    return bool(digest) and digest == _own_digest(data)


def _is_valid_if_checked(data: bytes) -> bool:
    """Whether a credential is valid; False where the packages that check it are not installed."""
    if not can_check():
        return False
    from nightpress.pipelines.image_files.content_credentials import validation

    return validation.has_valid_credential(data)


def without_digest(data: bytes) -> bytes:
    """The bytes of a file without its digest; sizes stored in the file stay as they are."""
    digest = _digest_slice(data)
    if not digest.stop:
        return data
    rest = data[: digest.start - len(DIGEST_NAME)] + data[digest.stop + len('"') :]
    return rest + bytes(len(rest) % 2)  # WebP pads to an even size


def _with_digest(data: bytes) -> bytes:
    digest = _digest_slice(data)
    return data[: digest.start] + _own_digest(data) + data[digest.stop :]


def _own_digest(data: bytes) -> bytes:
    """SHA-256, in hex digits, of a file with `NO_DIGEST` in place of its digest."""
    digest = _digest_slice(data)
    blank = data[: digest.start] + NO_DIGEST.encode() + data[digest.stop :]
    return hashlib.sha256(blank).hexdigest().encode()


def _digest_slice(data: bytes) -> slice:
    """Where the digest lies in a file; `slice(0, 0)` if there is none.

    The last mark counts: a prompt in EXIF, which comes before the XMP, may contain another.
    """
    mark = data.rfind(DIGEST_MARK)
    start = mark + len(DIGEST_MARK)
    return slice(start, start + len(NO_DIGEST)) if mark >= 0 else slice(0, 0)


def _has_valid_checksums(png: bytes) -> bool:
    """Whether a PNG file consists of chunks with valid checksums and ends with IEND.

    Reference: PNG specification (third edition), section 5.3, "Chunk layout".
    """
    view, offset, name = memoryview(png), len(PNG_SIGNATURE), b""
    while name != b"IEND" and offset + PNG_CHUNK.size <= len(png):
        length, name = PNG_CHUNK.unpack_from(png, offset)
        end = offset + PNG_CHUNK.size + length
        if zlib.crc32(view[offset + 4 : end]).to_bytes(4) != png[end : end + 4]:
            return False
        offset = end + 4
    return name == b"IEND" and offset == len(png)


def _png_options(facts: Embedded | None) -> dict[str, Any]:
    text = PngInfo()
    if isinstance(facts, ImageFacts):
        text.add_text("parameters", parameters_text(facts))
    if facts is not None:
        text.add_itxt("nightpress", embedded_json(facts))
        text.add_itxt("XML:com.adobe.xmp", xmp_packet(facts))
    return {"pnginfo": text, "compress_level": 1, "compress_type": ZLIB_RLE}


def _webp_options(facts: Embedded | None, quality: int | None) -> dict[str, Any]:
    embedded = {} if facts is None else {"xmp": xmp_packet(facts, NO_DIGEST)}
    if isinstance(facts, ImageFacts):
        embedded["exif"] = _exif(facts)
    if quality is None:
        return {"lossless": True, "method": WEBP_LOSSLESS_METHOD, **embedded}
    return {"quality": quality, **embedded}


def _jpeg_options(facts: Embedded | None, quality: int | None) -> dict[str, Any]:
    """Options for JPEG, with full colour resolution: drawings have edges between pure colours."""
    options: dict[str, Any] = {"quality": quality or JPEG_QUALITY, "subsampling": "4:4:4"}
    if isinstance(facts, ImageFacts):
        exif = _exif(facts)
        if len(exif) <= SEGMENT_BYTES:
            options["exif"] = exif
    return options if facts is None else options | {"extra": b"".join(_xmp_segments(facts))}


def _exif(facts: ImageFacts) -> bytes:
    """EXIF with the A1111 parameters as the user comment, where readers expect them outside PNG.

    It has two directories with one entry each: the image directory points to the EXIF directory,
    which holds the comment.
    """
    comment = b"UNICODE\0" + parameters_text(facts).encode("utf-16-be")
    exif_pointer = (1, ExifTags.IFD.Exif, TIFF_LONG, 1, 26, 0)
    user_comment = (1, ExifTags.Base.UserComment, TIFF_UNDEFINED, len(comment), 44, 0)
    head = struct.pack(">2sHI HHHIII HHHIII", b"MM", 42, 8, *exif_pointer, *user_comment)
    return b"Exif\0\0" + head + comment


def _xmp_segments(facts: Embedded) -> Iterator[bytes]:
    """APP1 segments with the XMP packet, split into a main part and extension pieces if it is long.

    References: XMP specification part 3, section 1.1.3.1, "Extended XMP in JPEG".
    """
    packet = xmp_packet(facts, NO_DIGEST)
    if len(XMP_HEADER) + len(packet) <= SEGMENT_BYTES:
        yield _app1(XMP_HEADER + packet)
        return
    extension = xmp_extension(facts)
    guid = hashlib.md5(extension, usedforsecurity=False).hexdigest().upper()
    yield _app1(XMP_HEADER + xmp_main(facts, guid, NO_DIGEST))
    piece_bytes = SEGMENT_BYTES - len(XMP_EXTENSION_HEADER) - EXTENSION_PREFIX.size
    for offset in range(0, len(extension), piece_bytes):
        prefix = EXTENSION_PREFIX.pack(guid.encode(), len(extension), offset)
        yield _app1(XMP_EXTENSION_HEADER + prefix + extension[offset : offset + piece_bytes])


def _app1(content: bytes) -> bytes:
    return struct.pack(">HH", 0xFFE1, len(content) + 2) + content


def xmp_packets(image: Image.Image) -> Iterator[bytes]:
    """The XMP packets of an opened file, an extension of a JPEG's joined."""
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
