"""The first pass over a manifest: check every row and count every image, without writing anything.

Files are scanned and split into units of work, and each unit is checked by itself. `mapper` is the
built-in `map`, or a function that sends the same calls to other machines.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from nightpress.diffusion_core.sampling.schedulers import max_steps
from nightpress.diffusion_core.theory.spacing import evenly_spaced
from nightpress.pipelines.errors import ManifestError, Problem, SpecError
from nightpress.pipelines.job.page_columns import group_problem
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.manifest.columns import Columns, reserved_columns, resolve_columns
from nightpress.pipelines.manifest.file_records import ManifestFile
from nightpress.pipelines.manifest.files import scan
from nightpress.pipelines.manifest.formats import CAMPAIGN
from nightpress.pipelines.manifest.job_models import JobModel, ModelInfos, job_models
from nightpress.pipelines.manifest.prompt_checks import PromptChecker
from nightpress.pipelines.manifest.prompt_counts import PromptCounts
from nightpress.pipelines.manifest.row_problems import first_problems, with_lines
from nightpress.pipelines.manifest.rows import Defaults
from nightpress.pipelines.planning.clips import check_clips
from nightpress.pipelines.planning.duplicates import Mapper, duplicates
from nightpress.pipelines.planning.layout import PlanLayout, PlanPart, SettingsCount, part_path
from nightpress.pipelines.planning.named_inputs import joined
from nightpress.pipelines.planning.order import order_of
from nightpress.pipelines.planning.passes import check_passes
from nightpress.pipelines.planning.planner import Planner
from nightpress.pipelines.planning.sources import manifest_sources
from nightpress.pipelines.planning.units import (
    MAX_SETTINGS,
    SAMPLE_FILES,
    ModelSettings,
    UnitReport,
    WorkUnit,
    check_unit,
    split_into_units,
)
from nightpress.pipelines.storage import Options, Source

MIN_SHARD_IMAGES, MAX_SHARD_IMAGES = 16, 1_024
MAX_PACKED_IMAGES = 256
"""Limits what an actor holds in memory for one shard, and what an interruption costs."""

ONE_SIZE: Mapping[str, int] = {}
"""The batch sizes of several models, if there are none, or all have the same."""

SHARDS_WANTED = 256
"""Enough shards that no actor waits long for the last one, few enough that commits cost little."""


def check(spec: RunSpec, info: ModelInfos, batch_size: int = 1, mapper: Mapper = map) -> PlanLayout:
    """Check a whole manifest and lay out its plan.

    Args:
        info: of the model, or of each of several.
        batch_size: images sampled at once; see `cut_into_shards`.
        mapper: like `map`; its arguments are picklable.

    Returns:
        The plan; the pictures that it names are checked by `check_inputs`.

    Raises:
        SpecError: the job's settings do not suit the model or the columns.
        ManifestError: the manifest has problems; holds the first twenty and their total number.
        StoreError: the manifest cannot be read.
    """
    models = job_models(spec, info)
    for model in models:
        _check_settings(model)
    files = scan_all(spec, mapper)
    _check_group_column(spec, resolve_columns(spec, files))
    return check_files(spec, info, files, batch_size, mapper)


def check_files(
    spec: RunSpec,
    info: ModelInfos,
    files: Sequence[ManifestFile],
    batch_size: int = 1,
    mapper: Mapper = map,
) -> PlanLayout:
    """Check manifest files that have been scanned, and lay out their plan; see `check`."""
    columns = resolve_columns(spec, files)
    models = job_models(spec, info)
    for model in models:
        check_clips(model.spec, model.info, columns.settings)
        _check_sizes(model, columns)
    planner = Planner(spec, info, columns)
    if any(file.format == CAMPAIGN for file in files):
        from nightpress.pipelines.planning.campaign_checks import check_campaigns

        files = check_campaigns(models, planner.template, files)
    order = tuple(map(str, order_of(spec, columns)))
    units = split_into_units(planner, files)
    if not units:
        raise ManifestError([Problem(files[0].url, None, None, "the manifest has no rows")])
    reports = [report.in_own_memory() for report in mapper(check_unit, units)]
    _refuse_problems(reports, files, spec.storage)
    _refuse_one_name(planner, reports)
    for kind in ("ids", "names"):
        problems, total = duplicates(
            kind, units, [getattr(report, kind) for report in reports], mapper
        )
        if kind == "names":
            shared = [report.shared_name for report in reports if report.shared_name is not None]
            first = with_lines(shared[:1], files, spec.storage)
            problems, total = [*first, *problems], total + len(first)
        if problems:
            raise ManifestError(problems, total)
    uncut = replace(_uncut(files, units, reports), order=order)
    return cut_into_shards(spec, uncut, batch_size)


def cut_into_shards(
    spec: RunSpec,
    layout: PlanLayout,
    batch_size: int,
    of_models: Mapping[str, int] = ONE_SIZE,
) -> PlanLayout:
    """Cut a plan into shards for a batch size; an automatic shard size is a multiple of it.

    Args:
        batch_size: the largest, if there are several models.
        of_models: the batch size of each of several models.
    """
    if isinstance(spec.batch.shard_size, int):
        return layout.in_shards(spec.batch.shard_size, batch_size, of_models)
    most = MAX_PACKED_IMAGES if spec.images.is_packed else MAX_SHARD_IMAGES
    wanted = min(max(layout.num_images // SHARDS_WANTED, MIN_SHARD_IMAGES), most)
    return layout.in_shards(-(-wanted // batch_size) * batch_size, batch_size, of_models)


def _check_settings(model: JobModel) -> None:
    """Check the job's defaults against what a model supports."""
    spec, info = model.spec, model.info
    job = spec.sampling
    for key, value in (("width", job.width), ("height", job.height)):
        multiple = math.lcm(info.size_multiple, spec.images.size_multiple)
        if value is not None and (value % multiple or value > spec.images.max_side):
            rule = f"a multiple of {multiple} up to {spec.images.max_side:,}"
            raise SpecError(
                f"{model.told(f'sampling.{key}')}: {value} is not {rule}, as this model and "
                f"images.format {spec.images.format} require"
            )
    if job.scheduler not in (None, "default", *info.samplers):
        allowed = ", ".join(("default", *(s for s in info.samplers if s != "default")))
        raise SpecError(
            f"{model.told('sampling.scheduler')}: {job.scheduler!r} does not work with "
            f"this model; choose one of: {allowed}"
        )
    most = max_steps(job.scheduler or "default", info.max_steps)
    if job.num_inference_steps is not None and job.num_inference_steps > most:
        raise SpecError(
            f"{model.told('sampling.num_inference_steps')}: {job.num_inference_steps} steps are "
            f"more than the {most} that {job.scheduler or 'the model'} allows"
        )
    if job.guidance_scale is not None and job.guidance_scale > 1 and not info.takes_guidance:
        raise SpecError(
            f"{model.told('sampling.guidance_scale')}: this model takes no guidance; "
            f"{job.guidance_scale:g} would have no effect"
        )
    if job.negative_prompt.strip() and not info.takes_negative_prompt:
        raise SpecError(
            f"{model.told('sampling.negative_prompt')}: this model takes no negative prompt"
        )
    check_passes(model)
    problem = PromptChecker(spec.model.prompts, info.prompts).problem(job.negative_prompt)
    if problem is not None:
        raise SpecError(f"{model.told('sampling.negative_prompt')}: {problem}")


