"""The actors of a run: starting them, dropping them, and matching their number to the cluster."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import ray
from ray.exceptions import RayError

from nightpress.jobs.cluster.capacity import Notices, can_grow, waiting_line
from nightpress.jobs.cluster.connection import draining_nodes, room, tells_draining_nodes
from nightpress.jobs.cluster.ray_errors import is_node_loss, reason_of
from nightpress.jobs.dispatch.actor import ActorFactory, RemoteActor
from nightpress.jobs.dispatch.config import GO_ON, DispatchConfig
from nightpress.jobs.dispatch.first_actor import MAX_START_FAILURES
from nightpress.jobs.dispatch.workers import Startup, Worker, times_spent
from nightpress.jobs.errors import KEPT, RunBlocked, RunStopped
from nightpress.jobs.progress.events import ActorJoined, Event, Message
from nightpress.pipelines.run_directory.record import RunRecord
from nightpress.pipelines.shards.timeline import TimeSpent
from nightpress.pipelines.storage import Store

CHECK_S = 1.0
"""Seconds between two checks of the cluster's size, and between two checks for stuck actors."""

MAX_WAIT_S = 60.0
"""The longest wait before another actor is started after some failed to start."""

NO_NOTICE = (
    "which nodes will go away: the shards of such a node are made again elsewhere once it is gone"
)


