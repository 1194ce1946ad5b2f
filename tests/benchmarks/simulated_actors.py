"""Actors that sleep where others denoise, importable by Ray's workers; all else in them is real.

Each is a `SamplerActor` with shards, streams and threads of its own. Where memory is short several
share a process, and the driver sees no difference: each has its own handle.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import ray

from nightpress.diffusion_core.models.loading import ModelInfo
from nightpress.diffusion_core.sampling.sampler import ImageRequest, SampledBatch, SamplingParams
from nightpress.jobs.dispatch.actor import (
    CONTROL,
    SHARDS,
    SHARDS_AT_ONCE,
    ActorFactory,
    ActorLocation,
    SamplerActor,
    remote_actor,
)
from nightpress.pipelines.run_directory.lease import FencingToken
from nightpress.pipelines.run_directory.record import RunRecord
from nightpress.pipelines.shards.events import ShardEvent
from nightpress.pipelines.shards.timeline import TimeSpent
from nightpress.pipelines.shards.work import ShardWork
from nightpress.pipelines.storage import Store

SIDE = 32
"""Pixels."""

MODEL = ModelInfo(
    source="simulated",
    fingerprint="5" * 64,
    pipeline="StableDiffusionPipeline",
    size_multiple=8,
    width=SIDE,
    height=SIDE,
    num_inference_steps=20,
    guidance_scale=4.0,
    samplers=("ddim", "euler"),
    takes_negative_prompt=True,
)


class SimulatedSampler:
    """Sleeps for as long as a batch takes; its pictures are noise that their seeds decide."""

    supports_per_image_guidance = False

    def __init__(self, batch_s: float) -> None:
        self._batch_s = batch_s

    def prepare(self, requests: Sequence[ImageRequest], params: SamplingParams) -> None:
        """There is nothing to encode."""

    def sample(
        self,
        requests: Sequence[ImageRequest],
        params: SamplingParams,
        batch_size: int | None = None,
    ) -> SampledBatch:
        """As `Sampler.sample` answers."""
        time.sleep(self._batch_s)
        shape = (params.height, params.width, 3)
        painters = [np.random.default_rng(request.seed) for request in requests]
        pixels = np.stack([painter.integers(0, 256, shape, np.uint8) for painter in painters])
        return SampledBatch(pixels, (None,) * len(requests))


class SimulatedActor(SamplerActor):
    """Its model is a `SimulatedSampler`.

    Args:
        batch_s: seconds that a batch takes.
        arguments: those of `SamplerActor`.
    """

    def __init__(self, batch_s: float, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._batch_s = batch_s

    def describe(self) -> ModelInfo:
        return MODEL

    def load(self, fingerprint: str, batch_size: int) -> None:
        self._sampler = SimulatedSampler(self._batch_s)  # type: ignore[assignment]
        self._batch_size = batch_size


class ActorHouse:
    """Some simulated actors in one process; the first argument of a call says which is meant."""

    def __init__(self, number: int, *arguments: Any) -> None:
        self._actors = [SimulatedActor(*arguments) for _ in range(number)]

    def describe(self, seat: int) -> ModelInfo:
        return self._actors[seat].describe()

    def load(self, seat: int, fingerprint: str, batch_size: int) -> None:
        self._actors[seat].load(fingerprint, batch_size)

    def begin(
        self, seat: int, store: Store, record: RunRecord, fence: FencingToken | None
    ) -> ActorLocation:
        return self._actors[seat].begin(store, record, fence)

    @ray.method(concurrency_group=SHARDS)
    def run_shard(
        self, seat: int, work: ShardWork, ticket: int | None = None
    ) -> Iterator[ShardEvent]:
        yield from self._actors[seat].run_shard(work, ticket)

    @ray.method(concurrency_group=CONTROL)
    def is_sampling(self, seat: int, ticket: int) -> bool:
        return self._actors[seat].is_sampling(ticket)

    @ray.method(concurrency_group=CONTROL)
    def time_spent(self, seat: int) -> TimeSpent:
        return self._actors[seat].time_spent()

    @ray.method(concurrency_group=CONTROL)
    def drain(self, seat: int) -> None:
        self._actors[seat].drain()


@dataclass(frozen=True)
class SeatCall:
    """A method of one actor in a house."""

    method: Any
    seat: int

    def options(self, **values: Any) -> "SeatCall":
        return SeatCall(self.method.options(**values), self.seat)

    def remote(self, *arguments: Any) -> Any:
        return self.method.remote(self.seat, *arguments)


@dataclass(frozen=True)
class Seat:
    """The handle of one actor in a house, as that of an actor with a process to itself."""

    house: Any
    number: int

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.house, name)
        # Ray's own methods, such as `__ray_ready__`, are the process's.
        return method if name.startswith("__") else SeatCall(method, self.number)


@dataclass(frozen=True)
class SimulatedFactory(ActorFactory):
    """Starts simulated actors, `seats` of them in each process."""

    batch_s: float = 1.0
    seats: int = 1
    free: list[Seat] = field(default_factory=list)
    """Of the newest house."""

    def start(self) -> Any:
        arguments = (self.batch_s, self.spec, self.options, self.device, self.threads, self.traced)
        if self.seats == 1:
            return remote_actor(SimulatedActor, self.cpus, self.gpus).remote(*arguments)
        if not self.free:
            house = self._house().remote(self.seats, *arguments)
            self.free.extend(Seat(house, number) for number in range(self.seats))
        return self.free.pop(0)

    def _house(self) -> Any:
        groups = {CONTROL: 1, SHARDS: SHARDS_AT_ONCE * self.seats}
        options = {"max_restarts": 0, "max_task_retries": 0, "concurrency_groups": groups}
        return ray.remote(num_cpus=self.cpus * self.seats, **options)(ActorHouse)


def process_of(handle: Any) -> Any:
    """What to kill where a simulated actor is to be ended: those who live with it end, too."""
    return handle.house if isinstance(handle, Seat) else handle
