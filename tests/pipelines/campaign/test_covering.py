"""Covering arrays."""

from itertools import combinations

import numpy as np
import pytest

from nightpress.pipelines.campaign.covering import TooManyTuples, covering_rows
from nightpress.pipelines.campaign.product import Forbidden, Product

MASKS = {0: np.array([1, 0, 0, 0], bool), 1: np.array([1, 0, 0], bool)}


@pytest.mark.parametrize("strength", [1, 2, 3])
def test_every_allowed_tuple_occurs_and_no_other(strength: int) -> None:
    allowed = Product([4, 3, 2, 5], [Forbidden(MASKS)])
    rows = covering_rows(allowed, [0, 1, 3], strength, 5)
    assert (allowed.numbers(rows) >= 0).all()
    every = allowed.combinations(np.arange(allowed.size))
    for group in combinations([0, 1, 3], strength):
        found = {tuple(one) for one in rows[:, group].tolist()}
        assert found == {tuple(one) for one in every[:, group].tolist()}


def test_few_rows_suffice() -> None:
    assert len(covering_rows(Product([40, 5, 6]), [0, 1, 2], 1, 1)) == 40
    assert len(covering_rows(Product([40, 5, 6]), [0, 1, 2], 2, 1)) <= 250


def test_too_many_pairs_are_refused() -> None:
    with pytest.raises(TooManyTuples, match="more than"):
        covering_rows(Product([1000, 1000]), [0, 1], 2, 1)