class ActorPool:
    """The actors of one run.

    Args:
        store, record: of the run.
        factory: starts actors.
        config: number of actors and timeouts.
        room: returns how many actors that need these CPUs, GPUs and bytes the cluster can hold.
        can_grow: returns whether nodes may join the cluster.
        next_model: returns the name of the model that a new actor is to load.
    """

    def __init__(
        self,
        store: Store,
        record: RunRecord,
        factory: ActorFactory,
        config: DispatchConfig,
        room: Callable[[float, float, int], int] = room,
        can_grow: Callable[[], bool] = can_grow,
        next_model: Callable[[], str | None] = lambda: None,
    ) -> None:
        self.workers: list[Worker] = []
        self.device_names: list[str] = []
        """What the devices of its actors call themselves, each name once."""
        self._factory = factory
        self._config = config
        self._room, self._can_grow, self._next_model = room, can_grow, next_model
        # Only once for all actors of a node: a long run may have used a million pictures.
        inputs = () if config.inputs is None else (ray.put(config.inputs),)
        self._begin_args = (ray.put(store), ray.put(record), config.fence, *inputs)
        # Not into the object store, which may spill to a disk: a call carries its small arguments.
        self._key = {} if config.key is None else {"key": config.key}
        self._start_failures = 0
        self._next_scaling = self._next_stuck_check = 0.0
        self._notices: Notices | None = None
        """Since when fewer actors are placed than the run asks for; None while that is not so."""
        self._is_warned, self._num_fitting = False, config.min_actors
        self._spent: list[TimeSpent] = []
        self._ended_s = 0.0
        """Seconds of the actors that have ended."""

    def __len__(self) -> int:
        """How many actors have loaded their model."""
        return sum(worker.location is not None for worker in self.workers)

    def adopt(self, handle: RemoteActor, model: str | None = None) -> None:
        """Use an actor that is already started.

        Args:
            model: the name of the model that it has, or is to load; None with a single one.
        """
        self.workers.append(Worker(handle, self._begin(handle, model), Startup(handle), model))

    def switch(self, worker: Worker, model: str | None) -> None:
        """Have an actor that holds no work change its model."""
        worker.model, worker.startup = model, Startup(worker.handle, is_placed=True)
        worker.pending_begin = self._begin(worker.handle, model)

    def _begin(self, handle: RemoteActor, model: str | None) -> Any:
        named = {} if model is None else {"model": model}
        return handle.begin.remote(*self._begin_args, **self._key, **named)

    def scale_to_cluster(self, num_waiting: int) -> Iterator[Event]:
        """Drop stuck actors, drain those on departing nodes, and start actors where there is room.

        Does nothing if it was called less than `CHECK_S` ago.

        Args:
            num_waiting: how many pieces of work wait to be handed out.
        """
        now = time.monotonic()
        if now >= self._next_stuck_check:
            self._next_stuck_check = now + CHECK_S
            yield from self._drop_stuck()
        if now < self._next_scaling:
            return
        self._next_scaling = now + CHECK_S
        if not self._is_warned and not tells_draining_nodes():
            yield Message(f"Ray {ray.__version__} does not tell {NO_NOTICE}", warning=True)
        self._is_warned = True
        self._drain_nodes(draining_nodes())
        target = self._target_size(num_waiting)
        for _ in range(target - len(self.workers)):
            self.adopt(self._factory.start(), self._next_model())
        self._drop_unneeded(target)
        yield from self._report_lack_of_room(now)

    def on_started(self, worker: Worker) -> Iterator[Event]:
        """Handle the answer of an actor that was starting: it is ready, or it failed."""
        reference, worker.pending_begin = worker.pending_begin, None
        try:
            location = ray.get(reference)
        except RayError as error:
            self.drop(worker)
            yield from self._start_failed(reason_of(error), is_node_loss(error))
            return
        self._start_failures = 0
        if worker.location is not None:
            yield Message(f"an actor on {location.host} now has the model {worker.model}")
            return
        worker.began = time.monotonic() - location.age_s
        worker.location = location
        if location.device_name is not None and location.device_name not in self.device_names:
            self.device_names.append(location.device_name)
        yield ActorJoined(location.host, len(self))
        for difference in location.differences:
            yield Message(f"on {location.host} {difference}", warning=True)

    def drain(self) -> None:
        """Have all actors finish their current batch; they are not given any more work."""
        for worker in self.workers:
            worker.drain()

    def drop(self, worker: Worker) -> None:
        """Remove an actor and kill its process, if it is still running."""
        self.workers.remove(worker)
        self._ended_s += _lifetime_s(worker, time.monotonic())
        ray.kill(worker.handle)

    def close(self) -> None:
        """Kill every actor."""
        for worker in list(self.workers):
            self.drop(worker)

    def actor_s(self) -> float:
        """Seconds of all actors together, of those that have loaded their model."""
        now = time.monotonic()
        return self._ended_s + sum(_lifetime_s(worker, now) for worker in list(self.workers))

    def time_spent(self) -> list[TimeSpent]:
        """How the actors spent their time, except those that were lost."""
        loaded = [worker for worker in self.workers if worker.location is not None]
        return [*self._spent, *times_spent(loaded)]

    def _drain_nodes(self, node_ids: Iterable[str]) -> None:
        """Drain the actors on departing nodes, and drop those that have finished draining."""
        node_ids = frozenset(node_ids)
        for worker in list(self.workers):
            location = worker.location
            if location is not None and location.node_id in node_ids and not worker.is_leaving:
                worker.drain()
            if worker.is_leaving and not worker.held:
                spent = worker.last_words()
                if spent is not None:
                    self._spent += spent
                    self.drop(worker)

    def _target_size(self, num_waiting: int) -> int:
        """How many actors the run can use now.

        On a cluster that may grow, these are up to twice as many as fit: those that are not placed
        are what Ray's autoscaler starts nodes for, and the request ends with this process.
        """
        config, factory = self._config, self._factory
        fitting = max(
            config.min_actors, self._room(factory.cpus, factory.gpus, factory.memory_bytes)
        )
        self._num_fitting = fitting
        most = 2 * fitting if self._can_grow() else fitting
        most = most if config.max_actors is None else min(most, config.max_actors)
        busy = sum(bool(worker.held) for worker in self.workers)
        return min(most, busy + num_waiting)

    def _drop_unneeded(self, target: int) -> None:
        """Take back the request for actors that are not placed and have no work to wait for."""
        unplaced = [worker for worker in self.workers if not worker.startup.is_placed]
        for worker in unplaced[: max(0, len(self.workers) - target)]:
            self.drop(worker)

    def _report_lack_of_room(self, now: float) -> Iterator[Event]:
        """Report, less and less often, that actors wait to be placed."""
        waiting = [worker for worker in self.workers if not worker.startup.is_placed]
        placed = len(self.workers) - len(waiting)
        if not waiting or placed >= self._num_fitting:  # the others wait for nodes to join
            self._notices = None
            return
        self._notices = self._notices or Notices(now)
        if self._notices.due(now):
            what = f"another actor ({placed} at work)" if placed else "an actor"
            line = waiting_line(what, self._factory.cpus, self._factory.gpus)
            yield Message(line, warning=not placed)

    def _drop_stuck(self) -> Iterator[Event]:
        """Drop actors that take too long to load their model."""
        limit_s = self._config.load_timeout_s
        for worker in list(self.workers):
            if worker.pending_begin is not None and worker.startup.seconds > limit_s:
                self.drop(worker)
                yield from self._start_failed(f"it did not load its model within {limit_s:.0f} s")

    def _start_failed(self, reason: str, node_lost: bool = False) -> Iterator[Event]:
        """Wait longer after each failure; stop the run if no other actor is left.

        Raises:
            RunStopped: several actors in a row failed to start, the last because its node was lost.
            RunBlocked: likewise, for another reason.
        """
        self._start_failures += 1
        if self._start_failures >= MAX_START_FAILURES and not self.workers:
            message = f"{self._start_failures} actors in a row failed to start: {reason}"
            if node_lost:
                raise RunStopped(f"{message}; {GO_ON}")
            raise RunBlocked(f"{message} ({KEPT})")
        self._next_scaling = time.monotonic() + min(MAX_WAIT_S, 2.0**self._start_failures)
        yield Message(f"an actor failed to start: {reason}", warning=True)


def _lifetime_s(worker: Worker, now: float) -> float:
    return 0.0 if worker.location is None else now - worker.began
