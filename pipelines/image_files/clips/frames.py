"""The frames of a clip: their hash, and when each is shown."""

import hashlib
from collections.abc import Iterable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.uint8]
"""(F, H, W, 3), RGB."""


def is_clip(pixels: NDArray[np.uint8]) -> bool:
    """Whether an array holds the frames of a clip, (F, H, W, 3), not one image, (H, W, 3)."""
    return pixels.ndim == 4


def first_frame(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The first frame of a clip, or the image itself; (H, W, 3)."""
    return pixels[0] if is_clip(pixels) else pixels


def frames_sha256(frames: Frames) -> str:
    """SHA-256, in hex digits, of a clip's size and raw frames, whatever file they are kept in."""
    number, height, width, _ = frames.shape
    digest = hashlib.sha256(f"{number} x {width} x {height} ".encode())
    digest.update(np.ascontiguousarray(frames).data)
    return digest.hexdigest()


def durations_ms(num_frames: int, fps: float) -> Iterable[int]:
    """How long each frame is shown, in whole milliseconds that never drift from the frame rate."""
    ends = [round(1000 * number / fps) for number in range(num_frames + 1)]
    return (end - start for start, end in pairwise(ends))
