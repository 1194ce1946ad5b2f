"""The first pass over a manifest: every row checked, every image counted, nothing written.

Files are surveyed, then cut into units of work, and each unit is checked by itself: `mapper` may
be the builtin `map` or send the same calls to other machines.
"""

from collections import Counter
from collections.abc import Sequence

from nightpress.diffusion_core.models.loading import ModelInfo
from nightpress.diffusion_core.sampling.request import SamplingParams
from nightpress.diffusion_core.sampling.schedulers import max_steps
from nightpress.pipelines.errors import Change, ManifestError, Problem, SpecError
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.manifest.columns import Columns, resolve
from nightpress.pipelines.manifest.files import (
    COMPRESSIONS,
    SUFFIXES,
    ManifestFile,
    Options,
    format_of,
    sha256_of,
    survey,
)
from nightpress.pipelines.manifest.findings import first_of
from nightpress.pipelines.manifest.rows import MAX_PIXELS, Defaults
from nightpress.pipelines.planning.duplicates import Mapper, duplicates
from nightpress.pipelines.planning.images import Planner
from nightpress.pipelines.planning.layout import PlanLayout, PlanPart, SettingsCount
from nightpress.pipelines.planning.units import (
    MAX_SETTINGS,
    Unit,
    UnitReport,
    check_unit,
    cut_units,
)
from nightpress.pipelines.storage import Source, find

MIN_SHARD_IMAGES, MAX_SHARD_IMAGES = 16, 1_024
MAX_PACKED_IMAGES = 256
"""What an actor holds in memory of one shard, and what an interruption costs, are bounded by it."""

SHARDS_WANTED = 256
"""Enough that no actor waits long for the last one, few enough that commits cost little."""


def check(spec: RunSpec, info: ModelInfo, batch_size: int = 1, mapper: Mapper = map) -> PlanLayout:
    """Check a whole manifest and lay out its plan.

    Args:
        batch_size: images sampled at once; see `cut`.
        mapper: like `map`; what it is given is picklable.

    Raises:
        SpecError: the job's own settings do not fit the model or the columns.
        ManifestError: the manifest has problems; the first twenty and their number.
        StoreError: it cannot be read.
    """
    _check_settings(spec, info)
    files = _survey_all(spec, mapper)
    columns = resolve(spec, files)
    _check_sizes(spec, info, columns)
    planner = Planner(spec, info, columns)
    units = cut_units(planner, files)
    if not units:
        raise ManifestError([Problem(files[0].url, None, None, "there are no rows in it")])
    reports = list(mapper(check_unit, units))
    _refuse_problems(reports)
    for kind in ("ids", "names"):
        problems, total = duplicates(
            kind, units, [getattr(report, kind) for report in reports], mapper
        )
        if problems:
            raise ManifestError(problems, total)
    return cut(spec, _uncut(files, units, reports), batch_size)


