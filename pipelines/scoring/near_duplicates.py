"""Near-duplicates among many perceptual hashes, found without comparing each with each."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nightpress.pipelines.scoring.perceptual_hash import (
    BITS_DIGITS,
    HASH_DIGITS,
    HashDistance,
    distance,
)

MOST_BITS = 7
"""Bits of the luminance hash that may differ between near-duplicates."""

MOST_LEVELS = 1
"""Levels that the colour of a cell may differ by between near-duplicates."""

BAND_BITS = 16
NUM_BANDS = 4
"""Hashes that differ in at most 7 bits differ in at most one bit of some band: two in each of the
four bands would be 8."""

BAND_VALUES = 1 << BAND_BITS

ALL_PAIRS = 1 << 20
"""Up to so many pairs are compared one and all; more are looked up by bands."""

PAIRS_AT_ONCE = 1 << 21
"""Pairs that are compared at once, which bounds the memory."""

LEAF = 512
"""So many hashes are compared each with each."""

MANY = 1 << 16
"""From so many hashes on, a band is looked up together with the level that differs most."""

NUM_LEVELS = 16

SAMPLE = 10_000
"""So many hashes tell which level differs most."""

_HASH = re.compile(f"[0-9a-f]{{{HASH_DIGITS}}}")

Levels = NDArray[np.uint8]

Positions = NDArray[np.int64]
"""(n,) where a hash stands in a sequence; -1 for nowhere."""


@dataclass(frozen=True)
class HashArray:
    """Perceptual hashes as numbers."""

    bits: NDArray[np.uint64]
    """(n,) the luminance."""
    levels: Levels
    """(n, 24) the colours, two levels in each byte."""

    @classmethod
    def of(cls, hashes: Sequence[str]) -> "HashArray":
        """Decode hashes.

        Raises:
            ValueError: one of them is no perceptual hash.
        """
        wrong = next((each for each in hashes if not _HASH.fullmatch(each)), None)
        if wrong is not None:
            raise ValueError(
                f"{wrong!r} is no perceptual hash, which has {HASH_DIGITS} hexadecimal digits"
            )
        data = np.frombuffer(bytes.fromhex("".join(hashes)), np.uint8)
        rows = data.reshape(len(hashes), HASH_DIGITS // 2)
        bits = np.ascontiguousarray(rows[:, : BITS_DIGITS // 2]).view(">u8")
        return cls(bits.astype(np.uint64).ravel(), rows[:, BITS_DIGITS // 2 :].copy())

    @classmethod
    def joined(cls, parts: Sequence["HashArray"]) -> "HashArray":
        """Those of several parts, of which there is at least one, in order."""
        bits = np.concatenate([each.bits for each in parts])
        return cls(bits, np.concatenate([each.levels for each in parts]))

    def __len__(self) -> int:
        return len(self.bits)

    def take(self, positions: Positions) -> "HashArray":
        """Those at some positions."""
        return HashArray(self.bits[positions], self.levels[positions])

    def distinct(self) -> tuple[Positions, Positions]:
        """The positions of each hash's first occurrence, in order, and (n,) which of them is equal
        to each hash."""
        rows = np.concatenate([self.bits.view(np.uint8).reshape(-1, 8), self.levels], axis=1)
        keys = np.ascontiguousarray(rows).view(f"V{rows.shape[1]}").ravel()
        _, firsts, inverse = np.unique(keys, return_index=True, return_inverse=True)
        order = np.argsort(firsts)
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        return firsts[order], rank[inverse]


def is_near(apart: HashDistance) -> bool:
    """Whether pictures whose hashes are so far apart are near-duplicates."""
    return apart.bits <= MOST_BITS and apart.levels <= MOST_LEVELS


def are_near(a: str, b: str) -> bool:
    """Whether the pictures of two hashes are near-duplicates."""
    return is_near(distance(a, b))


def distances(one: HashArray, others: HashArray) -> tuple[Positions, Positions]:
    """How far one hash is from each of others: `bits` and `levels` of `HashDistance`; (n,) each.

    Args:
        one: a single hash.
    """
    bits = np.bitwise_count(one.bits ^ others.bits).astype(np.int64)
    return bits, _levels_apart(np.broadcast_to(one.levels, others.levels.shape), others.levels)


def first_near(hashes: HashArray, others: HashArray) -> Positions:
    """For each hash the position of the first of `others` that is near it; (n,), -1 for none.

    Each of four bands of 16 bits is looked up as it is and with one of its bits flipped; see
    `NUM_BANDS`. Among many hashes, only those are compared whose most telling level is near, too.
    A million hashes against a million others take half a minute unless very many are alike in a
    band and in that level.

    Reference: Norouzi, Punjani and Fleet, Fast Search in Hamming Space with Multi-Index Hashing,
    2012.
    """
    kept, equal_to = hashes.distinct()
    queries = hashes.take(kept)
    found = np.full(len(queries), len(others), np.int64)
    for left, right in _candidates(queries, others):
        near = _near(queries, left, others, right)
        np.minimum.at(found, left[near], right[near])
    found[found == len(others)] = -1
    return found[equal_to]


def near_groups(hashes: HashArray) -> Positions:
    """For each hash the position of the one that stands for it; (n,), its own if it is kept.

    In their order, a hash is kept unless it is near one that is kept already, and then the first
    of these stands for it. So no two kept ones are near, and every other is near one that is kept:
    a chain of pictures that change little by little is not one group.

    The first half is decided before the second, of which only those that are near none of the
    kept ones are compared among themselves. So even a million pictures that are all alike are
    quick, and the memory is bounded.
    """
    kept, equal_to = hashes.distinct()
    return kept[_groups(hashes.take(kept))][equal_to]


def _groups(hashes: HashArray) -> Positions:
    """As `near_groups`, of hashes that are all different."""
    if len(hashes) <= LEAF:
        return _groups_of_few(hashes)
    half = len(hashes) // 2
    first, second = np.arange(half), np.arange(half, len(hashes))
    groups = np.empty(len(hashes), np.int64)
    groups[first] = _groups(hashes.take(first))
    kept = first[groups[first] == first]
    near = first_near(hashes.take(second), hashes.take(kept))
    groups[second[near >= 0]] = kept[near[near >= 0]]
    rest = second[near < 0]
    groups[rest] = rest[_groups(hashes.take(rest))]
    return groups


def _groups_of_few(hashes: HashArray) -> Positions:
    left, right = np.triu_indices(len(hashes), 1)
    near = _near(hashes, left, hashes, right)
    left, right = left[near], right[near]
    groups = np.arange(len(hashes))
    for each in np.unique(left):
        if groups[each] == each:
            later = right[left == each]
            later = later[groups[later] == later]
            groups[later] = each
    return groups


def _candidates(hashes: HashArray, others: HashArray) -> Iterator[tuple[Positions, Positions]]:
    """Pairs of positions among which all near ones are, some at a time."""
    if len(hashes) * len(others) <= ALL_PAIRS:
        left, right = np.indices((len(hashes), len(others))).reshape(2, -1)
        yield left, right
        return
    cell = _most_varied_cell(others) if len(others) >= MANY else None
    levels = _cell_levels(hashes, cell)
    lowest = np.maximum(levels - MOST_LEVELS, 0)
    highest = np.minimum(levels + MOST_LEVELS, NUM_LEVELS - 1)
    width = 1 if cell is None else NUM_LEVELS
    for band in range(NUM_BANDS):
        keys = _band(hashes, band)
        values = _band(others, band) * width + _cell_levels(others, cell)
        order = np.argsort(values, kind="stable")
        ends = np.cumsum(np.bincount(values, minlength=BAND_VALUES * width))
        starts = np.concatenate([[0], ends[:-1]])
        for flipped in (0, *(1 << bit for bit in range(BAND_BITS))):
            probed = (keys ^ flipped) * width
            first, last = (probed, probed) if cell is None else (probed + lowest, probed + highest)
            for left, places in _ranges(starts[first], ends[last]):
                yield left, order[places]


def _most_varied_cell(hashes: HashArray) -> tuple[int, int]:
    """The byte and the shift of the level that differs most from hash to hash."""
    some = hashes.levels[:: max(1, len(hashes) // SAMPLE)]
    spreads = np.stack([(some & 15).std(axis=0), (some >> 4).std(axis=0)])
    half, byte = np.unravel_index(int(spreads.argmax()), spreads.shape)
    return int(byte), 4 * int(half)


def _cell_levels(hashes: HashArray, cell: tuple[int, int] | None) -> Positions:
    """(n,) one level of each hash; 0 without a cell."""
    if cell is None:
        return np.zeros(len(hashes), np.int64)
    byte, shift = cell
    return (hashes.levels[:, byte].astype(np.int64) >> shift) & (NUM_LEVELS - 1)


def _band(hashes: HashArray, band: int) -> Positions:
    shifted = hashes.bits >> np.uint64(band * BAND_BITS)
    return (shifted & np.uint64(BAND_VALUES - 1)).astype(np.int64)


def _ranges(starts: Positions, ends: Positions) -> Iterator[tuple[Positions, Positions]]:
    """Each number with each place of its range, about `PAIRS_AT_ONCE` at a time."""
    counts = ends - starts
    totals = np.cumsum(counts)
    begin = 0
    while begin < len(counts):
        done = int(totals[begin - 1]) if begin else 0
        end = max(begin + 1, int(np.searchsorted(totals, done + PAIRS_AT_ONCE, side="right")))
        some = counts[begin:end]
        left = np.repeat(np.arange(begin, end), some)
        offsets = np.arange(len(left)) - np.repeat(totals[begin:end] - some - done, some)
        yield left, starts[left] + offsets
        begin = end


def _near(a: HashArray, left: Positions, b: HashArray, right: Positions) -> NDArray[np.int64]:
    """Which of some pairs are near; their numbers."""
    bits = np.bitwise_count(a.bits[left] ^ b.bits[right])
    alike = np.flatnonzero(bits <= MOST_BITS)
    levels = _levels_apart(a.levels[left[alike]], b.levels[right[alike]])
    return alike[levels <= MOST_LEVELS]


def _levels_apart(x: Levels, y: Levels) -> Positions:
    """The largest difference of any level in each row; (n,)."""
    low, high = np.uint8(15), np.uint8(4)
    return np.maximum(_apart(x & low, y & low), _apart(x >> high, y >> high))


def _apart(x: Levels, y: Levels) -> Positions:
    """The largest difference in each row."""
    apart: Positions = np.abs(x.astype(np.int64) - y).max(axis=1, initial=0)
    return apart
