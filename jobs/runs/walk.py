"""`walk`: a clip from each row of a job to the next, by a model of still images."""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from nightpress.jobs.progress.events import Message
from nightpress.jobs.runs.input_session import with_input_root
from nightpress.jobs.runs.runner import RunResult, run
from nightpress.jobs.runs.shared import OnEvent, ignore
from nightpress.jobs.runs.table_manifest import TableManifest, readable_manifest
from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.formatting import plural
from nightpress.pipelines.image_files.clips.mp4 import has_av
from nightpress.pipelines.job.images_section import Format, ImagesSpec
from nightpress.pipelines.job.spec import MAX_SEED, RunSpec
from nightpress.pipelines.manifest.clips import WALK_COLUMNS
from nightpress.pipelines.manifest.columns import resolve_columns
from nightpress.pipelines.manifest.frames import Frame
from nightpress.pipelines.models.files import ModelFiles
from nightpress.pipelines.planning import check
from nightpress.pipelines.planning.checking import scan_all
from nightpress.pipelines.planning.walk_rows import walk_rows

DEFAULT_NUM_FRAMES = 24
SUFFIX = "-walk"
"""What the name of the job gets for its walk."""


@dataclass(frozen=True)
class WalkOptions:
    """What was asked for; None leaves it to the job, or to the defaults."""

    num_frames: int | None = None
    fps: float | None = None
    to_seed: int | None = None
    """The seed that every clip ends at; None to walk from each row to the next."""
    format: Format | None = None


def walk(
    spec: RunSpec,
    on_event: OnEvent = ignore,
    options: WalkOptions = WalkOptions(),
    *,
    manifest: Frame | None = None,
    take_over: bool = False,
    deadline_at: float | None = None,
) -> RunResult:
    """Make a clip from each row of a job to the next, or resume that; the run is `<name>-walk`.

    Rows that have a `to_prompt` or a `to_seed` of their own walk there. Otherwise each row walks to
    the prompt and seed of the next one, so that one clip ends with the frame that the next begins
    with; or all to one seed, with their own prompts.

    Args:
        spec: a job of still images.
        on_event, take_over, deadline_at: as for `run`.
        options: what was asked for.
        manifest: a pyarrow Table, or a pandas or polars frame, instead of the job's `manifest`.

    Raises:
        SpecError: the options, or a job that cannot be walked over.
        ManifestError, ModelError, StoreError and the others: as `run` raises them.
    """
    _check(options)
    table = None if manifest is None else TableManifest.of(manifest)
    job = walking_job(spec, options)
    with readable_manifest(spec, table) as readable:
        settings = resolve_columns(readable, scan_all(readable)).settings
        if walked := [name for name in WALK_COLUMNS if name in settings]:
            _require_no_seed_beside(walked, options)
            rows = manifest
        else:
            rows = _rows(readable, options)
            job = job.model_copy(update={"columns": {}, "manifest": []})
    for line in _said(spec, job, rows):
        on_event(Message(line))
    return run(job, on_event, manifest=rows, take_over=take_over, deadline_at=deadline_at)


def _require_no_seed_beside(walked: Sequence[str], options: WalkOptions) -> None:
    if options.to_seed is not None:
        raise SpecError(
            "--to-seed: the manifest says where its rows walk to, by "
            f"{' and '.join(walked)}; leave out one of the two"
        )


def walking_job(spec: RunSpec, options: WalkOptions) -> RunSpec:
    """The job of a walk, without its rows.

    Raises:
        SpecError: its name or its images would not be valid.
    """
    values = spec.as_dict()
    sampling, images = values["sampling"], values["images"]
    frames = options.num_frames or sampling["num_frames"] or DEFAULT_NUM_FRAMES
    kind = options.format or _format(spec.images)
    name = spec.images.file_name
    changed = {
        "format": kind,
        "quality": None,
        "fps": options.fps or images["fps"],
        "file_name": None if name is None else f"{name.rpartition('.')[0]}.{kind}",
    }
    values |= {
        "name": f"{spec.name}{SUFFIX}",
        "sampling": sampling | {"num_frames": frames, "num_images": 1},
        "images": images | changed,
        "gates": None,
    }
    return RunSpec.from_record(values, "walk")


def _check(options: WalkOptions) -> None:
    if options.to_seed is not None and not 0 <= options.to_seed <= MAX_SEED:
        raise SpecError(f"--to-seed: {options.to_seed} is not between 0 and 2^53 - 1")


def _format(images: ImagesSpec) -> Format:
    if images.format in ("mp4", "webp"):
        return images.format
    return "mp4" if has_av() else "webp"


def _rows(spec: RunSpec, options: WalkOptions) -> pa.Table:
    """The rows of a walk over a job of still images."""
    spec = with_input_root(still_job(spec))
    info = ModelFiles.locate(spec.model, spec.storage).describe(spec.model)
    return walk_rows(spec, info, check(spec, info), options.to_seed)


def still_job(spec: RunSpec) -> RunSpec:
    """The job as one of still images, whatever format it asks for."""
    images = ImagesSpec() if spec.images.format == "mp4" else spec.images
    images = images.model_copy(update={"fps": None, "keep": (), "file_name": None})
    images = images.model_copy(update={"format": "png", "quality": None})
    sampling = spec.sampling.model_copy(update={"num_frames": None})
    return spec.model_copy(update={"images": images, "sampling": sampling})


def _said(spec: RunSpec, job: RunSpec, rows: Frame | None) -> list[str]:
    """What a person should know before the walk begins."""
    number = f"{plural(len(rows), 'clip')} of " if isinstance(rows, pa.Table) else ""
    lines = [
        f"walk: {number}{job.sampling.num_frames} frames, as {job.images.format}, in {job.url}"
    ]
    if spec.sampling.num_images > 1:
        lines.append("walk: one clip for each row; sampling.num_images is not used")
    if spec.gates is not None:
        lines.append("walk: gates are not applied, as other seeds would end elsewhere")
    return lines
