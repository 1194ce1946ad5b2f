"""Whether a job can make clips: its file format, its model, and the columns of its manifest."""

from collections.abc import Collection, Iterator

from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.image_files.clips.mp4 import require_av
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.manifest.clips import CLIP_SETTINGS, WALK_COLUMNS, makes_clips

WALK = "nightpress walk JOB makes clips with such a model"


def check_clips(spec: RunSpec, info: ModelInfo, settings: Collection[str]) -> None:
    """Check that what a job makes, clips or still images, fits its file format and its model.

    Args:
        settings: those for which the manifest has a column.

    Raises:
        SpecError: it does not, or what writes the files is not installed.
    """
    problem = next(_problems(spec, info, settings), None)
    if problem is not None:
        raise SpecError(problem)
    if spec.images.format == "mp4":
        require_av("images.format: mp4")


def _problems(spec: RunSpec, info: ModelInfo, settings: Collection[str]) -> Iterator[str]:
    images = spec.images
    if not makes_clips(spec, info, settings):
        for key, value in (("keep", images.keep), ("fps", images.fps)):
            if value:
                yield f"images.{key}: it is for clips, and this job makes still images; {WALK}"
        return
    if info.clips is not None and spec.passes:
        yield "passes: a clip is not sampled again, larger"
    if info.clips is None and not any(name in settings for name in WALK_COLUMNS):
        asked = _asked_by(spec, settings)
        yield (
            f"{asked}: {info.pipeline} makes still images, and the manifest has no column "
            f"to_prompt or to_seed to walk to; {WALK}"
        )
    if images.format in ("png", "jpeg"):
        who = f"{_asked_by(spec, settings)} asks for"
        if info.clips is not None:
            who = f"{info.pipeline} makes"
        yield (
            f"images.format: a {images.format} file holds one image, but {who} clips; use mp4 or "
            "webp"
        )
    if images.quality is not None:
        yield "images.quality: clips are lossless in webp; take it out, or use mp4"
    if spec.provenance.sign is not None:
        yield "provenance.sign: clips are not signed; take it out"


def _asked_by(spec: RunSpec, settings: Collection[str]) -> str:
    """What says that the job makes clips."""
    if spec.sampling.num_frames is not None:
        return "sampling.num_frames"
    named = next((name for name in CLIP_SETTINGS if name in settings), None)
    return "images.format: mp4" if named is None else f"the column {named}"
