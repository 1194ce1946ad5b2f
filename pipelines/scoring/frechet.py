"""The Frechet distance of two sets of features, from their means and covariances."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.float64]


@dataclass(frozen=True)
class FeatureStatistics:
    """Mean and covariance of features, to which more can be added.

    Reference: Chan, Golub and LeVeque, Algorithms for Computing the Sample Variance, 1983, eq. 2.1.
    """

    num: int
    mean: Features
    """(d,)"""
    scatter: Features
    """(d, d) the sum of the outer products of each feature's distance from the mean."""

    @classmethod
    def of(cls, features: Features) -> "FeatureStatistics":
        """The statistics of some features; (n, d), n at least 1."""
        mean = features.mean(axis=0)
        centred = features - mean
        return cls(len(features), mean, centred.T @ centred)

    def merged(self, other: "FeatureStatistics") -> "FeatureStatistics":
        """The statistics of these and others."""
        num, apart = self.num + other.num, other.mean - self.mean
        between = np.outer(apart, apart) * (self.num * other.num / num)
        mean = self.mean + apart * (other.num / num)
        return FeatureStatistics(num, mean, self.scatter + other.scatter + between)

    @property
    def covariance(self) -> Features:
        """(d, d) of a sample: divided by the number less 1, of which there must be 2."""
        return self.scatter / (self.num - 1)


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), of the normal distributions that fit two sets.

    The trace of the root is the sum of the roots of the eigenvalues of C1^(1/2) C2 C1^(1/2), which
    is symmetric, so that no root is complex, whatever the ranks of the two.

    Reference: Dowson and Landau, The Frechet Distance between Multivariate Normal Distributions,
    1982; for images Heusel et al., GANs Trained by a Two Time-Scale Update Rule Converge to a Local
    Nash Equilibrium, 2017.
    """
    first, second = a.covariance, b.covariance
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    product = root @ second @ root
    roots = np.sqrt(np.linalg.eigvalsh((product + product.T) / 2).clip(0))
    apart = float(np.sum((a.mean - b.mean) ** 2))
    spread = float(np.trace(first) + np.trace(second) - 2 * roots.sum())
    return max(0.0, apart + spread)  # of equal sets it may be rounded to less
