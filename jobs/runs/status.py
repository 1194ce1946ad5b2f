"""`status`: the progress of a run or a training run, read from its store alone."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from nightpress.diffusion_core.errors import one_line
from nightpress.jobs.runs.any_targets import Target, open_any
from nightpress.pipelines.errors import PipelineError, StoreError
from nightpress.pipelines.job.cost_section import Cost
from nightpress.pipelines.reporting.pick_rates import PickRates, pick_rates
from nightpress.pipelines.reporting.scores import RunScores, run_scores
from nightpress.pipelines.run_directory.lease import Holder, last_holder
from nightpress.pipelines.run_directory.log import cost_of, read_starts
from nightpress.pipelines.run_directory.reader import Run, RunProgress
from nightpress.pipelines.storage import Options, Store
from nightpress.pipelines.training.runs import TrainingProgress, TrainingRun
from nightpress.pipelines.training.spec import TrainSpec


@dataclass(frozen=True)
class ModelStatus:
    """How far the images of one of several models are."""

    name: str
    """What rows call it."""
    source: str
    fingerprint: str
    num_images: int
    num_done: int
    """Images in committed shards."""


@dataclass(frozen=True)
class RunStatus:
    """The status of a run of images."""

    url: str
    created_at: str
    """UTC, ISO 8601."""
    holder: Holder | None
    """The process that may be working on the run, by the last heartbeat in the store."""
    model: str
    model_fingerprint: str
    progress: RunProgress
    num_starts: int
    """Starts whose log can be read."""
    actor_s: float
    """Seconds of all actors in all starts, by their logs."""
    gpu_s: float
    """Seconds of all GPUs in all starts, by their logs."""
    cost: Cost | None
    """What the starts have cost, by their logs; None if the job has no `cost`."""
    log_error: str | None = None
    """Why the log cannot be read, so that starts and costs are unknown."""
    num_editions: int = 0
    """How often the run was extended."""
    num_gone: int = 0
    """Images of the run that its manifest did not plan any more when it was extended last."""
    scorers: Mapping[str, str] = field(default_factory=dict)
    """Name -> fingerprint of what scores its images; late scorers are not among them."""
    scores: RunScores = field(default_factory=RunScores)
    """How the scores of its images are distributed, late ones included."""
    scores_error: str | None = None
    """Why the scores cannot be read."""
    has_gates: bool = False
    pick_rates: PickRates | None = None
    """What reviewers picked under the policy `any`; None if nobody has marked an image."""
    pick_rates_error: str | None = None
    """Why the marks cannot be read."""
    models: tuple[ModelStatus, ...] = ()
    """Each model, if there are several."""


@dataclass(frozen=True)
class TrainingStatus:
    """The status of a training run."""

    url: str
    created_at: str
    """UTC, ISO 8601."""
    holder: Holder | None
    """The process that may be working on the run, by the last heartbeat in the store."""
    recipe: str
    """`autoencoder`, `denoiser` or `lora`."""
    num_images: int
    """Training images."""
    job_steps: int | None
    """The steps that the given job asks for, if the latest start was asked for another number."""
    progress: TrainingProgress


def status(target: Target, *, storage: Options | None = None) -> RunStatus | TrainingStatus:
    """Read the status of a run or a training run.

    Everything is read from the store; the machine that works on the run is not contacted.

    Args:
        target: the URL of a run directory, a job, or an opened run.
        storage: fsspec options by protocol, for a URL; a job has its own.

    Returns:
        Its progress, and which process may be working on it.

    Raises:
        RunNotFound: there is no run.
        StoreError: the store does not answer.
        CheckpointError: the metrics of a training run are damaged.
    """
    opened = open_any(target, storage)
    held_by = _live_holder(opened.store)
    if isinstance(opened, TrainingRun):
        return _training_status(opened, held_by, target)
    return _run_status(opened, held_by)


def _run_status(run: Run, held_by: Holder | None) -> RunStatus:
    progress, log_error = run.progress(), None
    try:
        starts = read_starts(run.store)
    except StoreError as error:
        starts, log_error = [], one_line(error)
    scores, scores_error = RunScores(), None
    try:
        scores = run_scores(run)
    except StoreError as error:
        scores_error = one_line(error)
    rates, rates_error = _pick_rates(run)
    return RunStatus(
        url=run.url,
        created_at=run.record.created_at,
        holder=held_by,
        model=run.record.model.source,
        models=_models(run) if run.record.models else (),
        model_fingerprint=run.record.model.fingerprint,
        progress=progress,
        num_starts=len(starts),
        actor_s=sum(each.actor_s for each in starts),
        gpu_s=sum(each.gpu_s for each in starts),
        cost=cost_of(starts, progress.num_done),
        log_error=log_error,
        num_editions=len(run.record.editions),
        num_gone=run.record.num_gone,
        scorers=run.record.scorers,
        scores=scores,
        scores_error=scores_error,
        has_gates=run.spec.gates is not None,
        pick_rates=rates,
        pick_rates_error=rates_error,
    )


def _pick_rates(run: Run) -> tuple[PickRates | None, str | None]:
    """The pick rates, or why they cannot be read; `status` tells the rest either way."""
    try:
        return pick_rates(run), None
    except PipelineError as error:
        return None, one_line(error)


def _models(run: Run) -> tuple[ModelStatus, ...]:
    layout, done = run.record.layout, Counter[str | None]()
    for shard in run.committed:
        done[layout.model_of(shard)] += layout.shard_images(shard)
    return tuple(
        ModelStatus(
            name=each.name,
            source=each.info.source,
            fingerprint=each.info.fingerprint,
            num_images=layout.of_model(each.name).num_images,
            num_done=done[each.name],
        )
        for each in run.record.models
    )


def _training_status(run: TrainingRun, held_by: Holder | None, target: Target) -> TrainingStatus:
    asked = run.spec.training.max_train_steps
    steps = target.training.max_train_steps if isinstance(target, TrainSpec) else asked
    return TrainingStatus(
        url=run.url,
        created_at=run.record.created_at,
        holder=held_by,
        recipe=run.recipe,
        num_images=run.record.num_images,
        job_steps=None if steps == asked else steps,
        progress=run.progress(),
    )


def _live_holder(store: Store) -> Holder | None:
    holder = last_holder(store)
    return None if holder is None or holder.is_dead else holder
