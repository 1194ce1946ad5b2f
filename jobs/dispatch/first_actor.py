"""The first actor of a run: start it, describe and load its model, replace it if it is lost.

A run needs its answers before it writes anything.
"""

import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import ray

from nightpress.diffusion_core.errors import (
    DeviceError,
    ModelError,
    SamplingError,
    SettingsError,
)
from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.diffusion_core.tuning.batch_size import BestBatchSize
from nightpress.jobs.cluster.capacity import FIRST_NOTICE_S, Notices, waiting_line
from nightpress.jobs.cluster.connection import remote_value, room
from nightpress.jobs.dispatch.actor import ActorFactory, RemoteActor
from nightpress.jobs.dispatch.memory_needs import Footprint
from nightpress.jobs.dispatch.workers import Startup
from nightpress.jobs.errors import ClusterError, ClusterUnavailable
from nightpress.jobs.progress.events import Event, Message
from nightpress.pipelines.manifest.job_models import ModelInfos
from nightpress.pipelines.scoring.scorer import ScorerInfo

POLL_S = 1.0

LOADING = "load its model"
MEASURING = "measure its batch size"
TRYING = "try faster ways to sample"

MAX_START_FAILURES = 3
"""How many actors in a row may fail to start before the run stops."""


@dataclass
class FirstActor:
    """The first actor of a start, and those that replace it.

    Args:
        factory: starts actors.
        load_timeout_s: how long an actor may take to describe its model, and to load it.
        check: called while an actor is waited for; raises when it is time to stop.
    """

    factory: ActorFactory
    load_timeout_s: float
    check: Callable[[], None]
    handle: RemoteActor = field(init=False)
    _startup: Startup = field(init=False)
    _failures: int = field(default=0, init=False)
    _task: str = field(default=LOADING, init=False)

    model: str | None = field(default=None, init=False)
    """The name of the model that it has loaded last, if there are several."""

    def start(self) -> Generator[Event, None, ModelInfos]:
        """Start an actor; returns what its model is, or what each of several is.

        Raises:
            ModelError: the actor has no usable model.
            ClusterError: several actors in a row were lost.
        """
        while True:
            self.handle = self.factory.start()
            self._startup, self._task = Startup(self.handle), LOADING
            try:
                model: ModelInfos = yield from self._wait(self.handle.describe.remote())
            except ClusterError as error:
                yield self._lost(error)
            else:
                yield from _notes(model)
                return model

    def footprint(self) -> Generator[Event, None, Footprint]:
        """What the model takes in memory, and what the device of the actor has."""
        found: Footprint = yield from self._wait(self.handle.footprint.remote())
        return found

    def scorers(self) -> Generator[Event, None, Mapping[str, ScorerInfo]]:
        """What the scorers of the job are.

        Raises:
            ScorerError: one of them cannot be used.
            ClusterError: the actor was lost.
        """
        if not self.factory.scorers.specs:
            return {}
        found: Mapping[str, ScorerInfo] = yield from self._wait(
            self.handle.describe_scorers.remote()
        )
        return found

    def begin_loading(self, fingerprint: str, batch_size: int, model: str | None = None) -> Any:
        """Make the actor load its model; returns a reference for `finish_loading`.

        Args:
            fingerprint: its `identity`.
            batch_size: the largest batch size that will be used.
            model: its name, if there are several.
        """
        self._startup, self.model = Startup(self.handle), model
        named = () if model is None else (model,)
        return self.handle.load.remote(fingerprint, batch_size, *named)

    def finish_loading(
        self, pending: Any, fingerprint: str, batch_size: int, model: str | None = None
    ) -> Iterator[Event]:
        """Wait until the model is loaded, in another actor if this one is lost.

        Raises:
            ModelError: the model cannot be loaded.
            ClusterError: several actors in a row were lost.
        """
        while True:
            try:
                yield from self._wait(pending)
            except ClusterError as error:
                yield self._lost(error)
                yield from self.start()
                pending = self.begin_loading(fingerprint, batch_size, model)
            else:
                return

    def measure(self, pending: Any) -> Generator[Event, None, BestBatchSize | None]:
        """Wait for a measurement of the batch size; returns None if it failed.

        In that case a new actor is started, which has not loaded its model yet.
        """
        best: BestBatchSize | None = yield from self._measured(
            pending, MEASURING, "the batch size could not be measured"
        )
        return best

    def try_faster(self, pending: Any, limit_s: float) -> Generator[Event, None, Any]:
        """Wait for a trial of a faster way to sample; returns None if it failed.

        In that case a new actor is started, which has not loaded its model yet.

        Args:
            limit_s: seconds after which it has failed.
        """
        return (yield from self._measured(pending, TRYING, "model.speed auto", limit_s))

    def _measured(
        self, pending: Any, task: str, what: str, limit_s: float = math.inf
    ) -> Generator[Event, None, Any]:
        """Wait for a measurement; if it fails, say so and start a new actor; returns None then."""
        self._startup, self._task = Startup(self.handle), task
        try:
            return (yield from self._wait(pending, min(limit_s, self.load_timeout_s)))
        except (ClusterError, DeviceError, ModelError, SamplingError, SettingsError) as error:
            yield Message(f"{what}: {error}", warning=True)
            ray.kill(self.handle)
            yield from self.start()
            return None

    def _lost(self, error: ClusterError) -> Message:
        ray.kill(self.handle)
        self._failures += 1
        if self._failures >= MAX_START_FAILURES:
            kind = ClusterUnavailable if isinstance(error, ClusterUnavailable) else ClusterError
            raise kind(f"{self._failures} actors in a row failed to start: {error}") from error
        return Message(f"an actor failed to start: {error}", warning=True)

    def _wait(self, reference: Any, limit_s: float | None = None) -> Generator[Event, None, Any]:
        """Wait for an answer; while it takes long, report what the wait is for."""
        limit_s = self.load_timeout_s if limit_s is None else limit_s
        fits = room(self.factory.cpus, self.factory.gpus) > 0
        notices = Notices(time.monotonic(), FIRST_NOTICE_S if fits else 0.0)
        while not ray.wait([reference], timeout=POLL_S, fetch_local=False)[0]:
            self.check()
            if self._startup.seconds > limit_s:
                raise ClusterError(f"it did not {self._task} within {limit_s:.0f} s")
            if notices.due(time.monotonic()):
                yield self._waiting()
        return remote_value(reference)

    def _waiting(self) -> Message:
        if self._startup.is_placed:
            return Message(f"waiting for the first actor to {self._task}")
        line = waiting_line("the first actor", self.factory.cpus, self.factory.gpus)
        return Message(line, warning=True)


def _notes(models: ModelInfos) -> Iterator[Event]:
    """What a person should know of a model, or of each of several."""
    for model in (models,) if isinstance(models, ModelInfo) else models.values():
        yield from (Message(f"model {model.source}: {note}") for note in model.notes)
