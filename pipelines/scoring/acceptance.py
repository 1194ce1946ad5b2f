"""What a share of images that pass means: draws to expect, and how good the best of some are."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CONFIDENCE_Z = 1.96
"""Standard deviations of a normal distribution that hold 95% of it."""


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


def expected_draws(acceptance: float, best_of: int, max_draws: int) -> ExpectedDraws:
    """Draws until `best_of` have passed, or `max_draws` are made; 1 / acceptance for best of 1.

    The mean of a number is the sum over d of the probability that it is above d: that fewer than
    `best_of` of the first d draws have passed.

    Args:
        acceptance: the probability that a draw passes; each one is independent of the others.
    """
    passed = np.zeros(best_of)  # the probability that 0, 1, ... of the draws so far have passed
    passed[0] = 1.0
    draws = 0.0
    for _ in range(max_draws):
        draws += float(passed.sum())
        more = np.concatenate([[0.0], passed[:-1]])
        passed = passed * (1 - acceptance) + more * acceptance
    return ExpectedDraws(draws, (1 - acceptance) ** max_draws)


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
