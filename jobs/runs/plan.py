"""`plan`: what a job would make, how large it would be, and how long it would take."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.jobs.dispatch.auto_speed import reason_from_plan
from nightpress.jobs.dispatch.batch_size import resolve_batch_size
from nightpress.jobs.runs.existing_run import FoundRun, RunState, look_for_run, state_of
from nightpress.jobs.runs.extend_options import ExtendOptions
from nightpress.jobs.runs.forecast import Deadline, Forecast, forecast
from nightpress.jobs.runs.gates import PlannedDraws, check_gate_scores, planned_draws
from nightpress.jobs.runs.input_session import with_input_root
from nightpress.jobs.runs.local_models import Weights, weigh_models
from nightpress.jobs.runs.scorers import check_scored_columns
from nightpress.jobs.runs.table_manifest import (
    TableManifest,
    readable_manifest,
    with_kept_table,
)
from nightpress.pipelines.errors import StoreError
from nightpress.pipelines.image_files.content_credentials.setup import with_certificate
from nightpress.pipelines.job.cost_section import Cost
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.manifest.columns import ColumnUse, column_uses
from nightpress.pipelines.manifest.frames import TABLE, Frame
from nightpress.pipelines.manifest.job_models import ModelInfos, job_models
from nightpress.pipelines.manifest.prompt_counts import PromptCounts
from nightpress.pipelines.planning import PlanLayout, SettingsCount, check, check_inputs
from nightpress.pipelines.run_directory.auto_speed import AutoSpeed
from nightpress.pipelines.run_directory.estimate import (
    DrawsOfImage,
    Estimate,
    Rate,
    RateKey,
    draws_by_model,
    estimate,
    mean_of_models,
    rates_of_models,
)
from nightpress.pipelines.scoring.job_scorers import JobScorers, fingerprints_of
from nightpress.pipelines.scoring.scorer import ScorerInfo
from nightpress.pipelines.shards.run_images import EarlierRuns


@dataclass(frozen=True)
class PlannedFile:
    """One file of the manifest."""

    url: str
    format: str
    """`parquet`, `csv`, `tsv`, `jsonl` or `text`."""
    compression: str | None
    num_rows: int
    num_bytes: int
    notes: tuple[str, ...] = ()
    """What a person should know of a campaign: what it left out."""


@dataclass(frozen=True)
class PlannedModel:
    """What one model of a job would make."""

    name: str | None
    """What rows call it; None for the only model of a job with the key `model`."""
    info: ModelInfo
    weights: Weights
    """dtype -> how large its weights are in it."""
    num_images: int
    num_shards: int
    estimate: Estimate | None
    """Time and bytes of these images; None if they are not known."""


@dataclass(frozen=True)
class Plan:
    """What a job would make."""

    url: str
    """URL of the run directory."""
    run_state: RunState
    """How far the run is, if it was started before, and whether this job may resume it."""
    files: tuple[PlannedFile, ...]
    """The manifest's files."""
    columns: tuple[ColumnUse, ...]
    """What each column of the manifest is read as."""
    file_names: tuple[str, ...]
    """A few of the image files, relative to the run directory."""
    num_rows: int
    """Rows of the manifest."""
    num_images: int
    num_shards: int
    shard_size: int
    """Images in a shard, at most."""
    batch_size: int
    model: ModelInfo
    """The model; the first of several."""
    weights: Weights
    """dtype -> how large the weights of this model are in it."""
    models: tuple[PlannedModel, ...]
    """Each model of the job, in its order."""
    batches: tuple[SettingsCount, ...]
    """The most frequent settings, most images first."""
    estimate: Estimate | None
    """Time and bytes; None if no run under the job's output has measured these settings.

    For a run whose manifest has grown, they are those of the images that it has gained."""
    cost: Cost | None
    """Of the estimate, at the job's price; None without one of the two."""
    unread_runs: tuple[str, ...]
    """Why runs under the job's output that cannot be read are left out of the estimate."""
    prompts: PromptCounts
    """Rows whose prompts the model does not take as they are."""
    modes: Mapping[str, int]
    """Mode -> how many images it makes."""
    num_pictures: int
    """Distinct pictures that were checked; 0 if `inputs.check` is none, or the run was begun."""
    scorers: Mapping[str, ScorerInfo]
    """What scores the images, by its name in the job."""
    draws: PlannedDraws | None = None
    """How many draws the images take; None without gates."""
    forecast: Forecast | None = None
    """How far the run gets by the deadline; None without one."""
    auto_speed: tuple[str, ...] = ()
    """What `model.speed: auto` comes to, as far as that is known, of each model that says so."""


