"""In which order the combinations of a campaign become rows."""

from typing import Protocol

import numpy as np

from nightpress.pipelines.campaign.permutation import Ints, Permutation


class Order(Protocol):
    """The combination at each position."""

    @property
    def size(self) -> int:
        """How many positions there are."""

    def numbers(self, positions: Ints) -> Ints:
        """The numbers of the combinations at some positions; (n,)."""


class AsWritten:
    """The combinations as nested loops give them."""

    def __init__(self, size: int) -> None:
        self.size = size

    def numbers(self, positions: Ints) -> Ints:
        """The positions themselves."""
        return positions


class Shuffled:
    """Some combinations first, then the others as a keyed permutation has them.

    Which combinations the first rows are does not depend on how many rows are drawn.
    """

    def __init__(self, size: int, key: int, first: Ints) -> None:
        """Choose an order.

        Args:
            size: the number of combinations.
            key: of the permutation, below 2^64.
            first: (m,) the numbers of the combinations that come first, each once.
        """
        self.size = size
        self._permutation = Permutation(size, key)
        self._first = first
        places = np.sort(self._permutation.inverse(first))
        self._gaps = places - np.arange(len(places))
        """How many of the others come before each of the first ones in the permutation."""

    def numbers(self, positions: Ints) -> Ints:
        """Look up the combinations."""
        found = np.empty(len(positions), np.int64)
        is_first = positions < len(self._first)
        found[is_first] = self._first[positions[is_first]]
        others = positions[~is_first] - len(self._first)
        skipped = np.searchsorted(self._gaps, others, "right")
        found[~is_first] = self._permutation.forward(others + skipped)
        return found
