"""Pictures as files in memory: random pixels, odd formats, colour profiles, bombs."""

import io
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image


def random_picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """A picture in which every pixel has a colour of its own."""
    colours = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(colours)


def smooth_picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """A picture without sharp edges, which survives a lossy format."""
    return random_picture(4, 3, seed).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, format_: str = "PNG", **options: Any) -> bytes:
    """The bytes of a file."""
    file = io.BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


def png(width: int, height: int, seed: int = 0) -> bytes:
    """The file of a random picture."""
    return encoded(random_picture(width, height, seed))


def claimed_png(width: int, height: int) -> bytes:
    """A sound PNG file whose header claims a size, and which holds next to nothing."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    chunks = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"\0")), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


DISPLAY_P3 = (
    (0.51512, 0.29198, 0.15710),
    (0.24120, 0.69225, 0.06657),
    (-0.00105, 0.04189, 0.78407),
)
"""Linear Display P3 -> XYZ under D50; the columns are red, green and blue."""


def rgb_profile(matrix: Sequence[Sequence[float]], gamma: float) -> bytes:
    """An ICC profile, version 2, of a display with these primaries and one power for each channel.

    Reference: ICC.1:2001-04, section 6.
    """

    def s15_fixed_16(value: float) -> bytes:
        return struct.pack(">i", round(value * 65_536))

    def xyz(values: Sequence[float]) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(map(s15_fixed_16, values))

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    name = b"test\0"
    described = b"desc\0\0\0\0" + struct.pack(">I", len(name)) + name + b"\0" * 79
    columns = [[row[number] for row in matrix] for number in range(3)]
    tags = {
        b"desc": described + b"\0" * (-len(described) % 4),
        b"cprt": b"text\0\0\0\0none\0\0\0\0",
        b"wtpt": xyz((0.9642, 1.0, 0.8249)),
        **{
            name: xyz(column)
            for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns, strict=True)
        },
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve),
    }
    table, data, offset = b"", b"", 128 + 4 + 12 * len(tags)
    for tag, content in tags.items():
        table += tag + struct.pack(">II", offset + len(data), len(content))
        data += content
    body = struct.pack(">I", len(tags)) + table + data
    head = struct.pack(">I4sI", 128 + len(body), b"\0\0\0\0", 0x0210_0000) + b"mntrRGB XYZ "
    head += b"\0" * 12 + b"acsp" + b"\0" * 28 + b"".join(map(s15_fixed_16, (0.9642, 1.0, 0.8249)))
    return head + b"\0" * (128 - len(head)) + body
