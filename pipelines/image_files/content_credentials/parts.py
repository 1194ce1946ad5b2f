"""Where a credential lies in PNG, JPEG and WebP files: put it in, find it, take it out.

Taking out what was put in gives back the bytes that were there before.
Reference: C2PA Technical Specification 2.2, appendix A.3, "Embedding manifests into various file
formats".
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_CHUNK = struct.Struct(">I4s")
"""Start of a chunk: size of its content, and its name, which the checksum covers as well."""

PNG_CREDENTIAL = b"caBX"
AFTER_IHDR = 33
"""Offset behind the first chunk of a PNG file, whose size is fixed."""

JPEG_START, JPEG_APP0, JPEG_APP11, JPEG_SCAN = b"\xff\xd8", 0xFFE0, 0xFFEB, 0xFFDA
JPEG_SEGMENT = struct.Struct(">HH")
JPEG_BOX = struct.Struct(">2sHI")
"""Common identifier, number of the box, and number of the piece from 1."""
BOX_HEADER_BYTES = 8
"""Every piece of a box but the first repeats the box's header."""
MAX_JPEG_STORE = 65_535 - 2 - JPEG_BOX.size
"""Bytes of the largest store that fits one segment; larger ones are read but not written."""

RIFF_CHUNK = struct.Struct("<4sI")
RIFF_HEADER_BYTES = 12
WEBP_CREDENTIAL = b"C2PA"


@dataclass(frozen=True)
class SignedFile:
    """A file with a credential, in its two parts."""

    unsigned: bytes
    """The file without the credential."""
    store: bytes
    """The credential: a C2PA manifest store, which is a JUMBF box."""
    start: int
    """Offset of the part that holds it."""
    length: int
    """Bytes of that part, with the headers of its container."""


def credential_size(unsigned: bytes, store_bytes: int) -> int:
    """Bytes that a store of this size adds to a file."""
    if unsigned.startswith(PNG_SIGNATURE):
        return PNG_CHUNK.size + store_bytes + 4
    if unsigned.startswith(JPEG_START):
        return JPEG_SEGMENT.size + JPEG_BOX.size + store_bytes
    return RIFF_CHUNK.size + store_bytes + store_bytes % 2


def credential_start(unsigned: bytes) -> int:
    """Offset at which the credential goes in.

    Raises:
        ValueError: not a PNG, JPEG or WebP file.
    """
    if unsigned.startswith(PNG_SIGNATURE) and unsigned[12:16] == b"IHDR":
        return AFTER_IHDR
    if unsigned.startswith(JPEG_START) and len(unsigned) > 6:
        marker, length = JPEG_SEGMENT.unpack_from(unsigned, 2)
        return 4 + length if marker == JPEG_APP0 else 2
    if _is_webp(unsigned):
        return len(unsigned)
    raise ValueError("only PNG, JPEG and WebP files can hold a credential")


def covered(unsigned: bytes, added_bytes: int) -> bytes:
    """The signed file without its credential, which is what the credential's hash covers.

    A WebP file states its size, so it differs from the unsigned one.
    """
    return _with_riff_size(unsigned, added_bytes) if _is_webp(unsigned) else unsigned


def with_store(unsigned: bytes, store: bytes) -> bytes:
    """Put a credential into a file.

    Raises:
        ValueError: not a PNG, JPEG or WebP file, or the store is too large for one JPEG segment.
    """
    start = credential_start(unsigned)
    if unsigned.startswith(PNG_SIGNATURE):
        body = PNG_CREDENTIAL + store
        part = struct.pack(">I", len(store)) + body + struct.pack(">I", zlib.crc32(body))
    elif unsigned.startswith(JPEG_START):
        if len(store) > MAX_JPEG_STORE:
            raise ValueError(f"a credential of {len(store):,} bytes; a JPEG segment holds 65,525")
        head = JPEG_SEGMENT.pack(JPEG_APP11, 2 + JPEG_BOX.size + len(store))
        part = head + JPEG_BOX.pack(b"JP", 1, 1) + store
    else:
        part = RIFF_CHUNK.pack(WEBP_CREDENTIAL, len(store)) + store + bytes(len(store) % 2)
    rest = covered(unsigned, len(part))
    return rest[:start] + part + rest[start:]


def split(data: bytes) -> SignedFile | None:
    """The two parts of a file with a credential; None if it has none, or is no such image."""
    try:
        if data.startswith(PNG_SIGNATURE):
            return _split_png(data)
        if data.startswith(JPEG_START):
            return _split_jpeg(data)
        return _split_webp(data) if _is_webp(data) else None
    except struct.error:  # it ends early
        return None


def without_credential(data: bytes) -> bytes:
    """The bytes that a file had before it was signed; the file itself if it was not."""
    parts = split(data)
    return data if parts is None else parts.unsigned


def _split_png(data: bytes) -> SignedFile | None:
    offset = len(PNG_SIGNATURE)
    while offset + PNG_CHUNK.size <= len(data):
        length, name = PNG_CHUNK.unpack_from(data, offset)
        end = offset + PNG_CHUNK.size + length + 4
        if name == PNG_CREDENTIAL:
            store = data[offset + PNG_CHUNK.size : end - 4]
            return SignedFile(data[:offset] + data[end:], store, offset, end - offset)
        offset = end
    return None


def _split_jpeg(data: bytes) -> SignedFile | None:
    """Pieces of a box stand one behind the other."""
    pieces, first, last = list[bytes](), 0, 0
    for start, end, piece in _jumbf_segments(data):
        if pieces and start != last:
            break
        first = first if pieces else start
        pieces.append(piece[BOX_HEADER_BYTES:] if pieces else piece)
        last = end
    if not pieces:
        return None
    return SignedFile(data[:first] + data[last:], b"".join(pieces), first, last - first)


def _jumbf_segments(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Start, end and content of each segment that holds a piece of a JUMBF box."""
    offset = len(JPEG_START)
    while offset + JPEG_SEGMENT.size <= len(data):
        marker, length = JPEG_SEGMENT.unpack_from(data, offset)
        end = offset + 2 + length
        if marker == JPEG_SCAN or marker < 0xFF00 or length < 2 or end > len(data):
            return
        content = data[offset + JPEG_SEGMENT.size : end]
        is_box = content.startswith(b"JP") and content[JPEG_BOX.size + 4 :].startswith(b"jumb")
        if marker == JPEG_APP11 and is_box:
            yield offset, end, content[JPEG_BOX.size :]
        offset = end


def _split_webp(data: bytes) -> SignedFile | None:
    offset = RIFF_HEADER_BYTES
    while offset + RIFF_CHUNK.size <= len(data):
        name, length = RIFF_CHUNK.unpack_from(data, offset)
        end = offset + RIFF_CHUNK.size + length + length % 2
        if name == WEBP_CREDENTIAL and end <= len(data):
            store = data[offset + RIFF_CHUNK.size :][:length]
            rest = data[:offset] + data[end:]
            return SignedFile(_with_riff_size(rest, offset - end), store, offset, end - offset)
        offset = end
    return None


def _is_webp(data: bytes) -> bool:
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def _with_riff_size(data: bytes, added_bytes: int) -> bytes:
    """A WebP file that states a larger or smaller size than it did."""
    (size,) = struct.unpack_from("<I", data, 4)
    return data[:4] + struct.pack("<I", (size + added_bytes) % 2**32) + data[8:]