def plan(
    spec: RunSpec,
    *,
    manifest: Frame | None = None,
    extend: bool = False,
    changed: str = "refuse",
    deadline_at: float | None = None,
    starts_at: float | None = None,
) -> Plan:
    """Check a job and its whole manifest, and say what it would make, without writing anything.

    Ray is not used: `batch.size: auto` is a CPU's unless `cluster.gpus_per_actor` is set. Only
    `run` checks that the cluster supports `model.speed`, and looks for the signing key.

    Args:
        spec, manifest, extend, changed: as for `run`.
        deadline_at: say how far the run gets by then, started at `starts_at` (s since the epoch).

    Raises:
        SpecError, ManifestError, ModelError: the job, a row, a picture or the model is unusable.
        StoreError: manifest or model cannot be read; `run_state` says so of the output.
    """
    options, spec = ExtendOptions.of(extend, changed), with_certificate(spec)
    found = look_for_run(spec)
    if manifest is None and found.record is not None:
        spec = with_kept_table(spec, found.store)
    table = None if manifest is None else TableManifest.of(manifest)
    with readable_manifest(spec, table) as readable:
        model, weights = weigh_models(spec)
        rooted = with_input_root(readable, found.record)
        layout = _checked(rooted, model, _batch_size(spec), found)
        scorers, speeds = _scorers(spec, layout), _auto_speed(spec, layout, found)
        state = state_of(found, rooted, model, layout, table, options, fingerprints_of(scorers))
        measured = _measured(found, spec, model)
        deadline = None if deadline_at is None else Deadline(deadline_at, starts_at)
        job, rates = (rooted, model, layout), measured.rates
        told = None if deadline is None else forecast(found, state, job, rates, deadline)
        models = _models(spec, model, weights, layout, rates)
        planned = _planned(spec, models, layout, state, measured, table is not None)
        return replace(planned, scorers=scorers, forecast=told, auto_speed=speeds)


def _auto_speed(spec: RunSpec, layout: PlanLayout, found: FoundRun) -> tuple[str, ...]:
    """What `model.speed: auto` has come to in the run, or what the plan tells of it."""
    if found.record is not None:
        return tuple(decision.text for decision in found.record.auto_speed)
    lines = []
    for name, model in zip(spec.model_names, spec.every_model, strict=True):
        if model.speed == "auto" and name in layout.models:
            reason = reason_from_plan(layout.of_model(name).batches)
            undecided = "decided when the run begins, on its first images"
            lines.append(AutoSpeed(name, model.ways, reason or undecided).text)
    return tuple(lines)


def _scorers(spec: RunSpec, layout: PlanLayout) -> Mapping[str, ScorerInfo]:
    """The job's scorers, without loading them, and with their texts checked."""
    check_scored_columns(spec, layout.files)
    infos = JobScorers.of(spec.scores, spec.storage).describe()
    check_gate_scores(spec.gates, infos)
    return infos


def _checked(spec: RunSpec, model: ModelInfos, batch_size: int, found: FoundRun) -> PlanLayout:
    """The layout of the plan, with its pictures checked unless a run that was begun has done so."""
    layout = check(spec, model, batch_size)
    if found.record is not None:
        return layout
    return check_inputs(spec, layout, EarlierRuns(spec.url, spec.storage))


