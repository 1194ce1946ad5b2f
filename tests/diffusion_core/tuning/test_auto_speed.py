"""The rules of `model.speed: auto`: when faster ways are tried, and which one is kept."""

import pytest

from nightpress.diffusion_core.tuning.auto_speed import (
    FEWEST_STEPS,
    MAX_SHAPES,
    ActorWork,
    choose,
    is_long_enough,
    is_worth_trying,
    pays,
    saving_s,
)
from nightpress.diffusion_core.tuning.candidates import TuningConfig, last_bit_candidates
from nightpress.diffusion_core.tuning.search import ConfigTrial

LAST, FULL = TuningConfig.of(channels_last=True), TuningConfig.of(compile="full")
LOSSLESS = {"attention_backend", "channels_last", "compile", "fuse_qkv_projections"}


def trial(config: TuningConfig, ratio: float, lowest_db: float = 90.0) -> ConfigTrial:
    """A trial whose first batch of 1 s was warm after 61 s."""
    warm_s = 61.0
    return ConfigTrial(config, 1.0, ratio, (99.0, lowest_db), warm_s)


def test_nothing_that_loses_quality_is_ever_tried() -> None:
    for config in last_bit_candidates():
        assert config.dtype is None
        assert config.fields <= LOSSLESS


def test_a_run_just_long_enough_is_measured_and_one_step_less_is_not() -> None:
    assert is_long_enough(FEWEST_STEPS)
    assert not is_long_enough(FEWEST_STEPS - 1)


@pytest.mark.parametrize("num_shapes", [1, 3])
def test_trying_pays_from_the_length_that_is_named_and_not_just_below(num_shapes: int) -> None:
    floor = ActorWork(0.0, 2.0, num_shapes).worthwhile_s
    assert is_worth_trying(ActorWork(floor, 2.0, num_shapes))
    assert not is_worth_trying(ActorWork(floor - 0.1, 2.0, num_shapes))


def test_more_shapes_and_slower_batches_need_longer_runs() -> None:
    floor = ActorWork(0.0, 2.0, 1).worthwhile_s
    assert ActorWork(0.0, 2.0, 2).worthwhile_s > floor
    assert ActorWork(0.0, 20.0, 1).worthwhile_s > floor
    assert not is_worth_trying(ActorWork(1e9, 2.0, MAX_SHAPES + 1))


def test_what_is_hoped_for_pays_for_the_trial_twice() -> None:
    work = ActorWork(ActorWork(0.0, 2.0, 1).worthwhile_s, 2.0, 1)
    assert work.expected_saving_s == pytest.approx(2 * work.expected_cost_s)
    assert work.limit_s == work.expected_saving_s


def test_a_speed_up_of_two_saves_half_of_the_time() -> None:
    assert saving_s(100.0, 2.0) == 50.0
    assert saving_s(100.0, 0.5) == -100.0


def test_the_shapes_that_are_still_to_be_compiled_count_against_the_saving() -> None:
    # 60 s for each of 9 more shapes is 540 s; of 5,000 s a ratio of 1.1 saves 454 s.
    assert not pays(ActorWork(5_000.0, 1.0, 10), trial(FULL, 1.1))
    assert pays(ActorWork(5_000.0, 1.0, 10), trial(FULL, 1.2))
    assert pays(ActorWork(5_000.0, 1.0, 10), trial(LAST, 1.1))


def test_the_fastest_way_is_kept_that_stays_within_the_last_bits() -> None:
    work = ActorWork(5_000.0, 1.0, 1)
    trials = {LAST: trial(LAST, 1.2), FULL: trial(FULL, 1.5)}
    assert choose(work, trials) == trials[FULL]
    assert choose(work, trials | {FULL: trial(FULL, 1.5, 69.9)}) == trials[LAST]
    assert choose(work, trials | {FULL: None}) == trials[LAST]
    assert choose(work, {LAST: trial(LAST, 1.02), FULL: None}) is None
