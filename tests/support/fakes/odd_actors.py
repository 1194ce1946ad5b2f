"""Actors that die, hang, race or never start; Ray's workers import them from here."""

import errno
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import ray
import torch

from nightpress.diffusion_core.errors import ModelError, SettingsError
from nightpress.diffusion_core.tuning import device_memory
from nightpress.diffusion_core.tuning.batch_size import BestBatchSize
from nightpress.diffusion_core.tuning.candidates import TuningConfig
from nightpress.diffusion_core.tuning.kept_trials import KeptTrial
from nightpress.jobs.dispatch.actor import CONTROL, ActorFactory, SamplerActor, remote_actor
from nightpress.pipelines.shards.events import BatchDone
from nightpress.pipelines.shards.work import ShardWork
from nightpress.pipelines.storage import Store

PATIENCE_S = 120.0


def wait_for(store: Store, name: str) -> None:
    """Wait until the store holds an object of that name."""
    end = time.monotonic() + PATIENCE_S
    while store.size(name) is None:
        if time.monotonic() > end:
            raise TimeoutError(f"nobody wrote {name}")
        time.sleep(0.05)


class DeadlyActor(SamplerActor):
    """Its process is killed whenever it works on shard 1, whichever rows it makes."""

    def run_shard(self, work: ShardWork, ticket: int | None = None) -> Iterator[Any]:
        if work.shard == 1 and len(work.set_aside) < work.num_rows:
            os.kill(os.getpid(), signal.SIGKILL)
        yield from super().run_shard(work, ticket)


class NeverCommittingActor(SamplerActor):
    """Its process is killed whenever it has stored shard 1 and would commit it."""

    def run_shard(self, work: ShardWork, ticket: int | None = None) -> Iterator[Any]:
        num_done = 0
        for event in super().run_shard(work, ticket):
            yield event
            num_done += event.num_ok if isinstance(event, BatchDone) else 0
            is_tried = len(work.set_aside) < work.num_rows
            if work.shard == 1 and work.commits and is_tried and num_done == work.num_rows:
                os.kill(os.getpid(), signal.SIGKILL)


class BrokenActor(SamplerActor):
    """Its node has no usable model."""

    def load(self, fingerprint: str, batch_size: int, model: str | None = None) -> None:
        raise ModelError("the weights on this node are not those of the run")


class WaitingActor(SamplerActor):
    """Makes shard 0, and the other shards once the store holds an object named `go`.

    The object named `pid` holds the id of the process that has the latest shard.
    """

    def run_shard(self, work: ShardWork, ticket: int | None = None) -> Iterator[Any]:
        store = self._runner.store
        end = time.monotonic() + PATIENCE_S
        while work.shard and store.size("go") is None:
            store.put("pid", str(os.getpid()).encode())
            if time.monotonic() > end:
                raise TimeoutError("nobody wrote go")
            time.sleep(0.05)
        yield from super().run_shard(work, ticket)


@dataclass(frozen=True)
class FactoryOf(ActorFactory):
    """Starts one actor of each of some classes, then more of the last class."""

    kinds: list[type[SamplerActor]] = field(default_factory=list)

    def start(self) -> Any:
        kind = self.kinds.pop(0) if len(self.kinds) > 1 else self.kinds[0]
        return remote_actor(kind, self.cpus, self.gpus).remote(
            self.spec, self.options, self.device, self.threads, self.traced, self.scorers
        )


class HangingActor(SamplerActor):
    """Hangs in the batch that contains the image of row 3."""

    def load(self, fingerprint: str, batch_size: int, model: str | None = None) -> None:
        super().load(fingerprint, batch_size, model)
        plain = self._sampler.sample

        def sample(requests: Any, params: Any, batch_size: int | None = None) -> Any:
            if any("number 3" in request.prompt for request in requests):
                time.sleep(3600)
            return plain(requests, params, batch_size)

        self._sampler.sample = sample


class DyingInTrialsActor(SamplerActor):
    """Its process is killed by the first way to sample faster that it tries."""

    def try_speed(self, config: TuningConfig, known: KeptTrial | None = None) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)


class FaultyTrialsActor(SamplerActor):
    """No way to sample faster that it tries finds room on the disk of its node."""

    def try_speed(self, config: TuningConfig, known: KeptTrial | None = None) -> Any:
        def full(*given: Any) -> Any:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        self._trials._measure = full
        return super().try_speed(config, known)


class ThreadsActor(SamplerActor):
    """Stores the number of torch threads with which it makes shards."""

    def run_shard(self, work: ShardWork, ticket: int | None = None) -> Iterator[Any]:
        self._runner.store.put("threads", str(torch.get_num_threads()).encode())
        yield from super().run_shard(work, ticket)


