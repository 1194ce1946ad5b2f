"""The actors of a run: how many there are, which are loading, which must go.

Their number follows the cluster. Knows nothing of what they are given to do.
"""

import time
from collections.abc import Callable, Iterable, Iterator

import ray
from ray.exceptions import RayError

from nightpress.jobs.cluster.connection import draining_nodes, room
from nightpress.jobs.cluster.ray_errors import reason_of
from nightpress.jobs.dispatch.actor import ActorFactory, RemoteActor
from nightpress.jobs.dispatch.config import DispatchConfig
from nightpress.jobs.dispatch.first_actor import MAX_START_FAILURES
from nightpress.jobs.dispatch.workers import Startup, Worker, times_spent
from nightpress.jobs.errors import RunStopped
from nightpress.jobs.progress.events import ActorJoined, Event, Message
from nightpress.pipelines.run_directory.record import RunRecord
from nightpress.pipelines.shards.timeline import TimeSpent
from nightpress.pipelines.storage import Store

LOOK_S = 1.0
"""How often the cluster is looked at."""

LONGEST_WAIT_S = 60.0
"""Before another actor is started, after some did not start."""


class ActorPool:
    """The actors of one run.

    Args:
        store, record: of the run.
        factory: starts actors.
        terms: what the job asks for.
        room: how many actors of so many CPUs and GPUs the cluster can hold.
    """

    def __init__(
        self,
        store: Store,
        record: RunRecord,
        factory: ActorFactory,
        terms: DispatchConfig,
        room: Callable[[float, float], int] = room,
    ) -> None:
        self.workers: list[Worker] = []
        self._factory = factory
        self._terms = terms
        self._room = room
        self._begin_args = (ray.put(store), ray.put(record), terms.fence)
        self._start_failures = 0
        self._next_look = self._next_check = 0.0
        self._spent: list[TimeSpent] = []

    def __len__(self) -> int:
        """Actors that have a model loaded."""
        return sum(worker.home is not None for worker in self.workers)

    def adopt(self, handle: RemoteActor) -> None:
        """Use an actor that was started earlier."""
        ready = handle.begin.remote(*self._begin_args)
        self.workers.append(Worker(handle, ready, Startup(handle)))

    def follow_the_cluster(self, num_waiting: int) -> Iterator[Event]:
        """See which nodes go away and who is stuck, and start actors where there is room.

        Args:
            num_waiting: pieces of work that nobody has yet.
        """
        now = time.monotonic()
        if now >= self._next_check:
            self._next_check = now + LOOK_S
            yield from self._end_the_stuck()
        if now < self._next_look:
            return
        self._next_look = now + LOOK_S
        self._leave_nodes(draining_nodes())
        for _ in range(self._wanted(num_waiting) - len(self.workers)):
            self.adopt(self._factory.start())

    def started(self, worker: Worker) -> Iterator[Event]:
        """An actor has answered: it stands, or it did not start."""
        reference, worker.ready = worker.ready, None
        try:
            worker.home = ray.get(reference)
        except RayError as error:
            self.drop(worker)
            yield from self._start_failed(reason_of(error))
            return
        self._start_failures = 0
        assert worker.home is not None  # noqa: S101 - begin always answers where it is
        yield ActorJoined(worker.home.host, len(self))
        for difference in worker.home.differences:
            yield Message(f"on {worker.home.host} {difference}", warning=True)

    def drain(self) -> None:
        """Have all of them finish the batch in hand, and take nothing more."""
        for worker in self.workers:
            worker.drain()

    def drop(self, worker: Worker) -> None:
        """Forget an actor, and make sure that it is no zombie."""
        self.workers.remove(worker)
        ray.kill(worker.handle)

    def close(self) -> None:
        """End every actor."""
        for worker in list(self.workers):
            self.drop(worker)

    def time_spent(self) -> list[TimeSpent]:
        """What the actors did with their time, but for those that were lost."""
        return [*self._spent, *times_spent([w for w in self.workers if w.home is not None])]

    def _leave_nodes(self, going: Iterable[str]) -> None:
        """Have actors on nodes that go away finish the batch in hand, and take nothing more."""
        going = frozenset(going)
        for worker in list(self.workers):
            if worker.home is not None and worker.home.node_id in going and not worker.leaving:
                worker.drain()
            if worker.leaving and not worker.flights:
                self._spent += times_spent([worker])
                self.drop(worker)

    def _wanted(self, num_waiting: int) -> int:
        terms = self._terms
        fitting = max(terms.min_actors, self._room(self._factory.cpus, self._factory.gpus))
        most = fitting if terms.max_actors is None else min(fitting, terms.max_actors)
        busy = sum(bool(worker.flights) for worker in self.workers)
        return min(most, busy + num_waiting)

    def _end_the_stuck(self) -> Iterator[Event]:
        """End actors that have been loading their model for far too long."""
        limit_s = self._terms.load_timeout_s
        for worker in list(self.workers):
            if worker.ready is not None and worker.startup.seconds > limit_s:
                self.drop(worker)
                yield from self._start_failed(f"its model was not loaded in {limit_s:.0f} s")

    def _start_failed(self, reason: str) -> Iterator[Event]:
        """Wait longer each time; stop when nobody else is working either."""
        self._start_failures += 1
        if self._start_failures >= MAX_START_FAILURES and not self.workers:
            raise RunStopped(f"{self._start_failures} actors in a row did not start: {reason}")
        self._next_look = time.monotonic() + min(LONGEST_WAIT_S, 2.0**self._start_failures)
        yield Message(f"an actor did not start: {reason}", warning=True)
