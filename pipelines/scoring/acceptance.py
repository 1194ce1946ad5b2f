"""What a share of images that pass means: draws to expect, and how good the best of some are."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CONFIDENCE_Z = 1.96
"""Standard deviations of a normal distribution that hold 95% of it."""

NUM_RESAMPLINGS = 400

MOST_CORRELATED = 1 - 1e-9
"""Less than 1, so that nothing is divided by 0."""

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Share:
    """Some of a number of images."""

    num: int
    of: int

    @property
    def value(self) -> float:
        """0 to 1; 0 of none."""
        return self.num / self.of if self.of else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """The shares of a large number of such images that are plausible: 95% confidence.

        Reference: Wilson, Probable Inference, the Law of Succession, and Statistical Inference,
        1927.
        """
        if not self.of:
            return 0.0, 1.0
        z2 = CONFIDENCE_Z**2 / self.of
        middle = (self.value + z2 / 2) / (1 + z2)
        spread = math.sqrt(self.value * (1 - self.value) * z2 + z2**2 / 4) / (1 + z2)
        low, high = max(0.0, middle - spread), min(1.0, middle + spread)
        return (0.0 if self.num == 0 else low), (1.0 if self.num == self.of else high)


@dataclass(frozen=True)
class ExpectedDraws:
    """What an image takes until it is decided."""

    draws: float
    """Mean number of draws."""
    exhausted: float
    """Share of images of which no draw passes."""


def correlation_within(
    passed: Counts, draws: Counts, weights: Counts | None = None
) -> float | None:
    """How alike the draws of one row are: 0 if all rows have the same chance, 1 if all draws of a
    row pass or none does; None if no row has two draws.

    Args:
        passed, draws: (n,) of each row, how many of its draws pass, and how many it has.
        weights: (n,) how many rows each of these stands for; by default one.

    Reference: Ridout, Demetrio and Firth, Estimating Intraclass Correlation for Binary Data, 1999;
    the analysis of variance estimator.
    """
    many = np.ones(len(draws), np.int64) if weights is None else weights
    num_rows, total = int(many.sum()), int((many * draws).sum())
    if num_rows < 2 or total == num_rows:
        return None
    mean, means = (many * passed).sum() / total, passed / draws
    between = float((many * draws * (means - mean) ** 2).sum()) / (num_rows - 1)
    within = float((many * draws * means * (1 - means)).sum()) / (total - num_rows)
    size = (total - float((many * draws**2).sum()) / total) / (num_rows - 1)
    spread = between + (size - 1) * within
    return min(max((between - within) / spread, 0.0), 1.0) if spread > 0 else 0.0


def expected_draws(
    acceptance: float, best_of: int, max_draws: int, correlation: float = 0.0
) -> ExpectedDraws:
    """Draws until `best_of` have passed, or `max_draws` are made; 1 / acceptance for best of 1.

    The mean of a number is the sum over d of the probability that it is above d: that fewer than
    `best_of` of the first d draws have passed. The chance of a row is taken to be one of a beta
    distribution. Then a draw passes the more probably, the more of those before it have passed:
    Polya's urn.

    Args:
        acceptance: the probability that a draw passes, over all rows.
        correlation: between the draws of a row; see `correlation_within`.
    """
    same = min(correlation, MOST_CORRELATED)
    so_far = np.arange(best_of)
    passed = np.zeros(best_of)  # the probability that so many of the draws so far have passed
    passed[0] = 1.0
    mean = 0.0
    for draw in range(max_draws):
        mean += float(passed.sum())
        chance = (acceptance * (1 - same) + so_far * same) / (1 - same + draw * same)
        more = np.concatenate([[0.0], (passed * chance)[:-1]])
        passed = passed * (1 - chance) + more
    return ExpectedDraws(mean, float(passed[0]))


def plausible_draws(
    passed: Counts, draws: Counts, best_of: int, max_draws: int
) -> tuple[float, float]:
    """The expected draws that are plausible, given what few rows tell: 95% of resamplings.

    Args:
        passed, draws: (n,) of each row, how many of its draws pass, and how many it has.

    Reference: Efron, Bootstrap Methods: Another Look at the Jackknife, 1979; rows are drawn with
    replacement, because the draws of one row are alike.
    """
    if not len(draws):
        return float(best_of), float(max_draws)
    base = int(draws.max()) + 1
    kinds, counts = np.unique(draws * base + passed, return_counts=True)
    kind_draws, kind_passed = kinds // base, kinds % base
    chance = np.random.default_rng(0)  # the same answer every time
    found = []
    for weights in chance.multinomial(len(draws), counts / len(draws), NUM_RESAMPLINGS):
        there = weights > 0
        some_passed, some_draws, many = kind_passed[there], kind_draws[there], weights[there]
        share = float((some_passed * many).sum() / (some_draws * many).sum())
        correlation = correlation_within(some_passed, some_draws, many) or 0.0
        found.append(expected_draws(share, best_of, max_draws, correlation).draws)
    low, high = np.quantile(found, [0.025, 0.975]).tolist()
    return low, high


def expected_best(values: NDArray[np.float64], num: int, lowest: bool = False) -> float:
    """The mean of the best of `num` values that are drawn from some, with replacement.

    Args:
        values: (n,) at least one.
        lowest: whether a low value is better.
    """
    ordered = np.sort(-values if lowest else values)
    below = np.arange(len(ordered) + 1) / len(ordered)
    mean = float(ordered @ np.diff(below**num))
    return -mean if lowest else mean


QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


def quantiles(values: NDArray[np.float64]) -> Sequence[float]:
    """The values at `QUANTILES`; none of no values."""
    if not len(values):
        return ()
    found: list[float] = np.quantile(values, QUANTILES).tolist()
    return tuple(found)
