"""Covering arrays: few combinations in which every value, pair or triple of values occurs.

Greedy, one combination at a time, as AETG builds them: fix a tuple that is missing, then give each
other axis the value that covers most of what is missing.

Reference: Cohen, Dalal, Fredman and Patton, The AETG system, 1997.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations, product

import numpy as np

from nightpress.pipelines.campaign.permutation import Ints
from nightpress.pipelines.campaign.product import Product
from nightpress.pipelines.hashing import GOLDEN, mix64

MAX_TUPLES = 200_000
"""The most values, pairs or triples that are covered."""

Tuple = tuple[tuple[int, int], ...]
"""Axis and value, for each axis of the tuple."""


class TooManyTuples(ValueError):
    """There are more tuples to cover than `MAX_TUPLES`."""


def covering_rows(allowed: Product, axes: Sequence[int], strength: int, key: int) -> Ints:
    """Combinations in which every allowed tuple of values occurs; (n, all axes).

    Args:
        allowed: the combinations.
        axes: those whose values are covered.
        strength: values in a tuple; if there are fewer axes, all of them.
        key: chooses among combinations that cover as much; below 2^64.

    Raises:
        TooManyTuples: there are too many tuples.
    """
    strength = min(strength, len(axes))
    sizes = allowed.sizes
    groups = list(combinations(sorted(axes), strength))
    total = sum(int(np.prod([sizes[axis] for axis in group])) for group in groups)
    if total > MAX_TUPLES:
        raise TooManyTuples(
            f"cover has {total:,} combinations of values to cover, more than {MAX_TUPLES:,}; name "
            "fewer axes, or a smaller strength"
        )
    missing: dict[Tuple, None] = {}
    for group in groups:
        for values in product(*(range(sizes[axis]) for axis in group)):
            one = tuple(zip(group, values, strict=True))
            missing[one] = None
    builder = _Builder(allowed, sorted(axes), strength, missing, key)
    return builder.rows()


class _Builder:
    """Builds the combinations, and crosses off what they cover."""

    def __init__(
        self,
        allowed: Product,
        axes: Sequence[int],
        strength: int,
        missing: dict[Tuple, None],
        key: int,
    ) -> None:
        self._allowed, self._axes, self._strength = allowed, axes, strength
        self._missing, self._key = missing, key
        self._num_drawn = 0

    def rows(self) -> Ints:
        found: list[list[int]] = []
        while self._missing:
            first = next(iter(self._missing))
            chosen = dict(first)
            if not self._allowed.completions(chosen):
                del self._missing[first]
                continue
            others = [axis for axis in range(len(self._allowed.sizes)) if axis not in chosen]
            for axis in sorted(others, key=lambda a: (a not in self._axes, self._draw())):
                chosen[axis] = self._best(axis, chosen)
            found.append([chosen[axis] for axis in range(len(self._allowed.sizes))])
            for one in self._tuples(chosen):
                self._missing.pop(one, None)
        return np.array(found, np.int64).reshape(len(found), len(self._allowed.sizes))

    def _best(self, axis: int, chosen: Mapping[int, int]) -> int:
        """The allowed value of an axis that covers most of what is missing."""
        size = self._allowed.sizes[axis]
        start = self._draw() % size
        values = [(start + n) % size for n in range(size)]
        if axis in self._axes:
            gains = {value: self._gain(axis, value, chosen) for value in values}
            values.sort(key=lambda value: -gains[value])
        for value in values:
            if self._allowed.completions({**chosen, axis: value}):
                return value
        raise AssertionError("a combination that can be completed has no value for an axis")

    def _gain(self, axis: int, value: int, chosen: Mapping[int, int]) -> int:
        others = [(a, v) for a, v in chosen.items() if a in self._axes]
        return sum(
            tuple(sorted((*rest, (axis, value)))) in self._missing
            for rest in combinations(others, self._strength - 1)
        )

    def _tuples(self, chosen: Mapping[int, int]) -> list[Tuple]:
        pairs = [(axis, chosen[axis]) for axis in self._axes]
        return list(combinations(pairs, self._strength))

    def _draw(self) -> int:
        """The next of a sequence of whole numbers that the key decides."""
        self._num_drawn += 1
        seed = (self._key + self._num_drawn * int(GOLDEN)) % 2**64
        return int(mix64(np.array([seed], np.uint64))[0] >> np.uint64(1))
