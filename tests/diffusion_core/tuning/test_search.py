"""Which configurations are run_search and which one is used, on an imaginary machine."""

import itertools
import math
from collections.abc import Callable, Sequence

import pytest

from nightpress.diffusion_core.tuning.candidates import TuningConfig
from nightpress.diffusion_core.tuning.search import (
    MIN_SPEEDUP,
    ConfigTrial,
    configs_to_try,
    fastest,
)

HALF = TuningConfig("bfloat16")
EVERY_OTHER, ONE_IN_THREE, ONE_IN_FIVE = (
    TuningConfig.of(deep_features={"interval": interval}) for interval in (2, 3, 5)
)
LAST = TuningConfig.of(channels_last=True)
FUSED = TuningConfig.of(fuse_qkv_projections=True)
WHOLE = TuningConfig.of(compile="full")

ORDERS = list(itertools.permutations([HALF, EVERY_OTHER, ONE_IN_THREE]))

Measure = Callable[[TuningConfig], ConfigTrial | None]


def trial(
    config: TuningConfig, ratio: float, *psnr_db: float, fault: str | None = None
) -> ConfigTrial:
    return ConfigTrial(config, ratio, ratio, psnr_db or (math.inf,), 0.0, fault)


def includes(config: TuningConfig, part: TuningConfig) -> bool:
    """Whether a configuration includes all settings of another one."""
    speeds = (each.speed.chosen().items() for each in (part, config))
    return part.dtype in (None, config.dtype) and next(speeds) <= next(speeds)


def machine(figures: dict[TuningConfig, tuple[float, float]]) -> Measure:
    """Speed-ups multiply and errors add, as they do for independent settings."""

    def measure(config: TuningConfig) -> ConfigTrial:
        parts = [figures[part] for part in figures if includes(config, part)]
        error = sum(10 ** (-db / 10) for _, db in parts)
        decibels = -10 * math.log10(error) if error else math.inf
        return trial(config, math.prod(ratio for ratio, _ in parts), decibels)

    return measure


def run_search(
    configs: Sequence[TuningConfig], measure: Measure, tolerance_db: float
) -> dict[TuningConfig, ConfigTrial | None]:
    found: dict[TuningConfig, ConfigTrial | None] = {}
    for config in configs_to_try(configs, found, tolerance_db):
        assert config not in found, "a configuration was run_search twice"
        found[config] = measure(config)
    return found


BUILTIN = {
    HALF: (2.15, 43.1),
    LAST: (1.02, 88.0),
    EVERY_OTHER: (1.62, 33.7),
    ONE_IN_THREE: (1.94, 28.7),
}


def best_config(
    figures: dict[TuningConfig, tuple[float, float]], tolerance_db: float
) -> TuningConfig | None:
    found = fastest(run_search(list(figures), machine(figures), tolerance_db), tolerance_db)
    return found.config if found is not None else None


def test_each_config_is_first_tried_alone_in_order() -> None:
    found = list(run_search(list(BUILTIN), machine(BUILTIN), 30.0))
    assert found[: len(BUILTIN)] == list(BUILTIN)


def test_faster_configs_within_the_tolerance_are_combined() -> None:
    assert best_config(BUILTIN, 30.0) == HALF.combined_with(EVERY_OTHER)
    assert best_config(BUILTIN, 28.0) == HALF.combined_with(ONE_IN_THREE)
    assert best_config(BUILTIN, 40.0) == HALF


def test_a_config_that_is_no_faster_alone_is_in_no_combination() -> None:
    combined = list(run_search(list(BUILTIN), machine(BUILTIN), 30.0))[len(BUILTIN) :]
    assert combined == [HALF.combined_with(EVERY_OTHER)]


def test_two_slower_configs_can_beat_the_fastest_one() -> None:
    figures = {ONE_IN_FIVE: (2.2, 31.0), HALF: (2.1, 36.0), EVERY_OTHER: (1.6, 35.0)}
    assert best_config(figures, 30.5) == HALF.combined_with(EVERY_OTHER)


def test_three_configs_are_combined_if_each_gains() -> None:
    figures = {HALF: (2.0, 45.0), EVERY_OTHER: (1.5, 40.0), LAST: (1.2, 80.0)}
    together = TuningConfig.of("bfloat16", channels_last=True, deep_features={"interval": 2})
    assert best_config(figures, 35.0) == together


def test_a_combination_that_fails_is_skipped() -> None:
    whole = machine({HALF: (2.0, math.inf), WHOLE: (1.5, math.inf), LAST: (1.2, math.inf)})

    def measure(config: TuningConfig) -> ConfigTrial | None:
        return None if {"dtype", "compile"} <= config.fields else whole(config)

    found = fastest(run_search([HALF, WHOLE, LAST], measure, 30.0), 30.0)
    assert found is not None
    assert found.config == HALF.combined_with(LAST)


def test_a_combination_that_gains_nothing_is_not_extended() -> None:
    def measure(config: TuningConfig) -> ConfigTrial:
        return trial(config, 2.0 if config == HALF else 1.9)

    found = run_search([HALF, LAST, FUSED], measure, 30.0)
    assert fastest(found, 30.0) == found[HALF]
    assert not any(len(config.fields) > 2 for config in found)


def test_nothing_is_combined_or_chosen_if_nothing_is_faster() -> None:
    slow = {config: (1.0, db) for config, (_, db) in BUILTIN.items()}
    assert list(run_search(list(slow), machine(slow), 30.0)) == list(slow)
    assert best_config(slow, 30.0) is None
    assert best_config(BUILTIN, 90.0) is None
    assert fastest({HALF: None}, 30.0) is None


def test_a_speed_up_counts_from_a_few_percent_on() -> None:
    assert not trial(LAST, MIN_SPEEDUP - 0.001).is_faster
    assert trial(LAST, MIN_SPEEDUP).is_faster


def test_of_nearly_equally_fast_configs_the_simplest_and_closest_is_chosen() -> None:
    both = HALF.combined_with(LAST)
    assert both is not None
    found = {both: trial(both, 2.02), HALF: trial(HALF, 2.0, 40.0), LAST: trial(LAST, 1.99, 41.0)}
    assert fastest(found, 30.0) == found[LAST]


def test_every_image_must_be_within_the_tolerance() -> None:
    one = trial(HALF, 2.0, 50.0, 29.9, math.inf)
    assert one.within(29.9)
    assert not one.within(30.0)
    assert (one.lowest_db, one.mean_db) == (29.9, pytest.approx(39.95))


def test_an_infinite_tolerance_lets_no_pixel_differ() -> None:
    assert trial(LAST, 2.0, math.inf, math.inf).within(math.inf)
    assert not trial(LAST, 2.0, math.inf, 99.0).within(math.inf)
    assert trial(LAST, 2.0).mean_db == math.inf


def test_a_faulty_image_is_within_no_tolerance() -> None:
    assert not trial(HALF, 2.0, math.inf, fault="its values are not finite").within(1.0)


@pytest.mark.parametrize("order", ORDERS)
def test_the_order_of_the_configs_does_not_matter(order: tuple[TuningConfig, ...]) -> None:
    figures = {config: BUILTIN[config] for config in order}
    assert best_config(figures, 30.0) == HALF.combined_with(EVERY_OTHER)
