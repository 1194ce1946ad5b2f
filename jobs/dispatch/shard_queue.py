"""The worklist: which rows of which shards are still to be made, and what their failures mean.

A shard is handed out whole. One that keeps ending its process is halved until the row that does it
stands alone; that row is set aside, and the rest is committed. Whatever a process had in hand when
it ended has the next one to itself, for an end must say whose fault it is: what a dying process
told last may not have been sent. Pure state: knows nothing of actors, clocks or stores.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from enum import Enum, auto

from nightpress.pipelines.records import FailureType
from nightpress.pipelines.shards.runner import SetAside

DEATHS_ALONE = 2
"""Processes that a row has to end all alone before it is set aside: one may end by chance."""

LOSSES_PER_ATTEMPT = 5
"""A lost node counts less than a crash, but a row that takes whole nodes down must end too."""


@dataclass(frozen=True)
class Piece:
    """Rows of one shard that are handed out together."""

    shard: int
    start: int
    stop: int
    attempt: int
    commits: bool = True
    """Whether it is the whole shard and ends in its commit; else its images are only stored."""
    set_aside: tuple[SetAside, ...] = ()
    """Rows that are not tried again."""
    alone: bool = False
    """Whether its actor may have nothing else in hand: a process that had it has ended."""
    deaths: int = 0
    """Of processes that had these very rows and no others; counted once the shard is halved."""

    @property
    def num_rows(self) -> int:
        """How many it holds."""
        return self.stop - self.start

    def halves(self) -> tuple["Piece", "Piece"]:
        """Both halves, to be tried without a commit."""
        middle = self.start + self.num_rows // 2
        attempt = self.attempt + 1
        return (
            Piece(self.shard, self.start, middle, attempt, commits=False, alone=True),
            Piece(self.shard, middle, self.stop, attempt, commits=False, alone=True),
        )

    def again(self) -> "Piece":
        """The same rows, a further time."""
        return replace(self, attempt=self.attempt + 1)


class Stage(Enum):
    """How a shard is tried."""

    WHOLE = auto()
    HALVES = auto()
    """In pieces that do not commit, until each row that ends its process stands alone."""
    LAST = auto()
    """Whole again, without those rows."""


@dataclass
class Shard:
    """A shard on its way."""

    num_rows: int
    stage: Stage = Stage.WHOLE
    crashes: int = 0
    """Of its whole, in all stages."""
    losses: int = 0
    attempts: int = 1
    """The most that any of its rows had."""
    open_pieces: int = 1
    """Handed out or waiting."""
    set_aside: list[SetAside] = field(default_factory=list)


class ShardQueue:
    """What is left of a run.

    Args:
        shards: to be made.
        num_rows: how many rows a shard has.
        max_attempts: how often a shard may end its process: the last time but one in a whole.
    """

    def __init__(
        self, shards: Iterable[int], num_rows: Callable[[int], int], max_attempts: int
    ) -> None:
        self._shards: dict[int, Shard] = {}
        self._num_rows = num_rows
        self._max_attempts = max_attempts
        self._fresh = deque(shards)
        self._again: deque[Piece] = deque()
        self._done: set[int] = set()

    def __len__(self) -> int:
        """Pieces that wait to be handed out."""
        return len(self._again) + len(self._fresh)

    @property
    def is_finished(self) -> bool:
        """Whether nothing waits and nothing is handed out."""
        return not self and not self._shards

    def take(self) -> Piece:
        """The next piece; those that were handed out before come first."""
        return self._again.popleft() if self._again else self._take_fresh()

    def take_beside(self) -> Piece | None:
        """The next piece that an actor may have behind another; None if none may be."""
        for piece in self._again:
            if not piece.alone:
                self._again.remove(piece)
                return piece
        return self._take_fresh() if self._fresh else None

    def _take_fresh(self) -> Piece:
        shard = self._fresh.popleft()
        num_rows = self._num_rows(shard)
        self._shards[shard] = Shard(num_rows)
        return Piece(shard, 0, num_rows, attempt=1)

    def give_back(self, piece: Piece) -> None:
        """It comes back, and nobody is to blame; it is handed out again before others."""
        if piece.shard not in self._done:
            self._again.appendleft(piece)

    def done(self, piece: Piece) -> bool:
        """A piece came to its end; True if its shard has now, for the first time."""
        if piece.shard in self._done:
            return False
        if piece.commits:
            self.close(piece.shard)
            return True
        self._piece_ended(piece)
        return False

    def is_done(self, shard: int) -> bool:
        """Whether a shard came to its end."""
        return shard in self._done

    def num_set_aside(self, shard: int) -> int:
        """The rows of a shard that are not tried again."""
        return len(self._shards[shard].set_aside) if shard in self._shards else 0

    def lost(self, piece: Piece) -> bool:
        """The machine below a piece went away, which says little about the piece.

        Returns:
            Whether the shard goes on; False when it is time to give it up.
        """
        shard = self._shards.get(piece.shard)
        if shard is None:
            return True
        shard.losses += 1
        if piece.commits and shard.stage is Stage.HALVES:
            return True
        if shard.losses >= LOSSES_PER_ATTEMPT * self._max_attempts:
            return self.crashed(piece, FailureType.WORKER_KILLED, "it was on too many lost nodes")
        self._repeat(piece)
        return True

    def crashed(self, piece: Piece, error_type: FailureType, error: str) -> bool:
        """The process that had a piece in hand ended, or hung.

        Returns:
            Whether the shard goes on; False when it is time to give it up.
        """
        shard = self._shards.get(piece.shard)
        if shard is None:
            return True
        shard.attempts = max(shard.attempts, piece.attempt)
        if piece.commits:
            shard.crashes += 1
            return self._whole_crashed(shard, piece)
        if piece.num_rows > 1:
            self._split(shard, piece)
        elif piece.deaths + 1 < DEATHS_ALONE:
            self._repeat(replace(piece, deaths=piece.deaths + 1))
        else:
            shard.set_aside.append(SetAside(piece.start, piece.attempt, error_type, error))
            self._piece_ended(piece)
        return True

    def _whole_crashed(self, shard: Shard, piece: Piece) -> bool:
        match shard.stage:
            case Stage.WHOLE if shard.crashes < self._max_attempts - 1:
                self._repeat(piece)
            case Stage.WHOLE:
                self._split(shard, piece)
            case Stage.HALVES:  # a copy of the whole, handed out before it was halved
                pass
            case Stage.LAST if shard.crashes < 2 * self._max_attempts:
                self._repeat(piece)
            case Stage.LAST:
                return False
        return True

    def _split(self, shard: Shard, piece: Piece) -> None:
        alone = replace(piece.again(), commits=False, alone=True, deaths=shard.crashes)
        parts = piece.halves() if piece.num_rows > 1 else (alone,)
        shard.open_pieces += len(parts) - 1
        shard.stage = Stage.HALVES
        self._again.extendleft(reversed(parts))

    def _repeat(self, piece: Piece) -> None:
        self._again.appendleft(replace(piece.again(), alone=True))

    def _piece_ended(self, piece: Piece) -> None:
        """After the last piece of a halved shard comes its commit."""
        shard = self._shards[piece.shard]
        shard.open_pieces -= 1
        if not shard.open_pieces:
            shard.open_pieces, shard.stage = 1, Stage.LAST
            aside = tuple(sorted(shard.set_aside, key=lambda row: row.row))
            attempt = shard.attempts + 1
            whole = Piece(piece.shard, 0, shard.num_rows, attempt, set_aside=aside, alone=True)
            self._again.appendleft(whole)

    def close(self, shard: int) -> None:
        """It is committed, or given up: nothing more is handed out of it."""
        self._shards.pop(shard, None)
        self._done.add(shard)
        self._again = deque(piece for piece in self._again if piece.shard != shard)
