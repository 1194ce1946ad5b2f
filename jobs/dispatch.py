"""Dispatch: shards to actors, bounded in flight, bounded attempts.

Actors pull: one that has finished a shard gets the next. The number of actors follows the
cluster. A shard whose actor died goes to another; only an actor that died on a node which lives
counts against its shard, so that spot nodes may come and go.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, NodeDiedError, RayError, RayTaskError

from diffusion_core.errors import DeviceError
from jobs.actors import ActorFactory, Assignment, RemoteActor, Whereabouts
from jobs.cluster import alive_nodes, room
from jobs.errors import RunStopped
from jobs.events import ActorJoined, ActorLost, Event, Message, ShardRetried
from pipelines.errors import StoreError
from pipelines.planning import read_shard
from pipelines.run_record import RunRecord
from pipelines.shard import BatchDone, ShardDone, ShardWork, fail_shard
from pipelines.storage import Store

IN_FLIGHT = 2
"""Shards an actor holds: one in hand, and one so that it never waits for the driver."""

POLL_S = 1.0
"""How long one wait for events lasts; also how often the cluster is looked at."""

MAX_START_FAILURES = 3
"""Actors that may fail to start, one after the other, before the run stops."""

NODE_LOSSES_PER_ATTEMPT = 5
"""Node losses count less than crashes, but a row that takes whole nodes down must end too."""


@dataclass
class Task:
    """A shard on its way: how often it was handed out, and what it did to its workers."""

    shard: int
    attempt: int = 0
    crashes: int = 0
    node_losses: int = 0
    store_failures: int = 0
    last_reason: str = ""


@dataclass
class Worker:
    """An actor as the driver sees it."""

    handle: RemoteActor
    ready: Any
    """The reference of `begin`; None once it has answered."""
    home: Whereabouts | None = None
    flights: deque[tuple[Task, Any]] = field(default_factory=deque)
    """Tasks in hand with their streams of events, the one being worked on first."""


class Dispatcher:
    """Hands the shards of one run to actors until none is left."""

    def __init__(
        self,
        store: Store,
        record: RunRecord,
        factory: ActorFactory,
        *,
        min_actors: int,
        max_actors: int | None,
        max_attempts: int,
        look_first: bool,
        room: Callable[[float, float], int] = room,
    ) -> None:
        self._store = store
        self._record = record
        self._factory = factory
        self._min_actors = min_actors
        self._max_actors = max_actors
        self._max_attempts = max_attempts
        self._look_first = look_first
        self._room = room
        self._todo: deque[Task] = deque()
        self._workers: list[Worker] = []
        self._begin_args = (ray.put(store), ray.put(record))
        self._start_failures = 0
        self._next_look = 0.0

    @property
    def num_actors(self) -> int:
        """Actors that have a model loaded."""
        return sum(worker.home is not None for worker in self._workers)

    def adopt(self, handle: RemoteActor) -> None:
        """Use an actor that was started earlier."""
        ready = handle.begin.remote(*self._begin_args)
        self._workers.append(Worker(handle, ready))

    def run(self, shards: Iterable[int]) -> Iterator[Event]:
        """Make the shards; yields what happens.

        Raises:
            RunStopped: the store or every actor fails for good; what is committed stays.
        """
        self._todo.extend(Task(shard) for shard in shards)
        while self._todo or any(worker.flights for worker in self._workers):
            self._grow()
            self._hand_out()
            yield from self._handle_one_round()

    def close(self) -> None:
        """End every actor."""
        for worker in self._workers:
            ray.kill(worker.handle)
        self._workers.clear()

    def _grow(self) -> None:
        """Start actors while the cluster has room for them and there is work."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + POLL_S
        for _ in range(self._wanted() - len(self._workers)):
            self.adopt(self._factory.start())

    def _wanted(self) -> int:
        fitting = max(self._min_actors, self._room(self._factory.cpus, self._factory.gpus))
        most = fitting if self._max_actors is None else min(fitting, self._max_actors)
        busy = sum(bool(worker.flights) for worker in self._workers)
        return min(most, busy + len(self._todo))

    def _hand_out(self) -> None:
        """Fill the actors evenly: everyone gets a first shard before anyone gets a second."""
        for depth in range(IN_FLIGHT):
            for worker in self._workers:
                if self._todo and worker.home is not None and len(worker.flights) <= depth:
                    self._give(worker, self._todo.popleft())

    def _give(self, worker: Worker, task: Task) -> None:
        task.attempt += 1
        look_first = self._look_first or task.attempt > 1
        assignment = Assignment(task.shard, task.attempt, look_first)
        stream = worker.handle.run_shard.options(num_returns="streaming").remote(assignment)
        worker.flights.append((task, stream))

    def _handle_one_round(self) -> Iterator[Event]:
        waiting: dict[Any, Worker] = {}
        for worker in self._workers:
            if worker.ready is not None:
                waiting[worker.ready] = worker
            elif worker.flights:
                waiting[worker.flights[0][1]] = worker
        if not waiting:
            time.sleep(POLL_S)
            return
        ready, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=0.0, fetch_local=False)
        if not ready:
            ready, _ = ray.wait(list(waiting), num_returns=1, timeout=POLL_S, fetch_local=False)
        for reference in ready:
            worker = waiting[reference]
            handle = self._on_stream if worker.ready is None else self._on_ready
            yield from handle(worker)

    def _on_ready(self, worker: Worker) -> Iterator[Event]:
        reference, worker.ready = worker.ready, None
        try:
            worker.home = ray.get(reference)
        except RayError as error:
            self._drop(worker)
            yield from self._start_failed(_reason(error))
            return
        self._start_failures = 0
        assert worker.home is not None  # noqa: S101 - begin always answers where it is
        yield ActorJoined(worker.home.host, self.num_actors)
        for difference in worker.home.differences:
            yield Message(f"on {worker.home.host} {difference}", warning=True)

    def _start_failed(self, reason: str) -> Iterator[Event]:
        """Wait longer each time; stop when nobody else is working either."""
        self._start_failures += 1
        if self._start_failures >= MAX_START_FAILURES and not self._workers:
            raise RunStopped(f"{self._start_failures} actors in a row did not start: {reason}")
        self._next_look = time.monotonic() + min(60.0, 2.0**self._start_failures)
        yield Message(f"an actor did not start: {reason}", warning=True)

    def _on_stream(self, worker: Worker) -> Iterator[Event]:
        """Take one event from the shard that the worker has in hand."""
        task, stream = worker.flights[0]
        try:
            event: BatchDone | ShardDone = ray.get(next(stream))
        except StopIteration:
            worker.flights.popleft()
        except RayTaskError as error:
            if isinstance(error.cause, DeviceError):
                yield from self._worker_lost(worker, error)
            else:
                worker.flights.popleft()
                yield from self._attempt_failed(task, error)
        except RayError as error:
            yield from self._worker_lost(worker, error)
        else:
            yield event

    def _attempt_failed(self, task: Task, error: RayTaskError) -> Iterator[Event]:
        """The shard's code raised; the actor lives."""
        task.last_reason = _reason(error)
        if isinstance(error.cause, StoreError):
            task.store_failures += 1
            if task.store_failures >= self._max_attempts:
                raise RunStopped(f"the store failed time and again: {task.last_reason}")
        else:
            task.crashes += 1
        yield from self._again(task, type(error.cause).__name__)

    def _worker_lost(self, worker: Worker, error: RayError) -> Iterator[Event]:
        """The actor is gone: blame the shard it had in hand, hand out again what it held."""
        self._drop(worker)
        reason = _reason(error)
        assert worker.home is not None  # noqa: S101 - only a worker that has begun has shards
        yield ActorLost(worker.home.host, self.num_actors, reason)
        task = worker.flights[0][0]
        task.last_reason = reason
        # A node that goes silent is called dead only after a while; first it is unavailable.
        silent = isinstance(error, (ActorUnavailableError, NodeDiedError))
        if silent or worker.home.node_id not in alive_nodes():
            task.node_losses += 1
        else:
            task.crashes += 1
        for queued, _ in list(worker.flights)[:0:-1]:
            queued.attempt -= 1
            self._todo.appendleft(queued)
        yield from self._again(task, "WorkerLost")

    def _drop(self, worker: Worker) -> None:
        """Forget an actor, and make sure that it is no zombie."""
        self._workers.remove(worker)
        ray.kill(worker.handle)

    def _again(self, task: Task, error_type: str) -> Iterator[Event]:
        """Hand the shard out again, or give it up when it has had its chances."""
        losses = self._max_attempts * NODE_LOSSES_PER_ATTEMPT
        if task.crashes < self._max_attempts and task.node_losses < losses:
            self._todo.appendleft(task)
            yield ShardRetried(task.shard, task.attempt, task.last_reason)
            return
        rows = read_shard(self._store, self._record.layout, task.shard)
        work = ShardWork(task.shard, rows, attempt=task.attempt)
        done = fail_shard(self._store, self._record, work, error_type, task.last_reason)
        yield BatchDone(done.shard, done.num_ok, done.num_failed, num_sampled=0)
        yield done


def _reason(error: Exception) -> str:
    """The one line that says something, out of what Ray wraps around it."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    if not lines:
        return type(cause).__name__
    if isinstance(error, RayTaskError):
        return lines[0]
    if "creation task" in lines[0]:
        return lines[-1]
    return next((line for line in lines if "because" in line), lines[0])
