"""The actor: a process that holds a loaded model and makes shards.

Images go straight to the store; only small events travel back to the driver.
"""

import logging
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import ray

from nightpress.diffusion_core.acceleration.numerics import fix_numerics
from nightpress.diffusion_core.sampling.request import SamplingParams
from nightpress.diffusion_core.silence_libraries import log_to_stderr, silence_process
from nightpress.diffusion_core.tuning.batch_size import (
    BestBatchSize,
    MeasureBatch,
    find_best_batch_size,
    largest_fitting,
    padding_efficiency,
)
from nightpress.diffusion_core.tuning.candidates import TuningConfig
from nightpress.diffusion_core.tuning.device_name import device_name
from nightpress.diffusion_core.tuning.kept_trials import KeptTrial
from nightpress.diffusion_core.tuning.search import ConfigTrial
from nightpress.jobs.dispatch.memory_needs import Footprint
from nightpress.jobs.dispatch.metrics import ActorMetrics
from nightpress.jobs.dispatch.trial_images import TrialImages, TrialStart
from nightpress.pipelines.image_files.content_credentials.signing_key import SigningKey
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.manifest.job_models import ModelInfos
from nightpress.pipelines.planning import read_shard
from nightpress.pipelines.run_directory.lease import FencingToken
from nightpress.pipelines.run_directory.record import RunRecord
from nightpress.pipelines.scoring.job_scorers import JobScorers, require_same
from nightpress.pipelines.scoring.scorer import LoadedScorer, ScorerInfo
from nightpress.pipelines.shards.batching import PlannedImage
from nightpress.pipelines.shards.events import BatchBegun, ShardBegun, ShardEvent
from nightpress.pipelines.shards.input_history import InputSession
from nightpress.pipelines.shards.timeline import Timeline, TimeSpent
from nightpress.pipelines.shards.work import ShardWork
from nightpress.pipelines.storage import Store

if TYPE_CHECKING:  # they import torch: the actor does, and the driver never
    from nightpress.diffusion_core.sampling.sampler import Sampler
    from nightpress.jobs.dispatch.held_models import HeldModel, ModelSpecs
    from nightpress.jobs.dispatch.preview_images import Sampled
    from nightpress.jobs.dispatch.speed_trials import SpeedTrials
    from nightpress.pipelines.shards.runner import ShardRunner

LOG = logging.getLogger(__name__)
"""What an actor does, in the log that Ray keeps of its process."""

NO_SCORERS = JobScorers()

CONTROL = "control"
"""Concurrency group of the calls that are answered while a shard is being made."""

SHARDS = "shards"
SHARDS_AT_ONCE = 2
"""One shard is sampled while the one before it is stored or the one after it is read."""

MAX_SPANS = 100_000
"""How many spans of its timeline a traced actor keeps: one or two a batch, so more than a day of
batches of two seconds. A trace says when spans are missing."""


@dataclass(frozen=True)
class ActorLocation:
    """Where an actor runs."""

    node_id: str
    host: str
    pid: int
    differences: tuple[str, ...] = ()
    """Which packages that affect the last bits of pixels have changed since the run began."""
    age_s: float = 0.0
    """Seconds since the process of the actor was ready to load the model."""
    device_name: str | None = None
    """What its device calls itself; see `tuning.device_name`."""


