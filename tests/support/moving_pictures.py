"""Frames of small clips, and what other programs say about the files of clips."""

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from support.cat_facts import CAT

from nightpress.pipelines.image_files.clips.frames import frames_sha256
from nightpress.pipelines.records import ImageFacts


def moving(num_frames: int = 6, height: int = 32, width: int = 48) -> NDArray[np.uint8]:
    """A square that moves over a gradient; (F, H, W, 3)."""
    y, x = np.mgrid[0:height, 0:width]
    ground = np.stack([x * 5 % 256, y * 7 % 256, (x + y) * 3 % 256], axis=-1).astype(np.uint8)
    frames = np.repeat(ground[None], num_frames, axis=0)
    for number, frame in enumerate(frames):
        left = 1 + number * 3 % (width - 9)
        frame[5:13, left : left + 8] = 250, 40, 20
    return frames


def clip_facts(frames: NDArray[np.uint8], fps: float = 24.0, **changes: Any) -> ImageFacts:
    number, height, width, _ = frames.shape
    return replace(
        CAT,
        **{
            "width": width,
            "height": height,
            "num_frames": number,
            "fps": fps,
            "to_seed": 12,
            "frames_sha256": frames_sha256(frames),
            **changes,
        },
    )


HAS_FFPROBE = shutil.which("ffprobe") is not None


def probed(file: Path) -> dict[str, Any]:
    """What ffprobe says about the first stream of a file, with every frame counted."""
    command = [
        *("ffprobe", "-v", "error", "-count_frames", "-select_streams", "v:0"),
        *("-show_streams", "-show_format", "-of", "json", str(file)),
    ]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    values = json.loads(found)
    return values["streams"][0] | {"tags": values["format"].get("tags", {})}
