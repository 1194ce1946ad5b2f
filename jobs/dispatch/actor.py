"""The actor: a process that holds a loaded model and makes shards.

Everything it makes goes to the store; only small events travel back.
"""

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import ray
import torch

from nightpress.diffusion_core.errors import ModelError
from nightpress.diffusion_core.models.loading import ModelInfo, ModelSpec, describe, load
from nightpress.diffusion_core.sampling.request import SamplingParams
from nightpress.diffusion_core.sampling.sampler import Sampler
from nightpress.diffusion_core.tuning.batch_size import (
    BestBatchSize,
    find_best_batch_size,
    largest_fitting,
    padding_efficiency,
)
from nightpress.diffusion_core.tuning.batch_size_benchmark import batch_benchmark
from nightpress.diffusion_core.tuning.device_memory import trial_memory
from nightpress.jobs.dispatch.metrics import ActorMetrics
from nightpress.jobs.dispatch.shard_queue import Piece
from nightpress.pipelines.models.location import locate
from nightpress.pipelines.models.loras import locate_loras
from nightpress.pipelines.planning import read_shard
from nightpress.pipelines.run_directory.lease import FencingToken
from nightpress.pipelines.run_directory.record import RunRecord
from nightpress.pipelines.shards.batching import PlannedImage, batches
from nightpress.pipelines.shards.overlap import relayed
from nightpress.pipelines.shards.runner import (
    Amendment,
    ShardBegun,
    ShardEvent,
    ShardRunner,
    ShardWork,
)
from nightpress.pipelines.shards.timeline import Timeline, TimeSpent
from nightpress.pipelines.storage import Store

CONTROL = "control"
"""Calls that are heard while a shard is being made."""

SHARDS = "shards"
SHARDS_AT_ONCE = 2
"""One is sampled, while the one before it is stored or the one after it is read."""

OF_ROWS = ", the files of model.row_loras among it"

KEPT_SPANS = 100_000
"""Of an actor's timeline, where one is asked for, and which a trace then says to be cut: a batch
has one or two, so it is a day and more of batches of two seconds."""


@dataclass(frozen=True)
class ActorLocation:
    """Where an actor lives."""

    node_id: str
    host: str
    pid: int
    differences: tuple[str, ...] = ()
    """Packages that decide a pixel's last bits and are not those that the run began with."""


Sampled = tuple[str, np.ndarray, str | None]
"""An image's id, its pixels, uint8 (H, W, 3), and what is wrong with them."""