@dataclass(frozen=True)
class _Measured:
    """What earlier runs under the job's output have measured."""

    rates: Mapping[RateKey, Rate] | None
    """None if the store does not answer."""
    unread: tuple[str, ...]
    """Why some of them cannot be read."""
    draws: Mapping[str | None, DrawsOfImage | None] = field(default_factory=dict)
    """Draws of an image of each model with the job's gates; None if that is not known."""


def _measured(found: FoundRun, spec: RunSpec, infos: ModelInfos) -> _Measured:
    if isinstance(found.error, StoreError):
        return _Measured(None, ())
    unread: list[str] = []
    rates = rates_of_models(spec, infos, unread.append)
    draws = {} if spec.gates is None else draws_by_model(spec, infos)
    return _Measured(rates, tuple(unread), draws)


def _planned(
    spec: RunSpec,
    models: tuple[PlannedModel, ...],
    layout: PlanLayout,
    state: RunState,
    measured: _Measured,
    is_table: bool,
) -> Plan:
    to_make = layout if state.growth is None else state.growth.layout
    rates, estimated = measured.rates, None
    if to_make is not None and rates is not None:
        estimated = estimate(to_make.batches, rates)
    return Plan(
        url=spec.url,
        run_state=state,
        files=_planned_files(layout, is_table),
        columns=column_uses(spec, layout.files),
        file_names=layout.sample_files,
        num_rows=layout.num_rows,
        num_images=layout.num_images,
        num_shards=layout.num_shards,
        shard_size=layout.shard_size,
        batch_size=layout.batch_size,
        model=models[0].info,
        weights=models[0].weights,
        models=models,
        batches=layout.batches,
        prompts=layout.prompts,
        modes=layout.modes,
        num_pictures=layout.num_pictures,
        estimate=estimated,
        cost=_cost(spec, estimated, to_make.num_images if to_make else 0),
        unread_runs=measured.unread,
        scorers={},
        draws=_draws(spec, models, to_make, measured),
    )


def _draws(
    spec: RunSpec,
    models: Sequence[PlannedModel],
    to_make: PlanLayout | None,
    measured: _Measured,
) -> PlannedDraws | None:
    names = [model.name for model in models]
    numbers = {n: 0 if to_make is None else to_make.of_model(n).num_images for n in names}
    return planned_draws(spec.gates, sum(numbers.values()), mean_of_models(numbers, measured.draws))


def _models(
    spec: RunSpec,
    infos: ModelInfos,
    weights: Sequence[Weights],
    layout: PlanLayout,
    rates: Mapping[RateKey, Rate] | None,
) -> tuple[PlannedModel, ...]:
    found = []
    for model, sizes in zip(job_models(spec, infos), weights, strict=True):
        own = layout.of_model(model.name)
        told = None if rates is None or not own.parts else estimate(own.batches, rates)
        number = own.num_images, own.num_shards
        found.append(PlannedModel(model.name, model.info, sizes, *number, told))
    return tuple(found)


def _planned_files(layout: PlanLayout, is_table: bool) -> tuple[PlannedFile, ...]:
    return tuple(
        PlannedFile(
            TABLE if is_table else file.url,
            file.format,
            file.compression,
            file.num_rows,
            file.num_bytes,
            file.notes,
        )
        for file in layout.files
    )


def _cost(spec: RunSpec, estimated: Estimate | None, num_images: int) -> Cost | None:
    if estimated is None or spec.cost is None:
        return None
    gpus = spec.cluster.gpus_per_actor
    return spec.cost.of(estimated.actor_s, 1.0 if gpus == "auto" else float(gpus), num_images)


def _batch_size(spec: RunSpec) -> int:
    """`batch.size`, with `auto` resolved as far as possible without a cluster."""
    return resolve_batch_size(spec, "cpu" if spec.cluster.gpus_per_actor in ("auto", 0) else "cuda")