class StuckActor(SamplerActor):
    """Hangs while it loads its model, as on a network share that does not answer."""

    def load(self, fingerprint: str, batch_size: int, model: str | None = None) -> None:
        time.sleep(3600)


class FallingActor(SamplerActor):
    """Its process is killed while it loads the model."""

    def load(self, fingerprint: str, batch_size: int, model: str | None = None) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class RacingActor(SamplerActor):
    """Two attempts at shard 0 run at once: each begins and waits until the other has begun, too.

    Attempt `winner` then finishes. The other one goes on when the store holds `go`, and stores
    `ended` when it has finished.
    """

    winner: int

    def begin(self, *args: Any, **others: Any) -> Any:
        location = super().begin(*args, **others)
        plain = self._runner.run
        self._runner.run = lambda work, *rest: self._race(plain(work, *rest), work)
        return location

    def _race(self, events: Iterator[Any], work: ShardWork) -> Iterator[Any]:
        store = self._runner.store
        if work.shard:
            yield from events
            return
        yield next(events)
        store.put(f"begun-{work.attempt}", b"")
        if work.attempt == self.winner:
            wait_for(store, f"begun-{3 - work.attempt}")
            yield from events
            return
        wait_for(store, "go")
        yield from events
        store.put("ended", b"")


class OriginalWins(RacingActor):
    """The first attempt commits first."""

    winner = 1


class CopyWins(RacingActor):
    """The second attempt commits first."""

    winner = 2


BATCHES_UNTIL_DRAINED = 4


class ObedientActor(SamplerActor):
    """Waits in its fourth batch until `drain` is called."""

    def load(self, fingerprint: str, batch_size: int, model: str | None = None) -> None:
        super().load(fingerprint, batch_size, model)
        self._drain_called, self._num_batches = threading.Event(), 0
        plain = self._sampler.sample

        def sample(requests: Any, params: Any, batch_size: int | None = None) -> Any:
            self._num_batches += 1
            if self._num_batches >= BATCHES_UNTIL_DRAINED and not self._drain_called.wait(
                PATIENCE_S
            ):
                raise TimeoutError("drain was not called")
            return plain(requests, params, batch_size)

        self._sampler.sample = sample

    @ray.method(concurrency_group=CONTROL)
    def drain(self) -> None:
        SamplerActor.drain(self)
        self._drain_called.set()


class CrampedActor(SamplerActor):
    """Its node has 64 MB of free memory."""

    def __init__(self, *args: Any, **values: Any) -> None:
        super().__init__(*args, **values)
        device_memory.available_bytes = lambda: 64 << 20


class OverfilledActor(SamplerActor):
    """Its process is killed when it measures the batch size."""

    def find_best_batch_size(self, *args: Any) -> BestBatchSize:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


class RefusingActor(SamplerActor):
    """Its model cannot be measured with so few steps."""

    def find_best_batch_size(self, *args: Any) -> BestBatchSize:
        raise SettingsError("4 steps are too few for this sampler")


class PoisonedActor(SamplerActor):
    """Its process is killed by the batch that contains the image of row 3."""

    def load(self, fingerprint: str, batch_size: int, model: str | None = None) -> None:
        super().load(fingerprint, batch_size, model)
        plain = self._sampler.sample

        def sample(requests: Any, params: Any, batch_size: int | None = None) -> Any:
            if any(request.prompt.endswith(" number 3") for request in requests):
                os.kill(os.getpid(), signal.SIGKILL)
            return plain(requests, params, batch_size)

        self._sampler.sample = sample


class FrozenActor(SamplerActor):
    """Its process is stopped by the batch that contains the image of row 3, and answers nothing."""

    def load(self, fingerprint: str, batch_size: int, model: str | None = None) -> None:
        super().load(fingerprint, batch_size, model)
        plain = self._sampler.sample

        def sample(requests: Any, params: Any, batch_size: int | None = None) -> Any:
            if any(request.prompt.endswith(" number 3") for request in requests):
                os.kill(os.getpid(), signal.SIGSTOP)
            return plain(requests, params, batch_size)

        self._sampler.sample = sample


class KilledOnceActor(SamplerActor):
    """Its process is killed once, after the first batch of the model called `tiny`."""

    def run_shard(self, work: ShardWork, ticket: int | None = None) -> Iterator[Any]:
        store, name = self._runner.store, self._runner.record.model_name
        for event in super().run_shard(work, ticket):
            yield event
            if name == "tiny" and isinstance(event, BatchDone) and store.create("died", b"once"):
                os.kill(os.getpid(), signal.SIGKILL)