class SamplerActor:
    """Holds one model and samples with it.

    Args:
        spec: the model, or each of several by its name; it samples with one at a time.
        options: fsspec options of the stores that the models may be on.
        device: `cpu` or `cuda`.
        threads: number of torch threads on a CPU, which affects the last bits of pixels; 0 leaves
            it as it is.
        traced: whether to keep the spans of the timeline.
        scorers: score the images that are made.
        share: the actor's share of its device's memory; see `HeldModels`.
    """

    def __init__(
        self,
        spec: "ModelSpecs",
        options: Mapping[str, Any],
        device: str,
        threads: int,
        traced: bool = False,
        scorers: JobScorers = NO_SCORERS,
        share: float = 1.0,
    ) -> None:
        from nightpress.jobs.dispatch.held_models import HeldModels
        from nightpress.pipelines.shards.overlap import TicketLock

        silence_process()
        log_to_stderr()
        self._began = time.monotonic()
        self._models = HeldModels(spec, options, device, share)
        self._device = device
        self._scorers = scorers
        self._loaded_scorers: Mapping[str, LoadedScorer] | None = None
        self._held: HeldModel | None = None
        self._sampler: Sampler | None = None
        self._runner: ShardRunner | None = None
        self._trials: SpeedTrials | None = None
        self._lock = TicketLock()
        self._batch_size = 1
        self._worker = f"{platform.node()}:{os.getpid()}"
        self._metrics = ActorMetrics()
        self._timeline = Timeline(self._worker, MAX_SPANS if traced else 0, self._metrics.add_span)
        # Ray has set the variable, maybe after this process or the one it is a fork of has read it.
        fix_numerics(threads or int(os.environ.get("OMP_NUM_THREADS", 0)))

    def describe(self) -> ModelInfos:
        """Find the models on this node and describe them, without loading them.

        Raises:
            ModelError: one cannot be used, or its files do not hold exactly its weights.
        """
        return self._models.describe()

    def describe_scorers(self) -> Mapping[str, ScorerInfo]:
        """Find the scorers on this node and describe them, without loading them.

        Raises:
            ScorerError: one of them cannot be used.
        """
        return self._scorers.describe()

    def footprint(self) -> Footprint:
        """What the largest model and the scorers on this node take in memory, by their files."""
        import torch

        on_gpu = self._device == "cuda"
        memory = torch.cuda.get_device_properties(0).total_memory if on_gpu else 0
        of_scorers = sum(info.weight_bytes for info in self._scorers.describe().values())
        return self._models.footprint(memory, of_scorers)

    def begin_trials(self, trial: TrialImages) -> TrialStart:
        """Get ready to try faster ways; returns what is known before.

        Raises:
            SamplingError, ModelError: the images cannot be sampled.
        """
        from nightpress.jobs.dispatch.speed_trials import SpeedTrials

        self._trials = SpeedTrials(self._models, trial, self._device)
        return self._trials.start()

    def try_speed(self, config: TuningConfig, known: KeptTrial | None = None) -> ConfigTrial | str:
        """Try a way to sample faster; see `SpeedTrials.measure`."""
        if self._trials is None:
            raise RuntimeError("the actor must begin trials first")
        return self._trials.measure(config, known)

    def load(self, fingerprint: str, batch_size: int, model: str | None = None) -> None:
        """Load a model and the scorers, unless they are loaded already, and use the model.

        Args:
            fingerprint: the `identity` of the run's model.
            batch_size: the largest batch size that will be used.
            model: the name of the model, if the actor has several.

        Raises:
            ModelError: the weights on this node are not those of the run.
            ScorerError: a scorer cannot be loaded.
        """
        self._trials = None  # it may hold another model
        self._held = self._models.use(model, fingerprint, batch_size)
        self._sampler, self._runner = self._held.sampler, self._held.runner
        self._batch_size = self._held.batch_size
        if self._loaded_scorers is None:
            self._loaded_scorers = self._scorers.load(self._device)

    def find_best_batch_size(
        self,
        params: SamplingParams,
        counts: Sequence[int],
        usual: int,
        share: float,
        budget_s: float,
    ) -> BestBatchSize:
        """Measure the best batch size for these settings; see `tuning.batch_size`.

        Args:
            counts: the size of each group of images that can share batches.
            usual: the batch size to use if nothing is measured.
            share: this actor's share of the device's memory.
            budget_s: seconds that measuring may take.
        """
        with self._trial(params, share) as (measure, limit_bytes):
            return find_best_batch_size(
                measure, limit_bytes, usual, budget_s, padding_efficiency(counts)
            )

    def largest_fitting(self, params: SamplingParams, wanted: int, share: float) -> BestBatchSize:
        """Halve the batch size `wanted` until it fits in this actor's share of the memory."""
        with self._trial(params, share, steps=1, rounds=1) as (measure, limit_bytes):
            return largest_fitting(measure, limit_bytes, wanted)

    @contextmanager
    def _trial(
        self, params: SamplingParams, share: float, **effort: int
    ) -> Iterator[tuple[MeasureBatch, int]]:
        """What measures a batch size, and the bytes that a batch may take."""
        from nightpress.diffusion_core.tuning.batch_size_benchmark import batch_benchmark
        from nightpress.diffusion_core.tuning.device_memory import trial_memory

        with trial_memory(self._device, share) as memory:
            yield batch_benchmark(self._loaded, params, memory, **effort), memory.limit_bytes

    @property
    def _loaded(self) -> "Sampler":
        if self._sampler is None:
            raise RuntimeError("the actor must load its model first")
        return self._sampler

    def begin(
        self,
        store: Store,
        record: RunRecord,
        fence: FencingToken | None,
        inputs: InputSession | None = None,
        key: SigningKey | None = None,
        model: str | None = None,
    ) -> ActorLocation:
        """Prepare for the shards of a run, or for those of another of its models.

        Args:
            inputs: what the actors share about the pictures of rows, if there are any.
            key: signs the images, if the run has them signed.
            model: the name of the model, if the run has several.
        """
        record = record.of_model(model)
        self._trials = None
        self._models.settle(model, record.dtype, record.spec.model.ways)
        self.load(record.model.identity, record.batch_size, model)
        self._metrics.set_run(record.spec.name)
        require_same(self._loaded_scorers or {}, record.scorers)
        LOG.info("ready for the run %s, as %s", record.spec.name, self._worker)
        if self._runner is None:
            self._runner = self._new_runner(store, record, fence, inputs, key)
        if self._held is not None:  # not in an actor that is made without a model
            self._held.runner = self._runner
        where = ray.get_runtime_context().get_node_id(), platform.node(), os.getpid()
        differences, age_s = tuple(record.package_differences()), time.monotonic() - self._began
        return ActorLocation(*where, differences, age_s, device_name(self._device))

    def _new_runner(
        self,
        store: Store,
        record: RunRecord,
        fence: FencingToken | None,
        inputs: InputSession | None,
        key: SigningKey | None,
    ) -> "ShardRunner":
        """What makes the shards of the model in use."""
        from nightpress.pipelines.shards.runner import ShardRunner

        scorers, of_run = self._loaded_scorers or {}, (store, record, self._loaded, self._worker)
        return ShardRunner(
            *of_run,
            fence,
            timeline=self._timeline,
            inputs=inputs,
            scorers=scorers,
            key=key,
            lock=self._lock,
        )

    @ray.method(concurrency_group=SHARDS)  # type: ignore[untyped-decorator]
    def run_shard(self, work: ShardWork, ticket: int | None = None) -> Iterator[ShardEvent]:
        """Do the work on a shard; yields its events.

        Args:
            work: what to make.
            ticket: the number of this call, from 0. Calls run side by side and may start in any
                order, but they sample in the order in which the driver reads their events.
        """
        from nightpress.pipelines.shards.overlap import handed_off

        runner = self._runner
        if runner is None:
            raise RuntimeError("the actor must begin a run before it runs a shard")
        with runner.accelerator_lock.ticket(ticket) as number:
            LOG.info("shard %d, attempt %d: %d rows", work.shard, work.attempt, work.num_rows)
            rows = read_shard(runner.store, runner.record.layout, work.shard)
            for event in handed_off(runner.run(work, rows, number), _needs_ack):
                self._metrics.add_event(event)
                yield event
            LOG.info("shard %d, attempt %d has ended", work.shard, work.attempt)

    @ray.method(concurrency_group=CONTROL)  # type: ignore[untyped-decorator]
    def is_stuck(self, ticket: int, scoring_limit_s: float | None = None) -> bool:
        """Whether the call with this ticket is in the middle of a batch, or a scorer hangs; not
        while it stores. See `ShardRunner.is_stuck`."""
        return self._runner is not None and self._runner.is_stuck(ticket, scoring_limit_s)

    @ray.method(concurrency_group=CONTROL)  # type: ignore[untyped-decorator]
    def time_spent(self) -> TimeSpent:
        """How the actor has spent its time so far."""
        return self._timeline.spent()

    @ray.method(concurrency_group=CONTROL)  # type: ignore[untyped-decorator]
    def drain(self) -> None:
        """Make the running shards stop after the current batch."""
        LOG.info("asked to stop after the current batch")
        if self._runner is not None:
            self._runner.drain()

    def sample(
        self, images: Sequence[PlannedImage], spec: RunSpec, url: str
    ) -> Iterator[list["Sampled"]]:
        """Sample images for a preview, without storing them; yields them batch by batch.

        Args:
            images: what to sample.
            spec: the job; says where the pictures are that the images are made from.
            url: URL of the run directory that the job would have.
        """
        from nightpress.jobs.dispatch.preview_images import sample_images

        yield from sample_images(self._loaded, self._batch_size, images, spec, url)


