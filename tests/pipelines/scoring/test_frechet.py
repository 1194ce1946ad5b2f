"""The Frechet distance: its closed forms, and statistics that are gathered in blocks."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from scipy.linalg import sqrtm

from nightpress.pipelines.scoring.frechet import FeatureStatistics, frechet_distance


def drawn(seed: int, num: int, width: int = 5) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(num, width)) @ rng.normal(size=(width, width)) + rng.normal(size=width)


@given(seed=st.integers(0, 2**32), sizes=st.lists(st.integers(1, 9), min_size=2, max_size=6))
def test_statistics_of_blocks_are_those_of_the_whole(seed: int, sizes: list[int]) -> None:
    features = drawn(seed, sum(sizes))
    blocks = np.split(features, np.cumsum(sizes)[:-1])
    total = FeatureStatistics.of(blocks[0])
    for block in blocks[1:]:
        total = total.merged(FeatureStatistics.of(block))
    assert total.num == len(features)
    assert total.mean == pytest.approx(features.mean(axis=0))
    assert total.covariance == pytest.approx(np.cov(features, rowvar=False), abs=1e-9)


def test_of_independent_features_the_distance_is_that_of_means_and_deviations() -> None:
    rng = np.random.default_rng(1)
    features = rng.normal(size=(5000, 3))
    a = FeatureStatistics.of(features)
    b = FeatureStatistics.of(features * 3 + 2)  # every deviation is three times as large
    moved = np.sum((b.mean - a.mean) ** 2)
    assert frechet_distance(a, b) == pytest.approx(moved + 4 * np.trace(a.covariance))


def test_the_distance_is_that_of_the_definition() -> None:
    a, b = FeatureStatistics.of(drawn(1, 40)), FeatureStatistics.of(drawn(2, 50))
    root = np.trace(sqrtm(a.covariance @ b.covariance)).real
    traces = np.trace(a.covariance) + np.trace(b.covariance)
    expected = np.sum((a.mean - b.mean) ** 2) + traces - 2 * root
    assert frechet_distance(a, b) == pytest.approx(expected)
    assert frechet_distance(b, a) == pytest.approx(expected)


def test_equal_sets_have_no_distance_even_if_they_are_few() -> None:
    few = FeatureStatistics.of(drawn(3, 4, width=64))
    assert 0 <= frechet_distance(few, few) < 1e-4
