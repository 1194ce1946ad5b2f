"""Draws to expect from a share that passes, and the best of some."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightpress.pipelines.scoring.acceptance import (
    Share,
    correlation_within,
    expected_best,
    expected_draws,
    plausible_draws,
    quantiles,
)

SHARES = st.floats(0.0, 1.0)


@pytest.mark.parametrize("acceptance", [0.5, 0.1, 0.9, 1.0])
def test_without_a_limit_the_first_that_passes_takes_one_over_the_acceptance(
    acceptance: float,
) -> None:
    found = expected_draws(acceptance, 1, 1000)
    assert found.draws == pytest.approx(1 / acceptance)
    assert found.exhausted == pytest.approx(0.0)


@pytest.mark.parametrize("best_of", [1, 2, 5])
def test_best_of_takes_as_many_times_the_draws(best_of: int) -> None:
    assert expected_draws(0.25, best_of, 1000).draws == pytest.approx(best_of * 4)


@given(SHARES, st.integers(1, 6), st.integers(0, 10), SHARES)
def test_no_more_draws_are_made_than_allowed_and_no_fewer_than_needed(
    acceptance: float, best_of: int, more: int, correlation: float
) -> None:
    found = expected_draws(acceptance, best_of, best_of + more, correlation)
    assert best_of - 1e-9 <= found.draws <= best_of + more + 1e-9
    assert 0 <= found.exhausted <= 1


@pytest.mark.parametrize("acceptance", [0.0, 1.0])
def test_certainty_takes_the_fewest_or_the_most_draws(acceptance: float) -> None:
    found = expected_draws(acceptance, 4, 16)
    assert (found.draws, found.exhausted) == ((4, 0) if acceptance else (16, 1))


@pytest.mark.parametrize(("acceptance", "best_of", "max_draws"), [(0.3, 2, 6), (0.05, 1, 16)])
def test_the_mean_is_that_of_draws_that_are_made(
    acceptance: float, best_of: int, max_draws: int
) -> None:
    passes = np.random.default_rng(0).random((40_000, max_draws)) < acceptance
    enough = np.cumsum(passes, axis=1) >= best_of
    made = np.where(enough.any(axis=1), enough.argmax(axis=1) + 1, max_draws)
    found = expected_draws(acceptance, best_of, max_draws)
    assert found.draws == pytest.approx(made.mean(), rel=0.01)
    assert found.exhausted == pytest.approx(1 - passes.any(axis=1).mean(), abs=0.01)


def test_rows_of_which_all_draws_pass_or_none_take_the_fewest_or_the_most() -> None:
    found = expected_draws(0.75, 2, 10, correlation=1.0)
    assert found.draws == pytest.approx(0.75 * 2 + 0.25 * 10)
    assert found.exhausted == pytest.approx(0.25)


@pytest.mark.parametrize(
    "chances", [np.array([0.9, 0.9, 0.9, 0.05]), np.linspace(0, 1, 11), np.array([0.5])]
)
@pytest.mark.parametrize("best_of", [1, 3])
def test_a_few_draws_of_each_row_tell_how_many_all_rows_take(
    chances: np.ndarray, best_of: int
) -> None:
    rng = np.random.default_rng(0)
    of_rows = rng.choice(chances, 20_000)
    first = rng.random((20_000, 4)) < of_rows[:, None]
    correlation = correlation_within(first.sum(axis=1), np.full(20_000, 4))
    assert correlation is not None
    enough = np.cumsum(rng.random((20_000, 16)) < of_rows[:, None], axis=1) >= best_of
    made = np.where(enough.any(axis=1), enough.argmax(axis=1) + 1, 16)
    found = expected_draws(float(first.mean()), best_of, 16, correlation)
    assert found.draws == pytest.approx(made.mean(), rel=0.1)


def test_draws_that_differ_by_chance_alone_are_not_correlated() -> None:
    rng = np.random.default_rng(1)
    draws = rng.integers(1, 9, 30_000)
    assert correlation_within(rng.binomial(draws, 0.3), draws) == pytest.approx(0.0, abs=0.01)


def test_rows_that_pass_or_fail_as_a_whole_are_fully_correlated() -> None:
    draws = np.array([4, 2, 3, 4])
    assert correlation_within(np.array([4, 0, 3, 0]), draws) == pytest.approx(1.0)
    assert correlation_within(draws, draws) == 0.0  # nothing differs
    assert correlation_within(np.array([1, 0]), np.array([1, 1])) is None
    assert correlation_within(np.array([1]), np.array([3])) is None


@pytest.mark.parametrize("lowest", [False, True])
def test_the_best_of_some_is_that_of_all_ways_to_draw_them(lowest: bool) -> None:
    values = np.array([0.3, 0.1, 0.9, 0.3])
    pairs = np.stack(np.meshgrid(values, values)).reshape(2, -1)
    best = pairs.min(axis=0) if lowest else pairs.max(axis=0)
    assert expected_best(values, 2, lowest) == pytest.approx(best.mean())
    assert expected_best(values, 1, lowest) == pytest.approx(values.mean())


@given(st.integers(0, 50), st.integers(1, 50))
def test_the_interval_holds_the_share(num: int, more: int) -> None:
    share = Share(num, num + more)
    low, high = share.interval
    assert 0 <= low <= share.value <= high <= 1


def test_the_interval_is_wilsons() -> None:
    # 8 of 10, as tables of the Wilson interval have it.
    assert Share(8, 10).interval == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert Share(0, 10).interval == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert Share(0, 0).interval == (0.0, 1.0)


def test_quantiles_begin_with_the_least_and_end_with_the_greatest() -> None:
    values = np.arange(101.0)
    assert quantiles(values) == (0, 5, 25, 50, 75, 95, 100)
    assert quantiles(values[:0]) == ()


def test_rows_that_are_counted_are_as_alike_as_rows_that_are_listed() -> None:
    passed, draws, many = np.array([0, 1, 4]), np.array([2, 3, 4]), np.array([5, 1, 3])
    listed = correlation_within(np.repeat(passed, many), np.repeat(draws, many))
    assert correlation_within(passed, draws, many) == pytest.approx(listed)


@pytest.mark.slow
def test_the_draws_of_all_rows_are_among_those_that_some_of_them_make_plausible() -> None:
    chance = np.random.default_rng(3)
    pool = chance.beta(1.5, 1.5, 20_000)
    truth = float(((1 - (1 - pool) ** 16) / pool).mean())
    held, widths = 0, []
    for num_rows in [60] * 60 + [2000]:
        draws = np.full(num_rows, 4)
        passed = chance.binomial(draws, chance.choice(pool, num_rows))
        low, high = plausible_draws(passed, draws, 1, 16)
        held += low <= truth <= high
        widths.append(high - low)
    assert held >= 50
    assert widths[-1] < 0.4 * min(widths[:-1])


def test_without_a_row_any_number_of_draws_is_plausible() -> None:
    none = np.zeros(0, np.int64)
    assert plausible_draws(none, none, 2, 8) == (2.0, 8.0)
    one = np.array([1])
    assert plausible_draws(one, one, 1, 8) == (1.0, 1.0)
