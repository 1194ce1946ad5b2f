"""Which ways are tried and which is taken, on a machine that is made up."""

import itertools
import math
from collections.abc import Callable, Sequence

import pytest

from nightpress.diffusion_core.tuning.candidates import TuningConfig
from nightpress.diffusion_core.tuning.search import WORTH, Trial, fastest, ways_to_try

HALF = TuningConfig("bfloat16")
EVERY_OTHER, ONE_IN_THREE, ONE_IN_FIVE = (
    TuningConfig.of(deep_features={"interval": interval}) for interval in (2, 3, 5)
)
LAST = TuningConfig.of(channels_last=True)
FUSED = TuningConfig.of(fuse_qkv_projections=True)
WHOLE = TuningConfig.of(compile="full")

ORDERS = list(itertools.permutations([HALF, EVERY_OTHER, ONE_IN_THREE]))

Measure = Callable[[TuningConfig], Trial | None]


def trial(way: TuningConfig, ratio: float, *psnr_db: float, fault: str | None = None) -> Trial:
    return Trial(way, ratio, ratio, psnr_db or (math.inf,), 0.0, fault)


def says(way: TuningConfig, part: TuningConfig) -> bool:
    """Whether a way holds all that another one says."""
    speeds = (each.speed.chosen().items() for each in (part, way))
    return part.dtype in (None, way.dtype) and next(speeds) <= next(speeds)


def machine(figures: dict[TuningConfig, tuple[float, float]]) -> Measure:
    """Gains multiply and errors add, as they do where ways have nothing to do with each other."""

    def measure(way: TuningConfig) -> Trial:
        parts = [figures[part] for part in figures if says(way, part)]
        error = sum(10 ** (-db / 10) for _, db in parts)
        decibels = -10 * math.log10(error) if error else math.inf
        return trial(way, math.prod(ratio for ratio, _ in parts), decibels)

    return measure


def tried(
    ways: Sequence[TuningConfig], measure: Measure, tolerance_db: float
) -> dict[TuningConfig, Trial | None]:
    found: dict[TuningConfig, Trial | None] = {}
    for way in ways_to_try(ways, found, tolerance_db):
        assert way not in found, "a way was tried twice"
        found[way] = measure(way)
    return found


BUILTIN = {
    HALF: (2.15, 43.1),
    LAST: (1.02, 88.0),
    EVERY_OTHER: (1.62, 33.7),
    ONE_IN_THREE: (1.94, 28.7),
}


def best_way(
    figures: dict[TuningConfig, tuple[float, float]], tolerance_db: float
) -> TuningConfig | None:
    found = fastest(tried(list(figures), machine(figures), tolerance_db), tolerance_db)
    return found.way if found is not None else None


def test_each_way_is_tried_by_itself_first_and_in_order() -> None:
    found = list(tried(list(BUILTIN), machine(BUILTIN), 30.0))
    assert found[: len(BUILTIN)] == list(BUILTIN)


def test_what_pays_within_the_tolerance_is_combined() -> None:
    assert best_way(BUILTIN, 30.0) == HALF.beside(EVERY_OTHER)
    assert best_way(BUILTIN, 28.0) == HALF.beside(ONE_IN_THREE)
    assert best_way(BUILTIN, 40.0) == HALF


def test_what_does_not_pay_by_itself_is_in_no_combination() -> None:
    combined = list(tried(list(BUILTIN), machine(BUILTIN), 30.0))[len(BUILTIN) :]
    assert combined == [HALF.beside(EVERY_OTHER)]


def test_the_fastest_way_gives_place_where_two_lesser_ones_go_further() -> None:
    figures = {ONE_IN_FIVE: (2.2, 31.0), HALF: (2.1, 36.0), EVERY_OTHER: (1.6, 35.0)}
    assert best_way(figures, 30.5) == HALF.beside(EVERY_OTHER)


def test_three_ways_end_up_together_where_all_of_them_gain() -> None:
    figures = {HALF: (2.0, 45.0), EVERY_OTHER: (1.5, 40.0), LAST: (1.2, 80.0)}
    together = TuningConfig.of("bfloat16", channels_last=True, deep_features={"interval": 2})
    assert best_way(figures, 35.0) == together


def test_a_combination_that_cannot_be_had_is_passed_over() -> None:
    whole = machine({HALF: (2.0, math.inf), WHOLE: (1.5, math.inf), LAST: (1.2, math.inf)})

    def measure(way: TuningConfig) -> Trial | None:
        return None if {"dtype", "compile"} <= way.fields else whole(way)

    found = fastest(tried([HALF, WHOLE, LAST], measure, 30.0), 30.0)
    assert found is not None
    assert found.way == HALF.beside(LAST)


def test_a_combination_that_gains_nothing_is_not_taken_further() -> None:
    def measure(way: TuningConfig) -> Trial:
        return trial(way, 2.0 if way == HALF else 1.9)

    found = tried([HALF, LAST, FUSED], measure, 30.0)
    assert fastest(found, 30.0) == found[HALF]
    assert not any(len(way.fields) > 2 for way in found)


def test_nothing_is_combined_and_nothing_taken_where_nothing_pays() -> None:
    slow = {way: (1.0, db) for way, (_, db) in BUILTIN.items()}
    assert list(tried(list(slow), machine(slow), 30.0)) == list(slow)
    assert best_way(slow, 30.0) is None
    assert best_way(BUILTIN, 90.0) is None
    assert fastest({HALF: None}, 30.0) is None


def test_a_way_is_worth_it_from_a_few_hundredths_on() -> None:
    assert not trial(LAST, WORTH - 0.001).pays
    assert trial(LAST, WORTH).pays


def test_of_ways_that_are_nearly_as_fast_the_simplest_and_nearest_is_taken() -> None:
    both = HALF.beside(LAST)
    assert both is not None
    found = {both: trial(both, 2.02), HALF: trial(HALF, 2.0, 40.0), LAST: trial(LAST, 1.99, 41.0)}
    assert fastest(found, 30.0) == found[LAST]


def test_every_picture_must_be_within_the_tolerance() -> None:
    one = trial(HALF, 2.0, 50.0, 29.9, math.inf)
    assert one.within(29.9)
    assert not one.within(30.0)
    assert (one.lowest_db, one.mean_db) == (29.9, pytest.approx(39.95))


def test_an_infinite_tolerance_lets_no_pixel_differ() -> None:
    assert trial(LAST, 2.0, math.inf, math.inf).within(math.inf)
    assert not trial(LAST, 2.0, math.inf, 99.0).within(math.inf)
    assert trial(LAST, 2.0).mean_db == math.inf


def test_a_faulty_picture_is_within_no_tolerance() -> None:
    assert not trial(HALF, 2.0, math.inf, fault="its values are not finite").within(1.0)


@pytest.mark.parametrize("order", ORDERS)
def test_the_order_of_the_ways_does_not_decide(order: tuple[TuningConfig, ...]) -> None:
    figures = {way: BUILTIN[way] for way in order}
    assert best_way(figures, 30.0) == HALF.beside(EVERY_OTHER)