def _check_group_column(spec: RunSpec, columns: Columns) -> None:
    """Check that the images will have the column by which the review page stacks them."""
    if spec.review.group_by is None:
        return
    carried = [each.name for each in columns.carried]
    if (problem := group_problem(spec.review.group_by, carried)) is not None:
        raise SpecError(f"review.group_by: {problem}")


def _check_sizes(model: JobModel, columns: Columns) -> None:
    defaults = Defaults.of(model.spec, model.info)
    for key in ("width", "height"):
        if getattr(defaults, key) is None and key not in columns.settings:
            raise SpecError(
                f"{model.told(f'sampling.{key}')}: not set, and neither the model nor the manifest "
                f"gives a {key}"
            )


def scan_all(spec: RunSpec, mapper: Mapper = map) -> list[ManifestFile]:
    """Scan all files of a job's manifest.

    Raises:
        ManifestError: files or some of their records cannot be read.
        StoreError: the manifest cannot be found or read.
    """
    calls = [(source, spec.storage) for source in manifest_sources(spec)]
    files: list[ManifestFile] = []
    errors: list[ManifestError] = []
    for result in mapper(scan_or_error, calls):
        if isinstance(result, ManifestError):
            errors.append(result)
        else:
            files.append(result)
    if errors:
        problems = first_problems(error.problems for error in errors)
        raise ManifestError(problems, sum(error.total for error in errors))
    if reserved := reserved_columns(files):
        raise ManifestError(reserved)
    return files


def scan_or_error(call: tuple[Source, Options]) -> ManifestFile | ManifestError:
    """Scan one file; returns its ManifestError, so that every file's problems can be reported.

    A top-level function, so that it can be pickled.
    """
    try:
        return scan(*call)
    except ManifestError as error:
        return error


def _refuse_problems(
    reports: Sequence[UnitReport], files: Sequence[ManifestFile], options: Options
) -> None:
    total = sum(report.num_problems for report in reports)
    if total:
        problems = first_problems(report.problems for report in reports)
        raise ManifestError(with_lines(problems, files, options), total)


def _refuse_one_name(planner: Planner, reports: Sequence[UnitReport]) -> None:
    """Refuse a file name that is the same for all images, however many rows there are."""
    num_images = sum(num for report in reports for of in report.parts for _, num in of)
    if num_images > 1 and not planner.template.fields:
        text = planner.template.text
        why = f"all {num_images:,} images would have this name; add {{image_id}} to it"
        raise SpecError(f"images.file_name: {text!r}: {why}")


def _uncut(
    files: Sequence[ManifestFile], units: Sequence[WorkUnit], reports: Sequence[UnitReport]
) -> PlanLayout:
    """The plan with one image per shard, all parts of a model together."""
    parts: list[PlanPart] = []
    first = 0
    for number, model in enumerate(units[0].planner.models):
        for index, (unit, report) in enumerate(zip(units, reports, strict=True)):
            row = unit.first_row
            for num_rows, num_images in report.parts[number]:
                path = part_path(len(parts))
                sizes = row, num_rows, num_images, first, num_images
                parts.append(PlanPart(path, index, *sizes, model=model.name))
                row += num_rows
                first += num_images
    names = [name for report in reports for name in report.sample_files]
    return PlanLayout(
        tuple(parts),
        1,
        _batches(units[0].planner, reports),
        tuple(files),
        sample_files=tuple(evenly_spaced(names, SAMPLE_FILES)),
        prompts=sum((report.prompts for report in reports), PromptCounts()),
        modes=sum((report.modes for report in reports), Counter()),
        inputs=joined([report.inputs for report in reports]),
    )


def _batches(planner: Planner, reports: Sequence[UnitReport]) -> tuple[SettingsCount, ...]:
    counts: Counter[ModelSettings] = Counter()
    for report in reports:
        counts.update(report.settings)
    return tuple(
        SettingsCount(settings, number, planner.models[model].name)
        for (model, settings), number in counts.most_common(MAX_SETTINGS)
    )
