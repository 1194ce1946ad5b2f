"""Actors that sleep instead of denoising; everything else about them is real.

Ray's workers import them from here. Each is a `SamplerActor` with its own shards, streams and
threads. To save memory several can share a process; the driver sees no difference, because each
has its own handle.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import ray

from nightpress.diffusion_core.models.info import ModelInfo
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
from nightpress.jobs.dispatch.memory_needs import Footprint
from nightpress.pipelines.shards.events import ShardEvent
from nightpress.pipelines.shards.timeline import TimeSpent
from nightpress.pipelines.shards.work import ShardWork

SIDE = 32
"""Width and height of the images in pixels."""

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
    """Sleeps for as long as a batch takes and returns noise that depends only on the seeds."""

    supports_per_image_guidance = False
    shares_batches = True

    def __init__(self, batch_s: float) -> None:
        self._batch_s = batch_s

    def prepare(self, requests: Sequence[ImageRequest], params: SamplingParams) -> None:
        """Do nothing: there are no prompts to encode."""

    def sample(
        self,
        requests: Sequence[ImageRequest],
        params: SamplingParams,
        batch_size: int | None = None,
    ) -> SampledBatch:
        """Return images like `Sampler.sample`."""
        time.sleep(self._batch_s)
        shape = (params.height, params.width, 3)
        generators = [np.random.default_rng(request.seed) for request in requests]
        pixels = np.stack([generator.integers(0, 256, shape, np.uint8) for generator in generators])
        return SampledBatch(pixels, (None,) * len(requests))


class SimulatedActor(SamplerActor):
    """An actor whose model is a `SimulatedSampler`.

    Args:
        batch_s: how long a batch takes, in seconds.
        arguments: the arguments of `SamplerActor`.
    """

    def __init__(self, batch_s: float, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._batch_s = batch_s

    def describe(self) -> ModelInfo:
        return MODEL

    def footprint(self) -> Footprint:
        return Footprint(weight_bytes=0, device_bytes=0)

    def load(self, fingerprint: str, batch_size: int, model: str | None = None) -> None:
        self._sampler = SimulatedSampler(self._batch_s)  # type: ignore[assignment]
        self._batch_size = batch_size


class ActorGroup:
    """Several simulated actors in one process; each call names one by its index."""

    def __init__(self, number: int, *arguments: Any) -> None:
        self._actors = [SimulatedActor(*arguments) for _ in range(number)]

    def describe(self, index: int) -> ModelInfo:
        return self._actors[index].describe()

    def footprint(self, index: int) -> Footprint:
        return self._actors[index].footprint()

    def load(self, index: int, *arguments: Any) -> None:
        self._actors[index].load(*arguments)

    def begin(self, index: int, *arguments: Any) -> ActorLocation:
        return self._actors[index].begin(*arguments)

    @ray.method(concurrency_group=SHARDS)
    def run_shard(
        self, index: int, work: ShardWork, ticket: int | None = None
    ) -> Iterator[ShardEvent]:
        yield from self._actors[index].run_shard(work, ticket)

    @ray.method(concurrency_group=CONTROL)
    def is_stuck(self, index: int, ticket: int, scoring_limit_s: float | None = None) -> bool:
        return self._actors[index].is_stuck(ticket, scoring_limit_s)

    @ray.method(concurrency_group=CONTROL)
    def time_spent(self, index: int) -> TimeSpent:
        return self._actors[index].time_spent()

    @ray.method(concurrency_group=CONTROL)
    def drain(self, index: int) -> None:
        self._actors[index].drain()


@dataclass(frozen=True)
class MemberMethod:
    """A remote method of one actor in a group."""

    method: Any
    index: int

    def options(self, **values: Any) -> "MemberMethod":
        return MemberMethod(self.method.options(**values), self.index)

    def remote(self, *arguments: Any) -> Any:
        return self.method.remote(self.index, *arguments)


@dataclass(frozen=True)
class MemberHandle:
    """The handle of one actor in a group; used like the handle of a separate actor."""

    group: Any
    index: int

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.group, name)
        # Ray's own methods, such as `__ray_ready__`, belong to the whole process.
        return method if name.startswith("__") else MemberMethod(method, self.index)


@dataclass(frozen=True)
class SimulatedFactory(ActorFactory):
    """Starts simulated actors, with `actors_per_process` in each process."""

    batch_s: float = 1.0
    actors_per_process: int = 1
    free: list[MemberHandle] = field(default_factory=list)
    """Handles of the newest group that are not in use yet."""

    def start(self) -> Any:
        arguments = (self.batch_s, self.spec, self.options, self.device, self.threads, self.traced)
        if self.actors_per_process == 1:
            return remote_actor(SimulatedActor, self.cpus, self.gpus).remote(*arguments)
        if not self.free:
            group = self._group_class().remote(self.actors_per_process, *arguments)
            self.free.extend(MemberHandle(group, index) for index in range(self.actors_per_process))
        return self.free.pop(0)

    def _group_class(self) -> Any:
        groups = {CONTROL: 1, SHARDS: SHARDS_AT_ONCE * self.actors_per_process}
        options = {"max_restarts": 0, "max_task_retries": 0, "concurrency_groups": groups}
        return ray.remote(num_cpus=self.cpus * self.actors_per_process, **options)(ActorGroup)


def process_of(handle: Any) -> Any:
    """The Ray actor to kill to end a simulated actor; its whole group ends with it."""
    return handle.group if isinstance(handle, MemberHandle) else handle
