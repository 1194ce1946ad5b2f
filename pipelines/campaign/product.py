"""Products of axes without the combinations that rules forbid: count them, and find any of them.

Nothing is enumerated. A forbidden combination is a set of values on some axes; one pass over the
axes, with the rules that may still be broken as its state, counts how many ways there are to go on.
The combinations are ordered as nested loops are, the first axis slowest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from nightpress.pipelines.campaign.permutation import MAX_SIZE, Ints

MAX_STATES = 20_000
"""The most sets of rules that are followed at once, over all axes."""


class TooManyRules(ValueError):
    """The rules overlap in too many ways to be counted."""


@dataclass(frozen=True)
class Forbidden:
    """A combination that must not occur: for some axes, by number, which values are meant."""

    values: Mapping[int, NDArray[np.bool_]]
    """Axis -> (its number of values,) bool."""


State = frozenset[int]
"""The rules whose every axis so far has had a value that they mean."""


@dataclass(frozen=True)
class _Step:
    """What the values of one axis lead to, in one state."""

    states: tuple[State | None, ...]
    """The next state by the kind of value; None where a rule is broken."""
    kinds: Ints
    """(number of values,) the kind of each value."""


class Product:
    """The allowed combinations of some axes.

    Raises:
        TooManyRules: while it is made.
    """

    def __init__(self, sizes: Sequence[int], forbidden: Sequence[Forbidden] = ()) -> None:
        """Count the combinations.

        Args:
            sizes: how many values each axis has.
            forbidden: what must not occur.
        """
        self.sizes = tuple(sizes)
        self._forbidden = tuple(forbidden)
        self._last_axes = [max(rule.values, default=-1) for rule in forbidden]
        self._steps: list[dict[State, _Step]] = []
        self._ways: list[dict[State, int]] = []
        self._count()

    @property
    def size(self) -> int:
        """How many combinations are allowed."""
        return self._ways[0][self._start]

    @cached_property
    def _start(self) -> State:
        return frozenset(range(len(self._forbidden)))

    def combinations(self, numbers: Ints) -> Ints:
        """The values of some combinations; (n, axes).

        Args:
            numbers: (n,) from 0, below `size`, which is at most 2^62.
        """
        if self.size > MAX_SIZE:
            raise ValueError("only products of at most 2^62 combinations can be numbered")
        found = np.empty((len(numbers), len(self.sizes)), np.int64)
        self._fill(0, self._start, numbers, np.arange(len(numbers)), found)
        return found

    def numbers(self, combinations: Ints) -> Ints:
        """The inverse of `combinations`; -1 for what is forbidden. (n,)."""
        found = np.zeros(len(combinations), np.int64)
        groups = [(self._start, np.arange(len(combinations)))]
        for axis in range(len(self.sizes)):
            following: dict[State, list[Ints]] = {}
            for state, rows in groups:
                step, starts = self._steps[axis][state], self._starts(axis, state)
                values = combinations[rows, axis]
                found[rows] += starts[values]
                kinds = step.kinds[values]
                for kind, after in enumerate(step.states):
                    chosen = rows[kinds == kind]
                    if after is None:
                        found[chosen] = -1
                    elif len(chosen):
                        following.setdefault(after, []).append(chosen)
            groups = [(state, np.concatenate(parts)) for state, parts in following.items()]
        return found

    def completions(self, chosen: Mapping[int, int]) -> int:
        """How many allowed combinations have these values on these axes.

        Args:
            chosen: axis -> value.
        """
        ways: dict[State, int] = {self._start: 1}
        for axis in range(len(self.sizes)):
            following: dict[State, int] = {}
            for state, number in ways.items():
                step = self._steps[axis][state]
                value = chosen.get(axis)
                kinds = np.bincount(
                    step.kinds if value is None else step.kinds[value : value + 1],
                    minlength=len(step.states),
                ).tolist()
                for after, times in zip(step.states, kinds, strict=True):
                    if after is not None and times:
                        following[after] = following.get(after, 0) + number * times
            ways = following
        return sum(ways.values())

    def _fill(self, axis: int, state: State, numbers: Ints, rows: Ints, found: Ints) -> None:
        """Write the values of `rows` from an axis on, all of which are in one state."""
        while axis < len(self.sizes) and len(rows):
            step, starts = self._steps[axis][state], self._starts(axis, state)
            # The last of the values that begin at a number is the one that has combinations.
            values = np.searchsorted(starts, numbers, "right") - 1
            found[rows, axis] = values
            numbers = numbers - starts[values]
            kinds = step.kinds[values]
            present = np.flatnonzero(np.bincount(kinds, minlength=len(step.states))).tolist()
            axis += 1
            if len(present) == 1:
                state = _allowed(step.states[present[0]])
                continue
            for kind in present:
                own = kinds == kind
                self._fill(axis, _allowed(step.states[kind]), numbers[own], rows[own], found)
            return

    def _starts(self, axis: int, state: State) -> Ints:
        """The number of the first combination with each value of an axis; (values,)."""
        step = self._steps[axis][state]
        ways = [0 if s is None else self._ways[axis + 1][s] for s in step.states]
        ends = np.cumsum(np.array(ways, np.int64)[step.kinds])
        return np.concatenate([np.zeros(1, np.int64), ends[:-1]])

    def _count(self) -> None:
        states: set[State] = {self._start}
        num_states = 0
        for axis in range(len(self.sizes)):
            steps = {state: self._step(axis, state) for state in states}
            self._steps.append(steps)
            states = {
                after for step in steps.values() for after in step.states if after is not None
            }
            num_states += len(states)
            if num_states > MAX_STATES:
                raise TooManyRules(
                    "the rules overlap in too many ways to be counted; give fewer rules with "
                    "forbid, or rules that name fewer axes"
                )
        ways: list[dict[State, int]] = [dict.fromkeys(states, 1)]
        for axis in reversed(range(len(self.sizes))):
            ways.append(
                {s: self._ways_from(step, ways[-1]) for s, step in self._steps[axis].items()}
            )
        self._ways = ways[::-1]

    def _ways_from(self, step: _Step, after: Mapping[State, int]) -> int:
        times = np.bincount(step.kinds, minlength=len(step.states)).tolist()
        pairs = zip(step.states, times, strict=True)
        return sum(after[state] * number for state, number in pairs if state is not None)

    def _step(self, axis: int, state: State) -> _Step:
        """Group the values of an axis by which of a state's rules mean them."""
        concerned = [rule for rule in sorted(state) if axis in self._forbidden[rule].values]
        if not concerned:
            return _Step((state,), np.zeros(self.sizes[axis], np.int64))
        meant = np.stack([self._forbidden[rule].values[axis] for rule in concerned], axis=1)
        kinds, kind_of = np.unique(meant, axis=0, return_inverse=True)
        states = tuple(
            self._after(
                axis, state, {r for r, is_meant in zip(concerned, k, strict=True) if not is_meant}
            )
            for k in kinds.tolist()
        )
        return _Step(states, kind_of.reshape(-1).astype(np.int64))

    def _after(self, axis: int, state: State, kept: set[int]) -> State | None:
        """The state after a value that these rules do not mean; None if a rule is broken."""
        left = state - kept
        if any(
            self._last_axes[rule] <= axis for rule in left if axis in self._forbidden[rule].values
        ):
            return None
        return left


def _allowed(state: State | None) -> State:
    assert state is not None  # noqa: S101 - no number belongs to a forbidden combination
    return state
