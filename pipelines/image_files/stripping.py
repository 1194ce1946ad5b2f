"""Image files without what their embedded metadata tells, with the same pixels.

The content of a PNG, JPEG or WebP file is copied chunk by chunk and never decoded. What stays is
what decides colours, and XMP that says that a model made the picture.
"""

import struct
import zlib
from collections.abc import Iterator

from nightpress.pipelines.image_files.embedded_metadata import AI_GENERATED, CREATOR
from nightpress.pipelines.image_files.encoding import (
    PNG_CHUNK,
    PNG_SIGNATURE,
    XMP_HEADER,
    read_facts,
)

PNG_KEPT = frozenset(
    (
        *(b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"cHRM", b"gAMA", b"iCCP", b"sBIT"),
        *(b"sRGB", b"cICP", b"mDCV", b"cLLI", b"bKGD", b"pHYs"),
    )
)
"""Chunks that decide how a picture looks. Reference: PNG specification (third edition), 5.6."""

WEBP_KEPT = frozenset((b"VP8 ", b"VP8L", b"ALPH", b"ICCP", b"ANIM", b"ANMF"))
"""Reference: developers.google.com/speed/webp/docs/riff_container."""

RIFF_HEADER_BYTES = 8

VP8X_XMP, VP8X_EXIF = 0x04, 0x08
"""Flags in the extended header of a WebP file: which metadata it has."""

JPEG_SOI, JPEG_SOS, JPEG_COM = 0xD8, 0xDA, 0xFE
JPEG_APP0, JPEG_APP1, JPEG_APP2, JPEG_APP14 = 0xE0, 0xE1, 0xE2, 0xEE

_NAMESPACES = (
    'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" '
    'xmlns:xmp="http://ns.adobe.com/xap/1.0/" '
    'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
)

MARKING = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
    f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF {_NAMESPACES}><rdf:Description rdf:about="">\n'
    f"<xmp:CreatorTool>{CREATOR}</xmp:CreatorTool>\n"
    f"<Iptc4xmpExt:DigitalSourceType>{AI_GENERATED}</Iptc4xmpExt:DigitalSourceType>\n"
    "</rdf:Description></rdf:RDF></x:xmpmeta>\n"
    '<?xpacket end="r"?>'
).encode()
"""XMP that says only that a trained model made the picture."""


def stripped(data: bytes) -> bytes:
    """A PNG, JPEG or WebP file with no metadata but the marking as made by a model.

    Stripping what is stripped already changes nothing.

    Raises:
        ValueError: another format, or not whole.
    """
    if data.startswith(PNG_SIGNATURE):
        return b"".join([PNG_SIGNATURE, *_png_chunks(data)])
    if data.startswith(b"\xff\xd8"):
        return b"".join(_jpeg_segments(data))
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data)
    raise ValueError("not a PNG, WebP or JPEG file")


def without_facts(data: bytes) -> bytes:
    """An image file that tells no prompt; one that tells none already stays as it is.

    Raises:
        ValueError: another format, or not whole.
    """
    return data if read_facts(data) is None else stripped(data)


def _png_chunks(data: bytes) -> Iterator[bytes]:
    offset, is_marked, name = len(PNG_SIGNATURE), False, b""
    while name != b"IEND":
        if offset + PNG_CHUNK.size > len(data):
            raise ValueError("truncated PNG file")
        length, name = PNG_CHUNK.unpack_from(data, offset)
        end = offset + PNG_CHUNK.size + length + 4
        if name == b"IDAT" and not is_marked:
            is_marked = True
            yield _png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + MARKING)
        if name in PNG_KEPT:
            yield data[offset:end]
        offset = end


def _png_chunk(name: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(name + content)
    return PNG_CHUNK.pack(len(content), name) + content + checksum.to_bytes(4)


def _jpeg_segments(data: bytes) -> Iterator[bytes]:
    """The segments up to the first scan without metadata, then the rest as it is.

    JFIF, colour profiles and Adobe's colour transform stay. Reference: ITU-T T.81, B.1.1.
    """
    yield data[:2]
    content = XMP_HEADER + MARKING
    marking, offset = struct.pack(">HH", 0xFF00 | JPEG_APP1, len(content) + 2) + content, 2
    while True:
        if offset + 4 > len(data) or data[offset] != 0xFF:
            raise ValueError("truncated or invalid JPEG file")
        marker, (length,) = data[offset + 1], struct.unpack_from(">H", data, offset + 2)
        if marker == JPEG_SOS:
            yield marking + data[offset:]
            return
        segment = data[offset : offset + 2 + length]
        if marking and marker != JPEG_APP0:  # right behind JFIF, where readers look for XMP
            yield marking
            marking = b""
        if _is_kept(marker, segment[4:]):
            yield segment
        offset += 2 + length


def _is_kept(marker: int, content: bytes) -> bool:
    if marker == JPEG_APP2:
        return content.startswith(b"ICC_PROFILE\0")
    is_application = JPEG_APP0 <= marker <= 0xEF
    return marker in (JPEG_APP0, JPEG_APP14) or not (is_application or marker == JPEG_COM)


def _webp(data: bytes) -> bytes:
    if len(data) < RIFF_HEADER_BYTES + struct.unpack_from("<I", data, 4)[0]:
        raise ValueError("truncated WebP file")
    chunks = dict[bytes, list[bytes]]()
    body = list[bytes]()
    for name, content in _riff_chunks(data):
        chunks.setdefault(name, []).append(content)
        if name in WEBP_KEPT:
            body.append(_riff_chunk(name, content))
    header = chunks.get(b"VP8X", [b""])[0]
    if header:  # without it, the format has no place for metadata
        header = bytes([header[0] & ~VP8X_EXIF | VP8X_XMP]) + header[1:]
        body = [_riff_chunk(b"VP8X", header), *body, _riff_chunk(b"XMP ", MARKING)]
    content = b"WEBP" + b"".join(body)
    return b"RIFF" + struct.pack("<I", len(content)) + content


def _riff_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    offset = 12
    while offset + 8 <= len(data):
        name, (length,) = data[offset : offset + 4], struct.unpack_from("<I", data, offset + 4)
        if offset + 8 + length > len(data):
            raise ValueError("truncated WebP file")
        yield name, data[offset + 8 : offset + 8 + length]
        offset += 8 + length + length % 2


def _riff_chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)
