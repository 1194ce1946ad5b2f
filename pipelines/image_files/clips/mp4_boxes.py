"""What an MP4 file says about itself, read from its boxes without a video library.

References: ISO/IEC 14496-12, boxes 4.2, `mdhd` 8.4.2, `stsd` 8.5.2, `stts` 8.6.1, `stsz` 8.7.3;
XMP specification part 3, section 1.2.7, which keeps the packet in a `uuid` box.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

XMP_UUID = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")

SAMPLE_TABLE = (b"moov", b"trak", b"mdia", b"minf", b"stbl")


@dataclass(frozen=True)
class Mp4Shape:
    """The size, length and metadata of a clip in an MP4 file."""

    width: int
    height: int
    num_frames: int
    fps: float
    codec: str
    """Four characters, such as `avc1` for H.264."""
    xmp: bytes | None


def is_mp4(data: bytes) -> bool:
    """Whether a file begins as MP4 files do."""
    return data[4:8] == b"ftyp"


def xmp_box(packet: bytes) -> bytes:
    """A box that holds an XMP packet."""
    return struct.pack(">I4s", 24 + len(packet), b"uuid") + XMP_UUID + packet


def read_shape(data: bytes) -> Mp4Shape:
    """What an MP4 file with one track says about itself.

    Raises:
        ValueError: it is not such a file, or it is cut short.
    """
    try:
        media = _inside(data, SAMPLE_TABLE[:3])
        table = _inside(media, SAMPLE_TABLE[3:])
        entry = _box(table, b"stsd")[8:]
        width, height = struct.unpack_from(">HH", entry, 32)
        (num_frames,) = struct.unpack_from(">I", _box(table, b"stsz"), 8)
        header = _box(media, b"mdhd")
        (timescale,) = struct.unpack_from(">I", header, 20 if header[0] else 12)
        duration = sum(count * delta for count, delta in _run_lengths(_box(table, b"stts")))
        xmp = _xmp(data)
    except (struct.error, IndexError, KeyError) as error:
        raise ValueError("truncated or invalid MP4 file") from error
    fps = num_frames * timescale / duration if duration else 0.0
    return Mp4Shape(width, height, num_frames, fps, entry[4:8].decode("latin-1"), xmp)


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The boxes that some bytes consist of: name and content."""
    offset = 0
    while offset < len(data):
        size, name = struct.unpack_from(">I4s", data, offset)
        header = 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, offset + 8)
            header = 16
        elif size == 0:
            size = len(data) - offset
        if size < header or offset + size > len(data):
            raise KeyError(name)
        yield name, data[offset + header : offset + size]
        offset += size


def _box(data: bytes, wanted: bytes) -> bytes:
    for name, content in _boxes(data):
        if name == wanted:
            return content
    raise KeyError(wanted)


def _inside(data: bytes, path: tuple[bytes, ...]) -> bytes:
    for name in path:
        data = _box(data, name)
    return data


def _run_lengths(stts: bytes) -> Iterator[tuple[int, int]]:
    (number,) = struct.unpack_from(">I", stts, 4)
    for index in range(number):
        count, delta = struct.unpack_from(">II", stts, 8 + 8 * index)
        yield count, delta


def _xmp(data: bytes) -> bytes | None:
    for name, content in _boxes(data):
        if name == b"uuid" and content.startswith(XMP_UUID):
            return content[len(XMP_UUID) :]
    return None