def _needs_ack(event: ShardEvent) -> bool:
    """Whether the driver must receive the event before the actor does what may crash its process.

    The driver blames the loss of a process on the last shard that it had started to sample and, if
    batches are named, on the batch that it had in hand.
    """
    return isinstance(event, ShardBegun | BatchBegun)


RemoteActor = Any
"""The Ray handle of a `SamplerActor`."""


@dataclass(frozen=True)
class ActorFactory:
    """Starts actors of one size for the models of one job."""

    spec: "ModelSpecs"
    options: Mapping[str, Any]
    cpus: float
    gpus: float
    threads: int
    traced: bool = False
    scorers: JobScorers = NO_SCORERS
    memory_bytes: int = 0
    """Memory that each actor reserves on its node; 0 for none."""
    share: float = 1.0
    """Each actor's share of its device's memory, of which it may fill the rest with models."""

    @property
    def device(self) -> str:
        """`cuda` if an actor gets a GPU or a share of one, else `cpu`."""
        return "cuda" if self.gpus > 0 else "cpu"

    def start(self) -> RemoteActor:
        """Start a new actor; it is placed when the cluster has room for it."""
        how = self.device, self.threads, self.traced
        return self._actor.remote(self.spec, self.options, *how, self.scorers, self.share)

    @cached_property
    def _actor(self) -> Any:
        """Cached, because Ray inspects and uploads each new remote class."""
        return remote_actor(SamplerActor, self.cpus, self.gpus, self.memory_bytes)


def remote_actor(
    actor_class: type[SamplerActor], cpus: float, gpus: float, memory_bytes: int = 0
) -> Any:
    """The class as a Ray actor, with concurrency groups for shards and for control calls."""
    groups = {CONTROL: 1, SHARDS: SHARDS_AT_ONCE}
    options = {"max_restarts": 0, "max_task_retries": 0, "concurrency_groups": groups}
    if memory_bytes:
        options["memory"] = memory_bytes
    return ray.remote(num_cpus=cpus, num_gpus=gpus, **options)(actor_class)
