"""The rules of `model.speed: auto`: when faster ways are tried, and which one is kept."""

import pytest

from nightpress.diffusion_core.tuning.auto_speed import (
    BATCHES_OF_A_WAY,
    COMPILE_S,
    FEWEST_STEPS,
    MAX_SHAPES,
    ActorWork,
    Attempt,
    attempt_of_known,
    attempt_of_unknown,
    choose,
    is_long_enough,
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


def unknown(num_shapes: int, batch_s: float = 2.0) -> Attempt:
    """Trying all ways with so many shapes, as if none was known."""
    return attempt_of_unknown(ActorWork(0.0, batch_s, num_shapes), last_bit_candidates())


@pytest.mark.parametrize("num_shapes", [1, 3])
def test_trying_pays_from_the_length_that_is_named_and_not_just_below(num_shapes: int) -> None:
    attempt = unknown(num_shapes)
    assert attempt.pays(ActorWork(attempt.worthwhile_s, 2.0, num_shapes))
    assert not attempt.pays(ActorWork(attempt.worthwhile_s - 0.1, 2.0, num_shapes))


def test_more_shapes_and_slower_batches_need_longer_runs() -> None:
    assert unknown(2).worthwhile_s > unknown(1).worthwhile_s
    assert unknown(1, 20.0).worthwhile_s > unknown(1).worthwhile_s
    assert not unknown(1).pays(ActorWork(1e9, 2.0, MAX_SHAPES + 1))


def test_what_is_hoped_for_pays_for_the_trial_twice() -> None:
    attempt = unknown(1)
    work = ActorWork(attempt.worthwhile_s, 2.0, 1)
    assert attempt.limit_s(work) == pytest.approx(2 * attempt.cost_s)
    assert attempt.cost_s == COMPILE_S + 5 * BATCHES_OF_A_WAY * 2.0


def test_ways_that_do_not_compile_cost_their_batches_alone() -> None:
    attempt = attempt_of_unknown(ActorWork(0.0, 2.0, 9), [LAST])
    assert attempt.cost_s == 2 * BATCHES_OF_A_WAY * 2.0


def test_a_known_way_pays_much_earlier_than_what_was_never_tried() -> None:
    # Each of 3 shapes loads in 60 s, and two batches of 1 s are compared.
    work = ActorWork(0.0, 1.0, 3)
    attempt = attempt_of_known(work, trial(FULL, 1.25))
    assert attempt.cost_s == 182.0
    assert attempt.worthwhile_s == pytest.approx(910.0)
    assert attempt.worthwhile_s < unknown(3, 1.0).worthwhile_s / 2
    assert attempt.ways == (FULL,)


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
