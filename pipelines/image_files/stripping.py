"""Take all metadata out of an image file, and put an XMP packet in; the pixels stay as they are.

Nothing is decoded or compressed again, so a lossy file loses nothing.
References: PNG specification (third edition), section 11; ITU-T T.81, annex B; WebP container
specification, "Extended file format"; XMP specification part 3, section 1.1.
"""

import struct
import zlib
from collections.abc import Iterator
from io import BytesIO

from PIL import Image

from nightpress.pipelines.image_files.content_credentials.parts import (
    AFTER_IHDR,
    JPEG_APP0,
    JPEG_SCAN,
    JPEG_SEGMENT,
    JPEG_START,
    PNG_CHUNK,
    PNG_SIGNATURE,
    RIFF_CHUNK,
    RIFF_HEADER_BYTES,
)
from nightpress.pipelines.image_files.embedded_metadata import AI_GENERATED, CREATOR, xmp_of
from nightpress.pipelines.image_files.encoding import XMP_HEADER, read_facts

MARKING = xmp_of(
    (
        f"<xmp:CreatorTool>{CREATOR}</xmp:CreatorTool>",
        f"<Iptc4xmpExt:DigitalSourceType>{AI_GENERATED}</Iptc4xmpExt:DigitalSourceType>",
    ),
    {
        "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
        "xmp": "http://ns.adobe.com/xap/1.0/",
        "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    },
)
"""XMP that says only that a trained model made the picture."""


PNG_METADATA = {b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"tIME", b"caBX"}

JPEG_METADATA = {*range(0xFFE1, 0xFFF0), 0xFFFE} - {0xFFE2, 0xFFEE}
"""APP1 to APP15 and comments, but for colour profiles (APP2) and Adobe's colour transform (APP14),
which decide the colours."""

WEBP_METADATA = {b"EXIF", b"XMP ", b"C2PA"}
WEBP_EXTENDED = struct.Struct("<B3x3s3s")
"""Flags, then width and height less one, each in 24 bits."""
HAS_EXIF, HAS_XMP = 0x08, 0x04


def stripped(data: bytes, packet: bytes | None = None) -> bytes:
    """An image file without metadata, but for an XMP packet.

    Args:
        data: an intact PNG, JPEG or WebP file.
        packet: what to put in, at most 65,502 bytes for a JPEG.

    Raises:
        ValueError: another format, or the file ends early.
    """
    try:
        if data.startswith(PNG_SIGNATURE):
            return _png(data, packet)
        if data.startswith(JPEG_START):
            return _jpeg(data, packet)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp(data, packet)
    except struct.error as error:
        raise ValueError("the image file ends early") from error
    raise ValueError("not a PNG, WebP or JPEG file")


def without_facts(data: bytes) -> bytes:
    """An image file that tells no prompt, only that a model made it.

    One that tells no prompt already stays as it is.

    Raises:
        ValueError: another format, or the file ends early.
    """
    return data if read_facts(data) is None else stripped(data, MARKING)


def _png(data: bytes, packet: bytes | None) -> bytes:
    kept = [PNG_SIGNATURE]
    offset = len(PNG_SIGNATURE)
    while offset < len(data):
        length, name = PNG_CHUNK.unpack_from(data, offset)
        end = _end(data, offset + PNG_CHUNK.size + length + 4)
        if name not in PNG_METADATA:
            kept.append(data[offset:end])
        if end == AFTER_IHDR and packet is not None:
            kept.append(_png_text(packet))
        offset = end
    return b"".join(kept)


def _end(data: bytes, end: int) -> int:
    """The end of a part of a file, which must lie in the file."""
    if end > len(data):
        raise ValueError("the image file ends early")
    return end


def _png_text(packet: bytes) -> bytes:
    body = b"iTXtXML:com.adobe.xmp\0\0\0\0\0" + packet
    return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))


def _jpeg(data: bytes, packet: bytes | None) -> bytes:
    kept, xmp = [JPEG_START], b"" if packet is None else _app1(XMP_HEADER + packet)
    for marker, start, end in _jpeg_segments(data):
        if xmp and marker != JPEG_APP0:  # JFIF's own segment comes first
            kept.append(xmp)
            xmp = b""
        if marker not in JPEG_METADATA:
            kept.append(data[start:end])
    return b"".join(kept)


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of each segment; the scan and all behind it count as one."""
    offset = len(JPEG_START)
    while True:
        marker, length = JPEG_SEGMENT.unpack_from(data, offset)
        if marker == JPEG_SCAN:
            yield marker, offset, len(data)
            return
        if marker < 0xFF00:
            raise ValueError("not a JPEG segment")
        yield marker, offset, offset + 2 + length
        offset += 2 + length


def _app1(content: bytes) -> bytes:
    return JPEG_SEGMENT.pack(0xFFE1, len(content) + 2) + content


def _webp(data: bytes, packet: bytes | None) -> bytes:
    chunks = [(name, body) for name, body in _webp_chunks(data) if name not in WEBP_METADATA]
    if packet is not None:
        chunks = [*_extended(data, chunks), (b"XMP ", packet)]
    elif chunks[0][0] == b"VP8X":
        flags = chunks[0][1][0] & ~(HAS_EXIF | HAS_XMP)
        chunks[0] = (b"VP8X", bytes([flags]) + chunks[0][1][1:])
    parts = [
        RIFF_CHUNK.pack(name, len(body)) + body + bytes(len(body) % 2) for name, body in chunks
    ]
    content = b"WEBP" + b"".join(parts)
    return RIFF_CHUNK.pack(b"RIFF", len(content)) + content


def _extended(data: bytes, chunks: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The chunks of a file in the extended format, which says that it has XMP."""
    if chunks[0][0] == b"VP8X":
        flags = chunks[0][1][0] & ~HAS_EXIF | HAS_XMP
        return [(b"VP8X", bytes([flags]) + chunks[0][1][1:]), *chunks[1:]]
    with Image.open(BytesIO(data), formats=("WEBP",)) as image:
        sides = ((side - 1).to_bytes(3, "little") for side in image.size)
    return [(b"VP8X", WEBP_EXTENDED.pack(HAS_XMP, *sides)), *chunks]


def _webp_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    _end(data, RIFF_CHUNK.size + RIFF_CHUNK.unpack_from(data)[1])
    offset = RIFF_HEADER_BYTES
    while offset < len(data):
        name, length = RIFF_CHUNK.unpack_from(data, offset)
        start = offset + RIFF_CHUNK.size
        yield name, data[start : _end(data, start + length)]
        offset = start + length + length % 2
