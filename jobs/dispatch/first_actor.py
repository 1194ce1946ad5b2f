"""The first actor of a run: placed, asked for its model, and loaded; another where it is lost.

What it finds out is known before anything is written.
"""

import math
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

import ray

from nightpress.diffusion_core.errors import SamplingError, SettingsError
from nightpress.diffusion_core.models.loading import ModelInfo
from nightpress.diffusion_core.tuning.batch_size import BestBatchSize
from nightpress.jobs.cluster.connection import remote_value, room
from nightpress.jobs.dispatch.actor import ActorFactory, RemoteActor
from nightpress.jobs.dispatch.workers import Startup
from nightpress.jobs.errors import ClusterError, RunStopped
from nightpress.jobs.progress.events import Event, Message

LONG_S = 20.0
"""A wait of more seconds is worth a word."""

POLL_S = 1.0

LOADING = "to find and load its model"
MEASURING = "to measure its batch size"
LATE = {LOADING: "its model was not loaded", MEASURING: "nothing was found out"}

MAX_START_FAILURES = 3
"""Actors that may fail to start, one after the other, before the run stops."""


@dataclass
class FirstActor:
    """The first actor of a start, and its successors.

    Args:
        factory: starts actors.
        load_timeout_s: how long one may take to describe its model, and to load it.
        go_on: called while one is waited for; raises when it is time to stop.
    """

    factory: ActorFactory
    load_timeout_s: float
    go_on: Callable[[], None]
    handle: RemoteActor = field(init=False)
    _startup: Startup = field(init=False)
    _failures: int = field(default=0, init=False)
    _doing: str = field(default=LOADING, init=False)

    def described(self) -> Generator[Event, None, ModelInfo]:
        """Start one, and say what its model is.

        Raises:
            ModelError: it has no usable model.
            RunStopped: several in a row were lost.
        """
        while True:
            self.handle = self.factory.start()
            self._startup, self._doing = Startup(self.handle), LOADING
            try:
                model: ModelInfo = yield from self._answer(self.handle.describe.remote())
            except ClusterError as error:
                yield self._lost(error)
            else:
                return model

    def load(self, fingerprint: str, batch_size: int) -> Any:
        """Have it load its model, while others plan; for `loaded`."""
        self._startup = Startup(self.handle)
        return self.handle.load.remote(fingerprint, batch_size)

    def loaded(self, pending: Any, fingerprint: str, batch_size: int) -> Iterator[Event]:
        """Wait until the model is loaded.

        Raises:
            ModelError: it does not load.
            RunStopped: several actors in a row were lost.
        """
        while True:
            try:
                yield from self._answer(pending)
            except ClusterError as error:
                yield self._lost(error)
                yield from self.described()
                pending = self.load(fingerprint, batch_size)
            else:
                return

    def measured(self, pending: Any) -> Generator[Event, None, BestBatchSize | None]:
        """What the loaded actor finds out about its batches; None if it could not.

        It then is replaced by one that has not loaded yet.
        """
        self._startup, self._doing = Startup(self.handle), MEASURING
        try:
            knee: BestBatchSize = yield from self._answer(pending)
        except (ClusterError, SamplingError, SettingsError) as error:
            yield Message(f"the batch size could not be measured: {error}", warning=True)
            ray.kill(self.handle)
            yield from self.described()
            return None
        return knee

    def _lost(self, error: ClusterError) -> Message:
        ray.kill(self.handle)
        self._failures += 1
        if self._failures >= MAX_START_FAILURES:
            raise RunStopped(
                f"{self._failures} actors in a row did not start: {error}; the same command goes "
                "on from here"
            ) from error
        return Message(f"an actor did not start: {error}", warning=True)

    def _answer(self, reference: Any) -> Generator[Event, None, Any]:
        """Wait for an answer; say what is waited for, if it takes long."""
        fits = room(self.factory.cpus, self.factory.gpus) > 0
        said_at = time.monotonic() + (LONG_S if fits else 0.0)
        while not ray.wait([reference], timeout=POLL_S, fetch_local=False)[0]:
            self.go_on()
            if self._startup.seconds > self.load_timeout_s:
                raise ClusterError(f"{LATE[self._doing]} in {self.load_timeout_s:.0f} s")
            if time.monotonic() > said_at:
                said_at = math.inf
                yield self._waiting(fits)
        return remote_value(reference)

    def _waiting(self, fits: bool) -> Message:
        placed = self._startup.is_placed
        what = self._doing if placed else "to be placed"
        return Message(
            f"waiting for the first actor {what}: it needs {self.factory.cpus:g} CPUs and "
            f"{self.factory.gpus:g} GPUs of one node",
            warning=not fits,
        )
