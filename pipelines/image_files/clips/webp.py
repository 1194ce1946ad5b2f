"""Lossless animated WebP: one frame in the file for each frame of the clip.

Reference: developers.google.com/speed/webp/docs/riff_container, "Animation". libwebp's own
animation encoder joins equal frames, so that a file has fewer frames than its clip.
"""

import struct
from collections.abc import Iterator
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nightpress.pipelines.image_files.clips.frames import Frames, durations_ms

LOSSLESS_METHOD = 1
"""As for still images: 0 makes flat art ten times larger; 4 saves a tenth, but is slower."""

ANIMATED, HAS_XMP, HAS_EXIF = 0x02, 0x04, 0x08
"""Flags of the header."""

REPLACE = 0x02
"""Flag of a frame: its pixels replace those below, and stay for the next frame."""

CHUNK = struct.Struct("<4sI")


def encode_webp(frames: Frames, fps: float, exif: bytes | None, xmp: bytes | None) -> bytes:
    """A lossless animated WebP file that repeats for ever; equal arguments give equal bytes.

    A frame holds only the rectangle that differs from the frame before it.

    Args:
        frames: (F, H, W, 3), RGB.
        fps: frames a second.
        exif, xmp: metadata; None for none.
    """
    _, height, width, _ = frames.shape
    flags = ANIMATED | (HAS_XMP if xmp else 0) | (HAS_EXIF if exif else 0)
    body = [
        _chunk(b"VP8X", struct.pack("<I", flags) + _uint24(width - 1) + _uint24(height - 1)),
        _chunk(b"ANIM", struct.pack("<IH", 0, 0)),
        *_frame_chunks(frames, fps),
    ]
    if exif:
        body.append(_chunk(b"EXIF", exif.removeprefix(b"Exif\0\0")))
    if xmp:
        body.append(_chunk(b"XMP ", xmp))
    content = b"WEBP" + b"".join(body)
    return CHUNK.pack(b"RIFF", len(content)) + content


def _frame_chunks(frames: Frames, fps: float) -> Iterator[bytes]:
    before: NDArray[np.uint8] | None = None
    for frame, duration in zip(frames, durations_ms(len(frames), fps), strict=True):
        top, bottom, left, right = _changed(before, frame)
        data = _lossless(frame[top:bottom, left:right])
        place = [left // 2, top // 2, right - left - 1, bottom - top - 1, duration]
        yield _chunk(b"ANMF", b"".join(map(_uint24, place)) + bytes([REPLACE]) + data)
        before = frame


def _changed(
    before: NDArray[np.uint8] | None, frame: NDArray[np.uint8]
) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of what differs from the frame before; offsets are even."""
    height, width, _ = frame.shape
    if before is None:
        return 0, height, 0, width
    differs = (before != frame).any(axis=2)
    rows, columns = np.flatnonzero(differs.any(axis=1)), np.flatnonzero(differs.any(axis=0))
    if not len(rows):
        return 0, 1, 0, 1
    top, left = int(rows[0]) & ~1, int(columns[0]) & ~1
    return top, int(rows[-1]) + 1, left, int(columns[-1]) + 1


def _lossless(pixels: NDArray[np.uint8]) -> bytes:
    """The image chunk of a lossless still, as a frame of an animation holds it."""
    file = BytesIO()
    Image.fromarray(pixels).save(file, "WEBP", lossless=True, method=LOSSLESS_METHOD)
    data = file.getvalue()
    name, size = CHUNK.unpack_from(data, 12)
    assert name == b"VP8L", name  # noqa: S101 - without transparency there is no other chunk
    return data[12 : 12 + CHUNK.size + size + size % 2]


def _chunk(name: bytes, content: bytes) -> bytes:
    return CHUNK.pack(name, len(content)) + content + bytes(len(content) % 2)


def _uint24(value: int) -> bytes:
    return value.to_bytes(3, "little")
