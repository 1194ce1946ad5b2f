"""The frames in the file of a clip against its metadata."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.image_files.clips.frames import frames_sha256
from nightpress.pipelines.image_files.clips.reading import frames_in
from nightpress.pipelines.job.images_section import ImagesSpec
from nightpress.pipelines.manifest.clips import makes_clips
from nightpress.pipelines.manifest.columns import resolve_columns
from nightpress.pipelines.run_directory.reader import Run


def has_clips(run: Run) -> bool:
    """Whether a run makes clips, with any of its models."""
    settings = resolve_columns(run.record.spec, run.record.manifest).settings
    models = run.record.each_model
    return any(makes_clips(each.spec, each.model, settings) for each in models)


def refuse_clips(run: Run, what: str) -> None:
    """Refuse a run of clips where only still images are understood.

    Args:
        what: what takes still images, such as `nightpress deliver`.

    Raises:
        SpecError: the run makes clips.
    """
    if has_clips(run):
        raise SpecError(
            f"{run.url}: these are clips, and {what} takes still images; the files of the clips "
            "are in the run's folder images, and what is known of them in its metadata"
        )


def wrong_frames(
    data: bytes, num_frames: int, values: Mapping[str, Any], images: ImagesSpec
) -> str | None:
    """How the frames in a file differ from its metadata row; None if they do not.

    All are decoded. Those of a lossless file must have the recorded hash; H.264 changes pixels, so
    of an MP4 file they are counted.

    Args:
        data: the file.
        num_frames: how many frames its header says; 1 for a still image.
        values: the metadata row.

    Raises:
        ValueError, OSError: a frame cannot be decoded.
    """
    expected = values["num_frames"] or 1
    if num_frames != expected:
        return f"{num_frames} frames, but the plan has {expected}"
    if values["num_frames"] is None:
        return None
    if not images.is_lossless:
        number = sum(1 for _ in frames_in(data))
        return None if number == expected else f"{number} frames can be decoded of {expected}"
    digest = frames_sha256(np.stack(list(frames_in(data))))
    if digest == values["frames_sha256"]:
        return None
    return f"frames with sha256 {digest[:12]}, but recorded are {values['frames_sha256'][:12]}"
