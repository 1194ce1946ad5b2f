"""What whoever makes shards is given, and what it tells while it makes them."""

from dataclasses import dataclass, field

import pyarrow as pa

from nightpress.pipelines.records import FailureType


@dataclass(frozen=True)
class ShardBegun:
    """The accelerator has come to a shard."""

    shard: int


@dataclass(frozen=True)
class BatchSampled:
    """A batch of a shard is sampled, and none of it stored yet: a sign of life."""

    shard: int
    batch_s: float = field(default=0.0, compare=False)
    """Seconds that the latest batch took to sample."""


@dataclass(frozen=True)
class BatchDone:
    """Some images of a shard are stored, or have failed for good."""

    shard: int
    num_ok: int
    num_failed: int
    num_sampled: int
    """Of those that are ok; the others were found in the store."""
    batch_s: float = field(default=0.0, compare=False)
    """Seconds that the latest batch took to sample; 0 where none was."""

    def only_sampled(self) -> "BatchDone":
        """As it counts when these images will be counted again, as found."""
        return BatchDone(self.shard, 0, 0, self.num_sampled, self.batch_s)


@dataclass(frozen=True)
class ShardDone:
    """A shard is committed; the counts are those of the commit that stands."""

    shard: int
    num_ok: int
    num_failed: int


@dataclass(frozen=True)
class ShardLeft:
    """Work on a shard ended at a batch's end because it was asked to; what is made is stored."""

    shard: int


ShardEvent = ShardBegun | BatchSampled | BatchDone | ShardDone | ShardLeft
"""What is told while a shard is made."""


@dataclass(frozen=True)
class SetAside:
    """A row that is not tried any more."""

    row: int
    """Among those of its work."""
    attempts: int
    error_type: FailureType
    error: str


@dataclass(frozen=True)
class Amendment:
    """Rows of a committed shard that are made again; work on it counts among these alone."""

    rows: tuple[int, ...]
    replaces: bool = False
    """Whether the files under their names are damaged, and to be replaced."""
    recommits: bool = False
    """Whether the commit itself is damaged, and to be replaced; the rows are all of the shard's."""


@dataclass(frozen=True)
class ShardWork:
    """One attempt at one shard, or at some rows of it."""

    shard: int
    rows: pa.Table
    """Of the plan: all of the shard's."""
    attempt: int = 1
    look_first: bool = False
    """Whether an earlier attempt may have stored some of its images."""
    start: int = 0
    stop: int | None = None
    """Which of the rows to make; all of them unless told."""
    commits: bool = True
    """Whether the shard is committed at the end."""
    set_aside: tuple[SetAside, ...] = ()
    amends: Amendment | None = None
