"""Keyed permutations."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightpress.pipelines.campaign.orders import Shuffled
from nightpress.pipelines.campaign.permutation import MAX_SIZE, Permutation


@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
def test_every_element_comes_once_and_is_found_again(size: int, key: int) -> None:
    permutation = Permutation(size, key)
    found = permutation.forward(np.arange(size))
    assert sorted(found.tolist()) == list(range(size))
    assert (permutation.inverse(found) == np.arange(size)).all()


def test_the_values_never_change() -> None:
    found = Permutation(10**12, 1).forward(np.arange(3))
    assert found.tolist() == [189818046931, 177368052247, 923232491384]


def test_other_keys_give_other_orders() -> None:
    orders = {tuple(Permutation(50, key).forward(np.arange(50)).tolist()) for key in range(20)}
    assert len(orders) == 20


def test_the_largest_size_works_and_a_larger_one_is_refused() -> None:
    permutation = Permutation(MAX_SIZE, 5)
    found = permutation.forward(np.array([0, MAX_SIZE - 1]))
    assert permutation.inverse(found).tolist() == [0, MAX_SIZE - 1]
    with pytest.raises(ValueError, match="2\\^62"):
        Permutation(MAX_SIZE + 1, 5)


@given(st.integers(1, 200), st.integers(0, 100), st.data())
def test_what_comes_first_is_not_repeated_later(size: int, key: int, data: st.DataObject) -> None:
    first = data.draw(st.lists(st.integers(0, size - 1), unique=True))
    order = Shuffled(size, key, np.array(first, np.int64))
    found = order.numbers(np.arange(size)).tolist()
    assert found[: len(first)] == first
    assert sorted(found) == list(range(size))
