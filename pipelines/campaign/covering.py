"""Covering arrays: few combinations in which every value, pair or triple of values occurs.

Greedy, one combination at a time, as AETG builds them: fix a tuple that is missing, then give each
other axis the value that covers most of what is missing.

Reference: Cohen, Dalal, Fredman and Patton, The AETG system, 1997.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from nightpress.pipelines.campaign.permutation import Ints
from nightpress.pipelines.campaign.product import Product
from nightpress.pipelines.hashing import GOLDEN, mix64

MAX_TUPLES = 200_000
"""The most values, pairs or triples that are covered."""

Group = tuple[int, ...]
"""Axes whose values are covered together."""


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
    return _Builder(allowed, sorted(axes), groups, key).rows()


class _Builder:
    """Builds the combinations, and crosses off what they cover."""

    def __init__(
        self, allowed: Product, axes: Sequence[int], groups: Sequence[Group], key: int
    ) -> None:
        self._allowed, self._axes, self._key = allowed, axes, key
        sizes = allowed.sizes
        self._missing = {group: np.ones([sizes[a] for a in group], np.bool_) for group in groups}
        self._num_drawn = 0

    def rows(self) -> Ints:
        """All combinations; (n, all axes)."""
        found: list[list[int]] = []
        for group, missing in self._missing.items():
            flat = missing.reshape(-1)
            for number in range(flat.size):
                if not flat[number]:
                    continue
                values = map(int, np.unravel_index(number, missing.shape))
                chosen = dict(zip(group, values, strict=True))
                if self._allowed.completions(chosen):
                    found.append(self._completed(chosen))
        return np.array(found, np.int64).reshape(len(found), len(self._allowed.sizes))

    def _completed(self, chosen: dict[int, int]) -> list[int]:
        """The values of all axes, so that as much as possible is covered; crosses that off."""
        others = [axis for axis in range(len(self._allowed.sizes)) if axis not in chosen]
        for axis in sorted(others, key=lambda a: (a not in self._axes, self._draw())):
            chosen[axis] = self._best(axis, chosen)
        for group, missing in self._missing.items():
            missing[tuple(chosen[axis] for axis in group)] = False
        return [chosen[axis] for axis in range(len(self._allowed.sizes))]

    def _best(self, axis: int, chosen: Mapping[int, int]) -> int:
        """The allowed value of an axis that covers most of what is missing."""
        size = self._allowed.sizes[axis]
        values = (self._draw() % size + np.arange(size)) % size
        values = values[np.argsort(-self._gains(axis, chosen)[values], kind="stable")]
        for value in values.tolist():
            if self._allowed.completions({**chosen, axis: value}):
                return int(value)
        raise AssertionError("a combination that can be completed has no value for an axis")

    def _gains(self, axis: int, chosen: Mapping[int, int]) -> Ints:
        """How many missing tuples each value of an axis completes; (values of the axis,)."""
        gains = np.zeros(self._allowed.sizes[axis], np.int64)
        for group, missing in self._missing.items():
            if axis in group and all(a == axis or a in chosen for a in group):
                gains += missing[tuple(slice(None) if a == axis else chosen[a] for a in group)]
        return gains

    def _draw(self) -> int:
        """The next of a sequence of whole numbers that the key decides."""
        self._num_drawn += 1
        seed = (self._key + self._num_drawn * int(GOLDEN)) % 2**64
        return int(mix64(np.array([seed], np.uint64))[0] >> np.uint64(1))
