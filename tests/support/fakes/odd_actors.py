"""Actors that die or never start, importable by Ray's workers."""

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
from nightpress.jobs.dispatch.actor import CONTROL, ActorFactory, SamplerActor, remote_actor
from nightpress.jobs.dispatch.shard_queue import Piece
from nightpress.pipelines.shards.runner import Amendment, ShardWork
from nightpress.pipelines.storage import Store

PATIENCE_S = 120.0


def wait_for(store: Store, name: str) -> None:
    """Until the store holds an object of that name."""
    end = time.monotonic() + PATIENCE_S
    while store.size(name) is None:
        if time.monotonic() > end:
            raise TimeoutError(f"nobody wrote {name}")
        time.sleep(0.05)


class DeadlyActor(SamplerActor):
    """Its process dies, as of a segmentation fault, whenever it is given shard 1, whatever row."""

    def run_piece(
        self,
        piece: Piece,
        look_first: bool,
        amends: Amendment | None = None,
        turn: int | None = None,
    ) -> Iterator[Any]:
        if piece.shard == 1 and len(piece.set_aside) < piece.num_rows:
            os.kill(os.getpid(), signal.SIGKILL)
        yield from super().run_piece(piece, look_first, amends, turn)


class BrokenActor(SamplerActor):
    """Its node has no usable model."""

    def load(self, fingerprint: str, batch_size: int) -> None:
        raise ModelError("the weights on this node are not those of the run")


class WaitingActor(SamplerActor):
    """Makes shard 0, and the others once the store holds an object named `go`.

    The object named `pid` says which process was given the latest shard.
    """

    def run_piece(
        self,
        piece: Piece,
        look_first: bool,
        amends: Amendment | None = None,
        turn: int | None = None,
    ) -> Iterator[Any]:
        store = self._runner.store
        end = time.monotonic() + PATIENCE_S
        while piece.shard and store.size("go") is None:
            store.put("pid", str(os.getpid()).encode())
            if time.monotonic() > end:
                raise TimeoutError("nobody said go")
            time.sleep(0.05)
        yield from super().run_piece(piece, look_first, amends, turn)


@dataclass(frozen=True)
class FactoryOf(ActorFactory):
    """Starts actors of other classes: each once in turn, the last one again and again."""

    kinds: list[type[SamplerActor]] = field(default_factory=list)

    def start(self) -> Any:
        kind = self.kinds.pop(0) if len(self.kinds) > 1 else self.kinds[0]
        return remote_actor(kind, self.cpus, self.gpus).remote(
            self.spec, self.options, self.device, self.threads, self.traced
        )


class HangingActor(SamplerActor):
    """It never comes back from a batch that holds the image of row 3."""

    def load(self, fingerprint: str, batch_size: int) -> None:
        super().load(fingerprint, batch_size)
        plain = self._sampler.sample

        def sample(requests: Any, params: Any, batch_size: int | None = None) -> Any:
            if any("number 3" in request.prompt for request in requests):
                time.sleep(3600)
            return plain(requests, params, batch_size)

        self._sampler.sample = sample


class ThreadsActor(SamplerActor):
    """Says how many threads torch has where shards are made."""

    def run_piece(
        self,
        piece: Piece,
        look_first: bool,
        amends: Amendment | None = None,
        turn: int | None = None,
    ) -> Iterator[Any]:
        self._runner.store.put("threads", str(torch.get_num_threads()).encode())
        yield from super().run_piece(piece, look_first, amends, turn)


class StuckActor(SamplerActor):
    """Its model never comes, as from a share that does not answer."""

    def load(self, fingerprint: str, batch_size: int) -> None:
        time.sleep(3600)


class FallingActor(SamplerActor):
    """Its process is killed while it loads the model."""

    def load(self, fingerprint: str, batch_size: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class RacingActor(SamplerActor):
    """Two attempts at shard 0 meet: each samples a batch and waits until the other has, too.

    Attempt `winner` then ends. The other one goes on when the store holds `go`, and says that it
    has come to its end: `ended`.
    """

    winner: int

    def begin(self, *args: Any) -> Any:
        stands = super().begin(*args)
        plain = self._runner.run
        self._runner.run = lambda work, turn: self._race(plain(work, turn), work)
        return stands

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


BATCHES_TILL_DRAINED = 4


class ObedientActor(SamplerActor):
    """It is told to drain in its fourth batch: it goes on with it no sooner."""

    def load(self, fingerprint: str, batch_size: int) -> None:
        super().load(fingerprint, batch_size)
        self._told, self._num_batches = threading.Event(), 0
        plain = self._sampler.sample

        def sample(requests: Any, params: Any, batch_size: int | None = None) -> Any:
            self._num_batches += 1
            if self._num_batches >= BATCHES_TILL_DRAINED and not self._told.wait(PATIENCE_S):
                raise TimeoutError("nobody told it to drain")
            return plain(requests, params, batch_size)

        self._sampler.sample = sample

    @ray.method(concurrency_group=CONTROL)
    def drain(self) -> None:
        SamplerActor.drain(self)
        self._told.set()


class CrampedActor(SamplerActor):
    """Its node has 64 MB of free memory."""

    def __init__(self, *args: Any, **values: Any) -> None:
        super().__init__(*args, **values)
        device_memory.available_bytes = lambda: 64 << 20


class OverfilledActor(SamplerActor):
    """Its process is killed when the memory is measured."""

    def find_best_batch_size(self, *args: Any) -> BestBatchSize:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


class RefusingActor(SamplerActor):
    """Its model cannot be tried with so few steps."""

    def find_best_batch_size(self, *args: Any) -> BestBatchSize:
        raise SettingsError("4 steps are too few for this sampler")
