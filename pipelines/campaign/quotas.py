"""Which alternative each row gets: exact shares of the rows, or by each row's hash alone.

Three ways to draw share one interface. `Counted` gives the rows of every stretch of the drawing
order their shares; `Ranked` gives a whole known set of rows its shares; `Independent` looks at
nothing but the row itself, so its shares are only approximate.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property, lru_cache
from math import gcd, lcm
from typing import Protocol

import numpy as np

from nightpress.pipelines.campaign.permutation import Ints
from nightpress.pipelines.hashing import GOLDEN, Hashes, mix64

MAX_TOTAL = 20_000_000
"""The largest sum of the weights of one choice, as whole numbers without a common divisor."""

SMALL_TOTAL = 256
"""Up to this sum of weights every block of the drawing order is shuffled by itself."""

WINDOW = 16
"""How many neighbours are shuffled among themselves in blocks of a larger sum."""


class WeightsTooFine(ValueError):
    """The weights have too many digits to be given exact shares."""


@dataclass(frozen=True)
class Weights:
    """The weights of some alternatives, as whole numbers without a common divisor."""

    values: Ints

    @classmethod
    def of(cls, weights: Sequence[Fraction]) -> "Weights":
        """Convert fractions.

        Raises:
            WeightsTooFine: they are too precise.
        """
        denominator = lcm(*{weight.denominator for weight in weights})
        whole = [w.numerator * (denominator // w.denominator) for w in weights]
        divisor = gcd(*whole)
        whole = [weight // divisor for weight in whole]
        if sum(whole) > MAX_TOTAL:
            raise WeightsTooFine(
                f"the weights add up to {sum(whole):,} as whole numbers, more than {MAX_TOTAL:,}; "
                "write them with fewer digits"
            )
        return cls(np.array(whole, np.int64))

    @classmethod
    def equal(cls, number: int) -> "Weights":
        """The same weight for each of some alternatives."""
        return cls(np.ones(number, np.int64))

    def __len__(self) -> int:
        return len(self.values)

    @cached_property
    def total(self) -> int:
        """The sum of the weights."""
        return int(self.values.sum())

    @cached_property
    def starts(self) -> Ints:
        """The sum of the weights before each alternative; (k,)."""
        return np.cumsum(self.values) - self.values


@dataclass(frozen=True)
class DrawnRows:
    """What drawing needs to know of n rows."""

    indices: Ints
    """(n,) each row's place among the rows that are drawn for together."""
    hashes: Hashes
    """(n,) of each row's id and the seed."""
    positions: Ints
    """(n,) each row's place in the drawing order, or in what an outer choice left of it."""

    def __len__(self) -> int:
        return len(self.indices)

    def take(self, chosen: Ints) -> "DrawnRows":
        """Some of the rows."""
        return DrawnRows(self.indices[chosen], self.hashes[chosen], self.positions[chosen])

    def at(self, positions: Ints) -> "DrawnRows":
        """The same rows at other places."""
        return replace(self, positions=positions)


@dataclass(frozen=True)
class Picks:
    """The alternative of each row."""

    options: Ints
    """(n,) its number."""
    positions: Ints
    """(n,) the row's place among those that get this alternative."""


class Quotas(Protocol):
    """How the rows are shared out among alternatives."""

    def pick(self, path: str, key: int, weights: Weights, rows: DrawnRows) -> Picks:
        """Pick an alternative for each row.

        Args:
            path: tells this choice from all others of the campaign, also from the same text inside
                other alternatives.
            key: of the choice's text and occurrence; below 2^64.
            weights: of the k alternatives.
            rows: the n rows.
        """


class Independent:
    """By each row's hash alone: a row keeps its pick whatever happens to the others."""

    def pick(self, path: str, key: int, weights: Weights, rows: DrawnRows) -> Picks:
        """Compare each row's hash with the cumulated weights."""
        slots = scaled(row_hashes(rows.hashes, key), weights.total)
        options = np.searchsorted(weights.starts, slots, "right") - 1
        return Picks(options, rows.positions)


class Counted:
    """By each row's place in the drawing order: every prefix of it has its shares.

    The order is cut into blocks of as many rows as the weights add up to, and in each block every
    alternative gets as many places as its weight. Small blocks are shuffled whole. In larger ones
    the places of an alternative are spread evenly, from a random start, before neighbours are
    shuffled, so that a part of a block has its shares too.
    """

    def pick(self, path: str, key: int, weights: Weights, rows: DrawnRows) -> Picks:
        """Look up each row's place in its block."""
        blocks, places = np.divmod(rows.positions, weights.total)
        if weights.total <= SMALL_TOTAL:
            slots = _shuffled(blocks, places, weights.total, key)
        else:
            windows = places // WINDOW
            within = _shuffled_within(blocks, windows, places % WINDOW, weights.total, key)
            order = _spread_slots(weights.values.tobytes(), key)
            slots = order[windows * WINDOW + within]
        options = np.searchsorted(weights.starts, slots, "right") - 1
        own = weights.values[options]
        return Picks(options, blocks * own + slots - weights.starts[options])


