"""Evenly spaced choices: a few items that represent a long sequence."""

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def evenly_spaced(items: Sequence[T], count: int, *, endpoint: bool = True) -> list[T]:
    """At most `count` items at even distances, in order; all of them if there are no more.

    Args:
        items: to choose from.
        count: 0 or more.
        endpoint: as in `numpy.linspace`. If true, the first and the last item are among the chosen
            ones; if false, the items are cut into `count` equal parts and each part's first item is
            chosen.
    """
    length, count = len(items), min(count, len(items))
    if not endpoint or count < 2:
        return [items[index * length // count] for index in range(count)]
    step = (length - 1) / (count - 1)
    return [*(items[round(index * step)] for index in range(count - 1)), items[-1]]