def cut(spec: RunSpec, layout: PlanLayout, batch_size: int) -> PlanLayout:
    """The plan cut for batches of a size; an automatic shard size is a multiple of it."""
    if isinstance(spec.batch.shard_size, int):
        return layout.in_shards(spec.batch.shard_size, batch_size)
    most = MAX_PACKED_IMAGES if spec.images.is_packed else MAX_SHARD_IMAGES
    wanted = min(max(layout.num_images // SHARDS_WANTED, MIN_SHARD_IMAGES), most)
    return layout.in_shards(-(-wanted // batch_size) * batch_size, batch_size)


def manifest_changes(layout: PlanLayout, spec: RunSpec) -> list[Change]:
    """How the manifest differs from the one that was laid out; empty when it does not.

    Versions are compared first; a file is read only where they differ. The same bytes at another
    place are the same manifest.
    """
    then = {file.url: file for file in layout.files}
    now = {
        source.url: then[source.url].sha256
        if source.url in then and then[source.url].version == source.version
        else sha256_of(source.url, spec.storage)
        for source in _manifest_sources(spec)
    }
    if list(now.values()) == [file.sha256 for file in layout.files]:
        return []
    before = {url: file.sha256 for url, file in then.items()}
    return [
        Change(f"manifest {url}", before.get(url), now.get(url))
        for url in sorted(before.keys() | now.keys())
        if before.get(url) != now.get(url)
    ]


def _check_settings(spec: RunSpec, info: ModelInfo) -> None:
    """What the job says for all rows must fit the model."""
    job = spec.sampling
    for key, value in (("width", job.width), ("height", job.height)):
        if value is not None and (value % info.size_multiple or value > MAX_PIXELS):
            rule = f"a multiple of {info.size_multiple} up to {MAX_PIXELS:,}"
            raise SpecError(f"sampling.{key}: {value} is not {rule}, which this model needs")
    if job.scheduler not in (None, "default", *info.samplers):
        allowed = ", ".join(("default", *(s for s in info.samplers if s != "default")))
        raise SpecError(
            f"sampling.scheduler: {job.scheduler!r} does not fit this model; one of: {allowed}"
        )
    most = max_steps(job.scheduler or "default", info.max_steps)
    if job.num_inference_steps is not None and job.num_inference_steps > most:
        raise SpecError(
            f"sampling.num_inference_steps: {job.num_inference_steps} is more than the "
            f"{most} that {job.scheduler or 'the model'} takes"
        )
    if job.negative_prompt.strip() and not info.takes_negative_prompt:
        raise SpecError("sampling.negative_prompt: this model takes no negative prompt")


def _check_sizes(spec: RunSpec, info: ModelInfo, columns: Columns) -> None:
    defaults = Defaults.of(spec, info)
    for key in ("width", "height"):
        if getattr(defaults, key) is None and key not in columns.settings:
            raise SpecError(
                f"sampling.{key}: not set, and neither the model nor the manifest has one"
            )


def _manifest_sources(spec: RunSpec) -> list[Source]:
    """The manifest's files; others that lie in the same folder are left out."""
    sources: dict[str, Source] = {}
    for url in spec.manifests:
        found = [each for each in find([url], spec.storage) if format_of(each.url) is not None]
        if not found:
            message = (
                f"no manifest by its name, which ends in one of: {', '.join(SUFFIXES)}; "
                f"text formats also with {', '.join(COMPRESSIONS)} behind"
            )
            raise ManifestError([Problem(url, None, None, message)])
        sources |= {each.url: each for each in found}
    return list(sources.values())


def _survey_all(spec: RunSpec, mapper: Mapper) -> list[ManifestFile]:
    calls = [(source, spec.storage) for source in _manifest_sources(spec)]
    files: list[ManifestFile] = []
    errors: list[ManifestError] = []
    for found in mapper(survey_file, calls):
        if isinstance(found, ManifestError):
            errors.append(found)
        else:
            files.append(found)
    if errors:
        problems = first_of(error.problems for error in errors)
        raise ManifestError(problems, sum(error.total for error in errors))
    return files


def survey_file(call: tuple[Source, Options]) -> ManifestFile | ManifestError:
    """Survey one file, its problems returned so that all files' are told; a top-level function."""
    try:
        return survey(*call)
    except ManifestError as error:
        return error


def _refuse_problems(reports: Sequence[UnitReport]) -> None:
    total = sum(report.num_problems for report in reports)
    if total:
        raise ManifestError(first_of(report.problems for report in reports), total)


def _uncut(
    files: Sequence[ManifestFile], units: Sequence[Unit], reports: Sequence[UnitReport]
) -> PlanLayout:
    """The plan with an image a shard."""
    parts: list[PlanPart] = []
    first = 0
    for index, (unit, report) in enumerate(zip(units, reports, strict=True)):
        row = unit.first_row
        for num_rows, num_images in report.parts:
            path = f"plan/part-{len(parts):05d}.parquet"
            parts.append(PlanPart(path, index, row, num_rows, num_images, first, num_images))
            row += num_rows
            first += num_images
    return PlanLayout(tuple(parts), 1, _batches(reports), tuple(files))


def _batches(reports: Sequence[UnitReport]) -> tuple[SettingsCount, ...]:
    counts: Counter[SamplingParams] = Counter()
    for report in reports:
        counts.update(report.settings)
    return tuple(SettingsCount(*each) for each in counts.most_common(MAX_SETTINGS))