@dataclass(frozen=True)
class Fixed:
    """Some choices decided beforehand, the others by quotas."""

    options: Mapping[str, Ints]
    """Path of a choice -> (n,) the alternative of each row."""
    others: Quotas

    def pick(self, path: str, key: int, weights: Weights, rows: DrawnRows) -> Picks:
        """Look up what was decided, or ask the quotas."""
        decided = self.options.get(path)
        if decided is None:
            return self.others.pick(path, key, weights, rows)
        return Picks(decided[rows.indices], rows.positions)


class Ranked:
    """By each row's rank among all rows of the campaign: the whole set has its shares.

    `Ranked` sees all rows once, in `pick`s made with `fit`, and keeps for each choice the hashes at
    which one alternative ends. Afterwards any row is compared with those alone.
    """

    def __init__(self) -> None:
        self._cuts: dict[str, Hashes] = {}
        self._fitting = False

    def fit(self) -> "Ranked":
        """Return a twin that takes each `pick` for one over all rows that reach that choice."""
        twin = Ranked()
        twin._cuts, twin._fitting = self._cuts, True
        return twin

    def pick(self, path: str, key: int, weights: Weights, rows: DrawnRows) -> Picks:
        """Rank each row's hash, or compare it with what was ranked."""
        hashes = row_hashes(rows.hashes, key)
        if self._fitting:
            self._cuts[path] = _cuts(np.sort(hashes), weights, key)
        cuts = self._cuts.get(path)
        if cuts is None:  # no row reached this choice when all were ranked, so none is here
            return Independent().pick(path, key, weights, rows)
        return Picks(np.searchsorted(cuts, hashes, "right").astype(np.int64), rows.positions)


def row_hashes(hashes: Hashes, key: int) -> Hashes:
    """A hash of each row for one choice; (n,)."""
    return mix64(hashes ^ mix64(np.array([key], np.uint64)))


def scaled(hashes: Hashes, total: int) -> Ints:
    """Hashes as whole numbers from 0 to below `total`, each as likely; (n,).

    Args:
        total: below 2^32.
    """
    return (((hashes >> np.uint64(32)) * np.uint64(total)) >> np.uint64(32)).astype(np.int64)


def shares(weights: Weights, num_rows: int, key: int) -> Ints:
    """How many of the rows each alternative gets; (k,).

    By largest remainders; equal ones are ordered by the key.
    """
    exact = [int(weight) * num_rows for weight in weights.values] if num_rows > 2**38 else None
    if exact is not None:
        raise ValueError(f"{num_rows:,} rows are too many to rank")
    whole, rest = np.divmod(weights.values * num_rows, weights.total)
    missing = num_rows - int(whole.sum())
    ties = mix64(np.arange(len(weights), dtype=np.uint64) * GOLDEN + np.uint64(key))
    order = np.lexsort((ties, -rest))
    whole[order[:missing]] += 1
    return whole


def _cuts(ordered: Hashes, weights: Weights, key: int) -> Hashes:
    """The first hash of each alternative after the first; (k - 1,)."""
    ends = np.cumsum(shares(weights, len(ordered), key))[:-1]
    last = np.uint64(0xFFFFFFFFFFFFFFFF)
    return np.concatenate([ordered, [last]])[ends].astype(np.uint64)


def _shuffled(blocks: Ints, places: Ints, size: int, key: int) -> Ints:
    """The place that each place has after its block is shuffled; (n,)."""
    distinct, block_of = np.unique(blocks, return_inverse=True)
    seeds = mix64(distinct.astype(np.uint64) * GOLDEN + np.uint64(key))
    keys = mix64(seeds[:, None] ^ mix64(np.arange(1, size + 1, dtype=np.uint64))[None, :])
    orders = np.argsort(keys, axis=1, kind="stable")
    shuffled: Ints = orders[block_of.reshape(-1), places]
    return shuffled


def _shuffled_within(blocks: Ints, windows: Ints, places: Ints, total: int, key: int) -> Ints:
    """As `_shuffled`, for the windows of blocks; the last window of a block may be shorter."""
    found = np.empty(len(places), np.int64)
    last, last_size = divmod(total, WINDOW)
    per_block = last + 1
    for is_last, size in ((False, WINDOW), (True, last_size)):
        chosen = np.flatnonzero((windows == last) == is_last)
        if len(chosen):
            number = blocks[chosen] * per_block + windows[chosen]
            found[chosen] = _shuffled(number, places[chosen], size, key)
    return found


@lru_cache(maxsize=64)
def _spread_slots(weights: bytes, key: int) -> Ints:
    """The slots of a block in an order in which every alternative comes evenly.

    The m-th slot of an alternative of weight w has the time (m + u) / w, with u drawn once for each
    alternative.
    """
    values = np.frombuffer(weights, np.int64)
    draws = mix64(np.arange(len(values), dtype=np.uint64) * GOLDEN + np.uint64(key))
    starts = (draws >> np.uint64(11)) / float(1 << 53)
    total = int(values.sum())
    numbers = np.arange(total) - np.repeat(np.cumsum(values) - values, values)
    times = (numbers + np.repeat(starts, values)) / np.repeat(values, values)
    return np.argsort(times, kind="stable")
