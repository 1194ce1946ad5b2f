"""First frames of clips, stored as PNG files beside them: `images.keep: [first_frame]`."""

import hashlib
from collections.abc import Mapping
from pathlib import PurePosixPath

import numpy as np

from nightpress.pipelines.image_files.clips.frames import first_frame, is_clip
from nightpress.pipelines.image_files.encoding import encode, is_whole, read_embedded
from nightpress.pipelines.job.images_section import ImagesSpec
from nightpress.pipelines.records import ImageFacts
from nightpress.pipelines.run_directory.record import RunRecord
from nightpress.pipelines.storage import Store


def frame_path(file: str) -> str:
    """The path of the first frame beside a clip: `images/a.png` of `images/a.mp4`."""
    return str(PurePosixPath(file).with_suffix(".png"))


def frame_file(file: str, data: bytes) -> Mapping[str, str | int]:
    """What the metadata says about a first frame, as `FRAME_FILE_TYPE`.

    Args:
        file: the clip's path.
        data: the PNG file.
    """
    digest = hashlib.sha256(data).hexdigest()
    return {"file": frame_path(file), "sha256": digest, "num_bytes": len(data)}


def encoded_frame(record: RunRecord, pixels: np.ndarray, facts: ImageFacts) -> bytes | None:
    """The PNG file of a clip's first frame, with the clip's facts; None if the run keeps none.

    Args:
        pixels: (F, H, W, 3); an image, (H, W, 3), has none.
    """
    if "first_frame" not in record.spec.images.keep or not is_clip(pixels):
        return None
    return encode(first_frame(pixels), facts, ImagesSpec(), record.spec.provenance.embed)


def stored_frame(store: Store, record: RunRecord, file: str, clip: bytes) -> bytes | None:
    """The first frame that is stored beside a clip; None if it is missing, damaged or another's.

    Args:
        file: the clip's path.
        clip: the clip's file.
    """
    data = store.read_if_any(frame_path(file))
    if data is None or not is_whole(data) or read_embedded(data) != read_embedded(clip):
        return None
    return data
