"""Keyed permutations of `0 .. n-1` that need no memory, whatever n is."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from nightpress.pipelines.hashing import GOLDEN, Hashes, mix64

Ints = NDArray[np.int64]

Step = Callable[[Hashes, Hashes], Hashes]

NUM_ROUNDS = 6

MAX_SIZE = 2**62
"""The largest n."""


class Permutation:
    """A permutation of `0 .. size-1`, chosen by a key; any element is found at once.

    A Feistel network over the next even power of two, walked along its cycles until it is back
    below `size`; six rounds of a splitmix64 finaliser.

    References: Luby and Rackoff, How to construct pseudorandom permutations, 1988; cycle walking,
    Black and Rogaway, Ciphers with arbitrary finite domains, 2002.
    """

    def __init__(self, size: int, key: int) -> None:
        """Choose a permutation.

        Args:
            size: n, at least 1 and at most 2^62.
            key: at least 0 and below 2^64.
        """
        if not 1 <= size <= MAX_SIZE:
            raise ValueError(f"a permutation has between 1 and 2^62 elements, not {size}")
        self.size = size
        half_bits = max(1, -(-(size - 1).bit_length() // 2))
        self._half_bits = np.uint64(half_bits)
        self._mask = np.uint64((1 << half_bits) - 1)
        rounds = np.arange(1, NUM_ROUNDS + 1, dtype=np.uint64)
        self._keys = mix64(mix64(np.array([key], np.uint64)) + rounds * GOLDEN)

    def forward(self, positions: Ints) -> Ints:
        """The elements at some positions; (n,) of `0 .. size-1`."""
        return self._walked(positions, self._keys, self._encrypt)

    def inverse(self, elements: Ints) -> Ints:
        """The positions of some elements; (n,)."""
        return self._walked(elements, self._keys[::-1], self._decrypt)

    def _walked(self, values: Ints, keys: Hashes, step: Step) -> Ints:
        found = step(values.astype(np.uint64), keys)
        outside = np.flatnonzero(found >= np.uint64(self.size))
        while len(outside):
            found[outside] = step(found[outside], keys)
            outside = outside[found[outside] >= np.uint64(self.size)]
        return found.astype(np.int64)

    def _encrypt(self, values: Hashes, keys: Hashes) -> Hashes:
        left, right = values >> self._half_bits, values & self._mask
        for key in keys:
            left, right = right, left ^ (mix64(right + key) & self._mask)
        return (left << self._half_bits) | right

    def _decrypt(self, values: Hashes, keys: Hashes) -> Hashes:
        left, right = values >> self._half_bits, values & self._mask
        for key in keys:
            left, right = right ^ (mix64(left + key) & self._mask), left
        return (left << self._half_bits) | right
