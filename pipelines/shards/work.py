"""The work on one attempt at a shard: what the driver hands out and an actor does."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from nightpress.pipelines.records import FailureType


@dataclass(frozen=True)
class SetAsideRow:
    """A row that is not tried again, because it ended its process even alone."""

    row: int
    """Its position among the rows of its work."""
    attempts: int
    error_type: FailureType
    error: str


@dataclass(frozen=True)
class Amendment:
    """Rows of a committed shard that are made again."""

    rows: tuple[int, ...]
    """Their positions in the shard."""
    replaces: bool = False
    """Whether the files under their names are damaged and must be replaced."""
    recommits: bool = False
    """Whether the commit is damaged and must be replaced; `rows` then holds every row."""


@dataclass(frozen=True)
class ShardWork:
    """One attempt at some rows of a shard, usually at all of them.

    Rows are counted in the shard or, where it is amended, among the rows of its amendment. The rows
    themselves are not part of the work: the actor reads them from the plan.
    """

    shard: int
    start: int
    """The first row to make."""
    stop: int
    """The row after the last one to make."""
    attempt: int = 1
    commits: bool = True
    """Whether the attempt makes the whole shard and commits it; otherwise it only stores images."""
    set_aside: tuple[SetAsideRow, ...] = ()
    look_first: bool = False
    """Whether an earlier attempt may have stored some of the images."""
    amends: Amendment | None = None
    isolated: bool = False
    """Whether its actor may hold no other work, because a process that held this work has ended."""
    deaths: int = 0
    """How many processes ended while they worked on exactly these rows of a divided shard."""
    only: tuple[int, ...] | None = None
    """The rows to make, in order, if not all from `start` to `stop`."""
    singly: bool = False
    """Whether each image is sampled in a batch of its own, padded as ever."""
    suspected: bool = False
    """Whether a process ended with these rows in hand."""

    @property
    def rows(self) -> Sequence[int]:
        """The rows to make."""
        return range(self.start, self.stop) if self.only is None else self.only

    @property
    def num_rows(self) -> int:
        """How many rows to make."""
        return len(self.rows)

    @property
    def names_batches(self) -> bool:
        """Whether each batch is reported before it is sampled, and nothing is prepared ahead."""
        return self.isolated

    @property
    def is_first_attempt(self) -> bool:
        """Whether no process may have ended because of it yet, and it may share its actor."""
        return self.attempt == 1 and not self.isolated

    @property
    def replaces(self) -> bool:
        """Whether the files under the images' names are damaged and must be replaced."""
        return self.amends is not None and self.amends.replaces

    @property
    def recommits(self) -> bool:
        """Whether the commit of the shard is damaged and must be replaced."""
        return self.amends is not None and self.amends.recommits

    def next_attempt(self) -> Self:
        """The same rows, one attempt later."""
        return replace(self, attempt=self.attempt + 1, look_first=True)

    def part(
        self, rows: Sequence[int], *, singly: bool = False, suspected: bool = False, deaths: int = 0
    ) -> Self:
        """Some of the rows, to be tried in isolation and without a commit."""
        return replace(
            self.next_attempt(),
            only=tuple(rows),
            singly=singly,
            suspected=suspected,
            deaths=deaths,
            commits=False,
            isolated=True,
        )

    def halves(self) -> tuple[Self, Self]:
        """Both halves, each to be tried in isolation and without a commit."""
        rows, middle = self.rows, self.num_rows // 2
        return (
            self.part(rows[:middle], singly=self.singly),
            self.part(rows[middle:], singly=self.singly),
        )
