"""Shares of rows: exact for counted and ranked rows, and by hash alone for independent ones."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightpress.pipelines.campaign.quotas import (
    Counted,
    DrawnRows,
    Fixed,
    Independent,
    Quotas,
    Ranked,
    Weights,
    WeightsTooFine,
    shares,
)
from nightpress.pipelines.hashing import mix64

weights = st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any)


def drawn(number: int, seed: int = 0) -> DrawnRows:
    places = np.arange(number)
    return DrawnRows(places, mix64(places.astype(np.uint64) + np.uint64(seed)), places)


def counts(quotas: Quotas, given_weights: Weights, rows: DrawnRows, key: int = 5) -> list[int]:
    picks = quotas.pick("path", key, given_weights, rows)
    return np.bincount(picks.options, minlength=len(given_weights)).tolist()


def made(values: list[int]) -> Weights:
    return Weights.of([Fraction(value) for value in values])


@given(weights, st.integers(0, 2**64 - 1), st.integers(1, 20))
def test_whole_blocks_of_counted_rows_have_exact_shares(
    values: list[int], key: int, blocks: int
) -> None:
    found = made(values)
    rows = drawn(found.total * blocks)
    assert counts(Counted(), found, rows, key) == (found.values * blocks).tolist()


@pytest.mark.parametrize("values", [["0.333", "0.667"], ["1", "2"], ["97", "3"]])
@pytest.mark.parametrize("number", [500, 1001])
def test_every_prefix_of_counted_rows_has_nearly_its_share(values: list[str], number: int) -> None:
    found = Weights.of([Fraction(value) for value in values])
    exact = found.values * number / found.total
    assert np.abs(np.array(counts(Counted(), found, drawn(number))) - exact).max() <= 8


def test_a_row_keeps_its_pick_when_more_rows_are_drawn() -> None:
    found = made([1, 2, 3])
    few = Counted().pick("path", 5, found, drawn(100)).options
    many = Counted().pick("path", 5, found, drawn(1000)).options
    assert (few == many[:100]).all()


@given(weights, st.integers(1, 2000))
def test_places_within_an_alternative_count_from_zero(values: list[int], number: int) -> None:
    found = made(values)
    rows = drawn(found.total * (-(-number // found.total)))
    picks = Counted().pick("path", 5, found, rows)
    for option in range(len(values)):
        places = picks.positions[picks.options == option]
        assert sorted(places.tolist()) == list(range(len(places)))


@given(weights, st.integers(0, 3000))
def test_all_ranked_rows_together_have_exact_shares(values: list[int], number: int) -> None:
    found, rows = made(values), drawn(number)
    ranked = Ranked()
    picks = ranked.fit().pick("path", 5, found, rows)
    assert np.bincount(picks.options, minlength=len(values)).tolist() == (
        shares(found, number, 5).tolist()
    )
    for start in range(0, number, 700):
        part = DrawnRows(*(each[start : start + 700] for each in vars(rows).values()))
        again = ranked.pick("path", 5, found, part)
        assert (again.options == picks.options[start : start + 700]).all()


def test_shares_add_up_and_follow_the_weights() -> None:
    assert shares(made([1, 2]), 5000, 0).tolist() in ([1667, 3333], [1666, 3334])
    assert shares(made([0, 1]), 7, 0).tolist() == [0, 7]
    assert shares(Weights.equal(1000), 10, 0).sum() == 10


def test_few_rows_get_different_entries_of_a_long_list_not_its_first() -> None:
    found = np.flatnonzero(shares(Weights.equal(100_000), 50, 3))
    assert len(found) == 50
    assert found.max() > 50_000


def test_independent_rows_do_not_look_at_each_other() -> None:
    found, rows = made([1, 2]), drawn(3000)
    picks = Independent().pick("path", 5, found, rows).options
    alone = DrawnRows(*(each[7:8] for each in vars(rows).values()))
    assert Independent().pick("path", 5, found, alone).options[0] == picks[7]
    assert 1900 < int((picks == 1).sum()) < 2100


def test_what_was_decided_before_is_not_drawn() -> None:
    options = {"path": np.array([2, 0, 1])}
    quotas = Fixed(options, Independent())
    assert quotas.pick("path", 5, made([1, 1, 1]), drawn(3)).options.tolist() == [2, 0, 1]


def test_two_choices_do_not_follow_each_other() -> None:
    rows = drawn(4000)
    one = Counted().pick("a", 5, made([1, 1]), rows).options
    other = Counted().pick("b", 6, made([1, 1]), rows).options
    assert 1800 < int((one == other).sum()) < 2200


def test_weights_with_too_many_digits_are_refused() -> None:
    with pytest.raises(WeightsTooFine, match="fewer digits"):
        Weights.of([Fraction("0.123456789"), Fraction(1)])
