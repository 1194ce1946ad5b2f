"""What happens during a run, as small values: whoever shows progress consumes them."""

from dataclasses import dataclass

from nightpress.pipelines.shards.events import BatchDone, ShardDone, ShardLeft


@dataclass(frozen=True)
class Message:
    """Something worth one line, such as what is being waited for."""

    text: str
    warning: bool = False


@dataclass(frozen=True)
class Planned:
    """The plan stands; a resumed run has some of it behind it."""

    num_images: int
    num_shards: int
    num_done: int
    """Images of shards that were committed before this start."""


@dataclass(frozen=True)
class ActorJoined:
    """An actor has loaded its model and takes shards."""

    node: str
    num_actors: int


@dataclass(frozen=True)
class ActorLost:
    """An actor is gone; its shards go to others."""

    node: str
    num_actors: int
    reason: str


@dataclass(frozen=True)
class ShardRetried:
    """An attempt at a shard failed, and the shard is handed out again."""

    shard: int
    attempt: int
    reason: str


@dataclass(frozen=True)
class RowSetAside:
    """A row ended its process even alone, and is not tried again."""

    shard: int
    row: int
    """In the shard."""
    reason: str


Event = (
    Message
    | Planned
    | ActorJoined
    | ActorLost
    | ShardRetried
    | RowSetAside
    | BatchDone
    | ShardLeft
    | ShardDone
)
"""Everything that `jobs.run` reports."""
