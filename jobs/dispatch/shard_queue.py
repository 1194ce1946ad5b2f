"""The queue of shards: what is still to be made, and how failures change it.

A shard is handed out whole. Whatever a process held when it crashed is retried in isolation: the
last events of a dying process may never have arrived, so only the crash of a process that held a
single piece of work shows for certain which work caused it.

Isolated work names each batch before it samples it. When it crashes its process once more, the rows
of that batch are tried first, one at a time, which names the row. If the named rows turn out to be
innocent, or none were named, the work is halved instead. Rows that crash their process even alone
are set aside, and the rest is committed.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto

from nightpress.pipelines.records import FailureType
from nightpress.pipelines.shards.work import SetAsideRow, ShardWork

MIN_DEATHS_ALONE = 2
"""How many processes a row must crash on its own before it is set aside: one may end by chance."""

LOSSES_PER_ATTEMPT = 5
"""How many lost nodes count as one attempt: a row that takes down whole nodes must be given up."""


class Stage(Enum):
    """How a shard is tried."""

    WHOLE = auto()
    DIVIDED = auto()
    """In parts that do not commit, until each row that crashes its process is isolated."""
    FINAL = auto()
    """Whole again, without the rows that were set aside."""
    GIVEN_UP = auto()
    """Whole, with every row set aside: an actor scores what is stored, and commits."""


@dataclass
class ShardState:
    """A shard that was handed out and is not finished."""

    whole: ShardWork
    """Its first attempt."""
    stage: Stage = Stage.WHOLE
    crashes: int = 0
    """How many processes crashed while making the whole shard, in any stage."""
    losses: int = 0
    """How many nodes were lost while making any part of it."""
    attempts: int = 1
    """The highest attempt number of any part that crashed."""
    open_parts: int = 1
    """How many parts are handed out or waiting."""
    set_aside: list[SetAsideRow] = field(default_factory=list)
    trusts_names: bool = True
    """Whether rows that were in hand during a crash have been guilty so far."""


class ShardQueue:
    """The work that is left of a run.

    Args:
        shards: the shards to make.
        first_attempt: returns the work of a shard's first attempt.
        max_attempts: a whole shard is divided after it has crashed `max_attempts - 1` processes,
            but at least one, and given up after it has crashed twice `max_attempts`.
        model_of: the name of a shard's model; shards of the same model are handed out together.
        needs_actor: whether a shard that is given up is handed out once more, with every row set
            aside, because only an actor can score the images of it that are stored.
    """

    def __init__(
        self,
        shards: Iterable[int],
        first_attempt: Callable[[int], ShardWork],
        max_attempts: int,
        needs_actor: bool = False,
        model_of: Callable[[int], str | None] = lambda shard: None,
    ) -> None:
        self._states: dict[int, ShardState] = {}
        self._first_attempt = first_attempt
        self._max_attempts = max_attempts
        self._needs_actor = needs_actor
        self._model_of = model_of
        self._fresh: dict[str | None, deque[int]] = {}
        for shard in shards:
            self._fresh.setdefault(model_of(shard), deque()).append(shard)
        self._retries: deque[ShardWork] = deque()
        self._done: set[int] = set()

    def __len__(self) -> int:
        """How many pieces of work wait to be handed out."""
        return len(self._retries) + sum(map(len, self._fresh.values()))

    def waiting(self, model: str | None = None) -> int:
        """How many pieces of work with a model wait to be handed out."""
        retries = sum(self._model_of(work.shard) == model for work in self._retries)
        return retries + len(self._fresh.get(model, ()))

    @property
    def models(self) -> tuple[str | None, ...]:
        """The models of the shards that are to be made, in the order of their first shards."""
        return tuple(self._fresh)

    @property
    def is_finished(self) -> bool:
        """Whether nothing waits and nothing is handed out."""
        return not self and not self._states

    def take(self, model: str | None = None) -> ShardWork:
        """Take the next work with a model, which must wait; retries come before fresh shards."""
        for work in self._retries:
            if self._model_of(work.shard) == model:
                self._retries.remove(work)
                return work
        return self._take_fresh(model)

    def take_shared(self, model: str | None = None) -> ShardWork | None:
        """Take the next work that may share an actor with other work; None if there is none."""
        for work in self._retries:
            if not work.isolated and self._model_of(work.shard) == model:
                self._retries.remove(work)
                return work
        return self._take_fresh(model) if self._fresh.get(model) else None

    def _take_fresh(self, model: str | None) -> ShardWork:
        work = self._first_attempt(self._fresh[model].popleft())
        self._states[work.shard] = ShardState(work)
        return work

    def requeue(self, work: ShardWork) -> None:
        """Put work that was not done back at the front, with no blame."""
        if work.shard not in self._done:
            self._retries.appendleft(work)

    def complete(self, work: ShardWork) -> bool:
        """Note that work is done; returns whether that finishes its shard for the first time."""
        if work.shard in self._done:
            return False
        if work.commits:
            self.close(work.shard)
            return True
        if work.suspected and work.shard in self._states:
            self._states[work.shard].trusts_names = False
        self._complete_part(work.shard)
        return False

    def is_done(self, shard: int) -> bool:
        """Whether a shard is committed or given up."""
        return shard in self._done

    def is_given_up(self, shard: int) -> bool:
        """Whether no row of an unfinished shard is tried again."""
        return shard in self._states and self._states[shard].stage is Stage.GIVEN_UP

    def num_set_aside(self, shard: int) -> int:
        """How many rows of an unfinished shard are not tried again."""
        return len(self._states[shard].set_aside) if shard in self._states else 0

    def record_loss(self, work: ShardWork) -> bool:
        """Note that the node under some work was lost, which says little about the work.

        Returns:
            Whether to go on with the shard; False when it is time to give it up.
        """
        state = self._states.get(work.shard)
        if state is None:
            return True
        state.losses += 1
        if work.commits and state.stage is Stage.DIVIDED:
            return True
        if state.losses >= LOSSES_PER_ATTEMPT * self._max_attempts:
            reason = "too many nodes were lost while making it"
            return self.record_crash(work, FailureType.WORKER_KILLED, reason)
        self._retry_isolated(work)
        return True

    def record_crash(
        self, work: ShardWork, error_type: FailureType, error: str, in_hand: Sequence[int] = ()
    ) -> bool:
        """Note that a process ended or hung because of some work.

        Args:
            in_hand: the rows of the batch that it was sampling, if they are known.

        Returns:
            Whether to go on with the shard; False when it is time to give it up.
        """
        state = self._states.get(work.shard)
        if state is None:
            return True
        state.attempts = max(state.attempts, work.attempt)
        if work.commits:
            state.crashes += 1
            return self._retry_whole(state, work, in_hand) or (
                self._needs_actor and self._give_up(state, error_type, error)
            )
        if work.num_rows > 1:
            self._divide(state, work, in_hand)
        elif work.deaths + 1 < MIN_DEATHS_ALONE:
            self._retry_isolated(replace(work, deaths=work.deaths + 1))
        else:
            state.set_aside.append(SetAsideRow(work.rows[0], work.attempt, error_type, error))
            self._complete_part(work.shard)
        return True

    def _retry_whole(self, state: ShardState, work: ShardWork, in_hand: Sequence[int]) -> bool:
        match state.stage:
            case Stage.WHOLE if state.crashes < self._max_attempts - 1:
                self._retry_isolated(work)
            case Stage.WHOLE:
                self._divide(state, work, in_hand)
            case Stage.DIVIDED:  # a copy of the whole shard, handed out before it was divided
                pass
            case Stage.FINAL if state.crashes < 2 * self._max_attempts:
                self._retry_isolated(work)
            case Stage.GIVEN_UP if len(work.set_aside) < work.num_rows:  # likewise, before that
                pass
            case Stage.FINAL | Stage.GIVEN_UP:
                return False
        return True

    def _give_up(self, state: ShardState, error_type: FailureType, error: str) -> bool:
        """Queue the last attempt, in which no row is tried; False if that was it already."""
        if state.stage is Stage.GIVEN_UP or state.whole.amends is not None:
            return False
        known, attempt = {row.row for row in state.set_aside}, state.attempts
        left = (row for row in state.whole.rows if row not in known)
        state.set_aside += [SetAsideRow(row, attempt, error_type, error) for row in left]
        state.stage = Stage.GIVEN_UP
        self._queue_whole(state)
        return True

    def _divide(self, state: ShardState, work: ShardWork, in_hand: Sequence[int]) -> None:
        """Queue the rows that were in hand before the others; without them, the halves.

        A single row is queued by itself.
        """
        known = set(work.rows).issuperset(in_hand)
        if work.num_rows == 1:
            parts = [work.part(work.rows, deaths=state.crashes)]
        elif in_hand and known and state.trusts_names:
            # Alone in its batch, in an isolated process, a row has crashed one by itself.
            alone = int(len(in_hand) == 1)
            parts = [work.part(in_hand, singly=True, suspected=True, deaths=alone)]
            others = [row for row in work.rows if row not in in_hand]
            parts += [work.part(others, singly=work.singly)] if others else []
        else:
            parts = list(work.halves())
        state.open_parts += len(parts) - 1
        state.stage = Stage.DIVIDED
        self._retries.extendleft(reversed(parts))

    def _retry_isolated(self, work: ShardWork) -> None:
        self._retries.appendleft(replace(work.next_attempt(), isolated=True))

    def _complete_part(self, shard: int) -> None:
        """Queue the final attempt, which commits, once the last part of a divided shard is done."""
        state = self._states[shard]
        state.open_parts -= 1
        if not state.open_parts:
            state.open_parts, state.stage = 1, Stage.FINAL
            self._queue_whole(state)

    def _queue_whole(self, state: ShardState) -> None:
        """Queue the whole shard once more, without the rows that were set aside."""
        whole = replace(
            state.whole,
            attempt=state.attempts + 1,
            set_aside=tuple(sorted(state.set_aside, key=lambda row: row.row)),
            look_first=True,
            isolated=True,
        )
        self._retries.appendleft(whole)

    def close(self, shard: int) -> None:
        """Finish a shard, committed or given up, and drop all of its work that waits."""
        self._states.pop(shard, None)
        self._done.add(shard)
        self._retries = deque(work for work in self._retries if work.shard != shard)
