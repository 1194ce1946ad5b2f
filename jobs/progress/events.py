"""The events of a run, as small values; progress displays consume them."""

from dataclasses import dataclass

from nightpress.pipelines.shards.events import (
    BatchDone,
    BatchSplit,
    DrawsJudged,
    ShardDone,
    ShardLeft,
)


@dataclass(frozen=True)
class Message:
    """A line to show, such as what the run is waiting for."""

    text: str
    warning: bool = False


@dataclass(frozen=True)
class Planned:
    """The plan is ready; in a resumed run some of it is done already."""

    num_images: int
    num_shards: int
    num_done: int
    """Images of shards that earlier starts committed."""


@dataclass(frozen=True)
class ActorJoined:
    """An actor has loaded its model and accepts shards."""

    node: str
    num_actors: int


@dataclass(frozen=True)
class ActorLost:
    """An actor is gone; other actors get its shards."""

    node: str
    num_actors: int
    reason: str


@dataclass(frozen=True)
class ShardRetried:
    """An attempt at a shard failed, and the shard will be tried again."""

    shard: int
    attempt: int
    reason: str
    is_given_up: bool = False
    """Whether none of its rows is tried again: what is stored of it is scored and committed."""


@dataclass(frozen=True)
class RowSetAside:
    """A row crashed its process even on its own, and is recorded as failed."""

    shard: int
    row: int
    """Row number in the shard."""
    reason: str


Event = (
    Message
    | Planned
    | ActorJoined
    | ActorLost
    | ShardRetried
    | RowSetAside
    | BatchSplit
    | DrawsJudged
    | BatchDone
    | ShardLeft
    | ShardDone
)
"""Everything that `run`, `retry` and `verify` report."""
