"""Actors as their driver sees them: what they have in hand, and since when."""

import time
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from jobs.actors import CONTROL, RemoteActor, Whereabouts
from jobs.worklist import Piece

ANSWER_S = 5.0
"""How long an actor may take to say what it is doing."""


@dataclass
class Flight:
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
    home: Whereabouts | None = None
    flights: list[Flight] = field(default_factory=list)
    """What it has in hand, the one being worked on first."""
    leaving: bool = False
    """Whether it takes nothing more."""

    @property
    def takes_work(self) -> bool:
        """Whether it may be given a shard."""
        return self.home is not None and not self.leaving

    def begin_next(self) -> None:
        """Note that it comes to its first flight now."""
        if self.flights and self.flights[0].begun_at is None:
            now = time.monotonic()
            self.flights[0].begun_at = self.flights[0].heard_at = now

    def drain(self) -> None:
        """Have it finish the batch in hand, and take nothing more."""
        self.leaving = True
        if self.home is not None:
            self.handle.drain.remote()

    def hangs(self) -> bool:
        """Whether it is stuck in a batch, as one that waits for its store is not."""
        try:
            sampling: bool = ray.get(self.handle.is_sampling.remote(), timeout=ANSWER_S)
        except GetTimeoutError:
            return True  # stuck so deep that it cannot even answer
        except RayError:
            return False  # it is gone, as its stream will say
        return sampling