class SamplerActor:
    """Holds one model and samples with it.

    Args:
        spec, options: which model, and how the stores it may lie on are reached.
        device: `cpu` or `cuda`.
        threads: of torch on a CPU; their number decides the last bits of a pixel.
        traced: whether every span of its timeline is kept.
    """

    def __init__(
        self,
        spec: ModelSpec,
        options: Mapping[str, Any],
        device: str,
        threads: int,
        traced: bool = False,
    ) -> None:
        self._spec = spec
        self._options = options
        self._device = device
        self._sampler: Sampler | None = None
        self._runner: ShardRunner | None = None
        self._record: RunRecord | None = None
        self._batch_size = 1
        self._worker = f"{platform.node()}:{os.getpid()}"
        self._meters = ActorMetrics()
        self._timeline = Timeline(self._worker, KEPT_SPANS if traced else 0, self._meters.span)
        if threads:
            torch.set_num_threads(threads)

    def describe(self) -> ModelInfo:
        """Find the model on this node and say what it is, without loading it."""
        return describe(
            locate(self._spec, self._options),
            self._spec,
            locate_loras(self._spec, self._options),
        )

    def load(self, fingerprint: str, batch_size: int) -> None:
        """Load the model, unless that is done.

        Args:
            fingerprint: the `identity` of the run's model.
            batch_size: the most that a batch will hold.

        Raises:
            ModelError: this node's weights are not those of the run.
        """
        if self._sampler is not None:
            return
        folder = locate(self._spec, self._options)
        loras = locate_loras(self._spec, self._options)
        found = describe(folder, self._spec, loras).identity
        if found != fingerprint:
            raise ModelError(
                f"{self._spec.source}: on {platform.node()} its fingerprint is {found[:12]}, "
                f"and the run needs {fingerprint[:12]}{OF_ROWS if self._spec.row_loras else ''}"
            )
        self._sampler = Sampler(load(folder, self._spec, self._device, loras), batch_size)
        self._batch_size = batch_size

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
            counts: how many images can share batches.
            share: of the device's memory that is this actor's.
        """
        with trial_memory(self._device, share) as memory:
            measure = batch_benchmark(self._loaded, params, memory)
            return find_best_batch_size(
                measure, memory.limit_bytes, usual, budget_s, padding_efficiency(counts)
            )

    def largest_fitting(self, params: SamplingParams, wanted: int, share: float) -> BestBatchSize:
        """The largest batch up to `wanted` images that memory holds, halved until it does."""
        with trial_memory(self._device, share) as memory:
            measure = batch_benchmark(self._loaded, params, memory, steps=1, rounds=1)
            return largest_fitting(measure, memory.limit_bytes, wanted)

    @property
    def _loaded(self) -> Sampler:
        if self._sampler is None:
            raise RuntimeError("sampling before load")
        return self._sampler

    def begin(self, store: Store, record: RunRecord, fence: FencingToken | None) -> ActorLocation:
        """Make ready for the shards of a run."""
        self.load(record.model.identity, record.batch_size)
        self._runner = ShardRunner(
            store, record, self._loaded, self._worker, fence, timeline=self._timeline
        )
        self._record = record
        node_id = ray.get_runtime_context().get_node_id()
        return ActorLocation(
            node_id=node_id,
            host=platform.node(),
            pid=os.getpid(),
            differences=tuple(record.package_differences()),
        )

    @ray.method(concurrency_group=SHARDS)  # type: ignore[untyped-decorator]
    def run_piece(
        self,
        piece: Piece,
        look_first: bool,
        amends: Amendment | None = None,
        turn: int | None = None,
    ) -> Iterator[ShardEvent]:
        """Make a shard, or some rows of one, telling of each batch.

        Args:
            piece: what to make.
            look_first: whether some of it may be stored.
            amends: rows of a committed shard, to be made again.
            turn: the number of this call, from 0: calls begin beside each other, and whoever made
                them listens to one after the other.
        """
        if self._runner is None or self._record is None:
            raise RuntimeError("run_piece before begin")
        with self._runner.turns.taken(turn) as taken:
            work = ShardWork(
                shard=piece.shard,
                rows=read_shard(self._runner.store, self._record.layout, piece.shard),
                attempt=piece.attempt,
                look_first=look_first,
                start=piece.start,
                stop=piece.stop,
                commits=piece.commits,
                set_aside=piece.set_aside,
                amends=amends,
            )
            for event in relayed(self._runner.run(work, taken), _decides_blame):
                self._meters.event(event)
                yield event

    @ray.method(concurrency_group=CONTROL)  # type: ignore[untyped-decorator]
    def is_sampling(self, turn: int) -> bool:
        """Whether it is in the middle of a batch of a call, and does not wait for its store."""
        return self._runner is not None and self._runner.is_sampling(turn)

    @ray.method(concurrency_group=CONTROL)  # type: ignore[untyped-decorator]
    def time_spent(self) -> TimeSpent:
        """What it did with its time so far."""
        return self._timeline.spent()

    @ray.method(concurrency_group=CONTROL)  # type: ignore[untyped-decorator]
    def drain(self) -> None:
        """Have what is running end after the batch in hand, while it runs."""
        if self._runner is not None:
            self._runner.drain()

    def sample(self, images: Sequence[PlannedImage]) -> Iterator[list[Sampled]]:
        """Sample images without storing them: pixels and faults, for previews, by the batch."""
        sampler = self._loaded
        for batch in batches(
            list(images), lambda image: self._batch_size, sampler.supports_per_image_guidance
        ):
            sampled = sampler.sample([image.request for image in batch], batch[0].params)
            ids = [image.image_id for image in batch]
            yield list(zip(ids, sampled.pixels, sampled.faults, strict=True))


def _decides_blame(event: ShardEvent) -> bool:
    """Whether the driver must have heard it before the process can end of what follows."""
    return isinstance(event, ShardBegun)


RemoteActor = Any
"""A handle of a `SamplerActor` on the cluster."""


@dataclass(frozen=True)
class ActorFactory:
    """Starts actors of one size for one model."""

    spec: ModelSpec
    options: Mapping[str, Any]
    cpus: float
    gpus: float
    threads: int
    traced: bool = False

    @property
    def device(self) -> str:
        """`cuda` where an actor gets a GPU, or a share of one."""
        return "cuda" if self.gpus > 0 else "cpu"

    def start(self) -> RemoteActor:
        """A new actor; it is placed when the cluster has room for it."""
        return self._actor.remote(self.spec, self.options, self.device, self.threads, self.traced)

    @cached_property
    def _actor(self) -> Any:
        """Made once: each new one is examined, and sent to the cluster, again."""
        return remote_actor(SamplerActor, self.cpus, self.gpus)


def remote_actor(kind: type[SamplerActor], cpus: float, gpus: float) -> Any:
    """The class as Ray starts it: shards overlap, and beside them are calls that control it."""
    groups = {CONTROL: 1, SHARDS: SHARDS_AT_ONCE}
    options = {"max_restarts": 0, "max_task_retries": 0, "concurrency_groups": groups}
    return ray.remote(num_cpus=cpus, num_gpus=gpus, **options)(kind)
