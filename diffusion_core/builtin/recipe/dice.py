"""Random choices that are the same on every machine and with every library version."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")


class Dice:
    """A random generator that hashes a key and a counter with SHA-256."""

    def __init__(self, *key: object) -> None:
        self._key = repr(key).encode()
        self._num_draws = 0

    def below(self, limit: int) -> int:
        """A random integer from 0 to `limit` - 1."""
        text = self._key + self._num_draws.to_bytes(8, "big")
        self._num_draws += 1
        return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") % limit

    def one_of(self, choices: Sequence[T]) -> T:
        """A random element; all are equally likely."""
        return choices[self.below(len(choices))]

    def shuffled(self, items: Iterable[T]) -> list[T]:
        """All items in random order (Fisher-Yates)."""
        order = list(items)
        for last in range(len(order) - 1, 0, -1):
            chosen = self.below(last + 1)
            order[last], order[chosen] = order[chosen], order[last]
        return order
