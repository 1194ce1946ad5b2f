"""Actors as their driver sees them: what they have in hand, and since when."""

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from nightpress.jobs.dispatch.actor import CONTROL, ActorLocation, RemoteActor
from nightpress.jobs.dispatch.shard_queue import Piece
from nightpress.pipelines.shards.runner import ShardBegun
from nightpress.pipelines.shards.timeline import TimeSpent

ANSWER_S = 5.0
"""How long an actor may take to say what it is doing."""


@dataclass
class InFlightShard:
    """A piece handed to an actor."""

    piece: Piece
    stream: Any
    is_copy: bool = False
    """Whether another actor has the same piece."""
    begun_at: float | None = None
    """When its actor came to it, by the monotonic clock; None while others are before it."""
    heard_at: float = 0.0
    num_sampled: int = 0
    is_done: bool = False
    """Whether its shard is committed, and only the end of its stream is to come."""
    was_left: bool = False
    """Whether its actor was asked to stop before the end of it."""
    turn: int = 0
    """Its number among those of its actor."""

    @property
    def has_news(self) -> bool:
        """Whether its stream has something to tell, be it its end."""
        return bool(ray.wait([self.stream], timeout=0.0, fetch_local=False)[0])

    def has_the_accelerator(self) -> bool:
        """Whether its actor had come to sample it; asked when the actor is gone.

        What was found in the store is told before that.
        """
        while self.has_news:
            try:
                event = ray.get(next(self.stream))
            except (RayError, StopIteration):
                return False
            if isinstance(event, ShardBegun):
                return True
        return False


class Startup:
    """How long an actor has been busy since it has its place; waiting for one does not count."""

    def __init__(self, handle: RemoteActor) -> None:
        self._placed = handle.__ray_ready__.options(concurrency_group=CONTROL).remote()
        self._since: float | None = None

    @property
    def is_placed(self) -> bool:
        """Whether its process runs."""
        if self._since is None and ray.wait([self._placed], timeout=0.0, fetch_local=False)[0]:
            self._since = time.monotonic()
        return self._since is not None

    @property
    def seconds(self) -> float:
        """Since its process was first seen to run."""
        return time.monotonic() - self._since if self.is_placed and self._since else 0.0


@dataclass
class Worker:
    """An actor as the driver sees it."""

    handle: RemoteActor
    ready: Any
    """The reference of `begin`; None once it has answered."""
    startup: Startup
    home: ActorLocation | None = None
    flights: list[InFlightShard] = field(default_factory=list)
    """What it has in hand, the one being worked on first."""
    leaving: bool = False
    """Whether it takes nothing more."""
    turns: Iterator[int] = field(default_factory=count)
    """The numbers of what it will be handed."""

    @property
    def takes_work(self) -> bool:
        """Whether it may be given a shard."""
        has_room = not any(flight.piece.alone for flight in self.flights)
        return has_room and self.home is not None and not self.leaving

    def begin_next(self) -> None:
        """Note that it comes to its first flight now."""
        if self.flights and self.flights[0].begun_at is None:
            now = time.monotonic()
            self.flights[0].begun_at = self.flights[0].heard_at = now

    @property
    def undone(self) -> list[InFlightShard]:
        """What it has in hand and has not committed."""
        return [flight for flight in self.flights if not flight.is_done]

    def to_blame(self) -> InFlightShard | None:
        """What it was sampling when it ended: the last flight that the accelerator had come to.

        Those before it were being stored, those after it were waiting. It may be the one before
        that, if the process had no time to send what it told last.
        """
        if not self.undone:
            return None
        begun = [flight for flight in self.undone[1:] if flight.has_the_accelerator()]
        return begun[-1] if begun else self.undone[0]

    def drain(self) -> None:
        """Have it finish the batch in hand, and take nothing more."""
        self.leaving = True
        if self.home is not None:
            self.handle.drain.remote()

    def hangs(self) -> bool:
        """Whether it is stuck in a batch of its first flight; who waits for a store is not."""
        turn = self.flights[0].turn
        try:
            sampling: bool = ray.get(self.handle.is_sampling.remote(turn), timeout=ANSWER_S)
        except GetTimeoutError:
            return True  # stuck so deep that it cannot even answer
        except RayError:
            return False  # it is gone, as its stream will say
        return sampling


def times_spent(workers: Sequence[Worker]) -> Iterator[TimeSpent]:
    """What actors did with their time, of those that say so in `ANSWER_S`; asked all at once."""
    asked = [worker.handle.time_spent.remote() for worker in workers]
    ready, _ = ray.wait(asked, num_returns=len(asked), timeout=ANSWER_S)
    for answer in ready:
        with suppress(RayError):  # it is gone
            yield ray.get(answer)


LOOKING_SHARE = 0.02
"""Of the driver's time, that goes into looking."""

LONGEST_PAUSE_S = 0.25
"""Between two looks at most, while there is something to tell."""


class WorkerWatch:
    """Looks no more often than keeps the cost of looking small: meanwhile news gather.

    So each costs much the same among few streams and among many. A single one is heard at once.
    """

    def __init__(self) -> None:
        self._pause_s = 0.0

    def ready(self, waiting: list[Any], timeout_s: float) -> list[Any]:
        """Those that have something to tell; none, if for so long none has.

        Args:
            waiting: references, and streams that are taken from by nobody else; at least one.
            timeout_s: beside the pause.
        """
        began = time.thread_time()
        ready, _ = ray.wait(
            waiting, num_returns=len(waiting), timeout=self._pause_s, fetch_local=False
        )
        looked_s = time.thread_time() - began
        self._pause_s = min(LONGEST_PAUSE_S, looked_s / LOOKING_SHARE)
        if not ready:
            ready, _ = ray.wait(waiting, num_returns=1, timeout=timeout_s, fetch_local=False)
        return list(ready)
