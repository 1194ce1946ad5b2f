"""The rules of `model.speed: auto`: when faster ways are tried, and which one is kept."""

from dataclasses import replace

import pytest

from nightpress.diffusion_core.tuning.auto_speed import (
    COMPILE_S,
    EXPECTED_RATIO,
    EXPECTED_RATIO_BESIDE_COMPILED,
    FEWEST_STEPS,
    MAX_SHAPES,
    PAYBACK,
    TIMED_CALLS,
    ActorWork,
    Attempt,
    attempt_of_known,
    attempt_of_unknown,
    choose,
    compiled_ways,
    is_long_enough,
    quick_ways,
    saving_s,
)
from nightpress.diffusion_core.tuning.candidates import TuningConfig, last_bit_candidates
from nightpress.diffusion_core.tuning.search import ConfigTrial

LAST, FULL = TuningConfig.of(channels_last=True), TuningConfig.of(compile="full")
FUSED = TuningConfig.of(fuse_qkv_projections=True)
LOSSLESS = {"attention_backend", "channels_last", "compile", "fuse_qkv_projections"}


QUICK, COMPILED = quick_ways(), compiled_ways({})


def work(sampling_s: float, num_shapes: int = 1, batch_s: float = 1.0) -> ActorWork:
    """Work whose trials time a fifth of the steps of a batch."""
    return ActorWork(sampling_s, batch_s, batch_s / 5, 0.0, num_shapes)


def trial(config: TuningConfig, ratio: float, lowest_db: float = 90.0) -> ConfigTrial:
    """A trial that took 60 s longer to warm up than the 0.2 s of plain sampling."""
    return ConfigTrial(config, 1.0, ratio, (99.0, lowest_db), 60.2)


def test_nothing_that_loses_quality_is_ever_tried() -> None:
    for config in last_bit_candidates():
        assert config.dtype is None
        assert config.fields <= LOSSLESS


def test_a_run_just_long_enough_is_measured_and_one_step_less_is_not() -> None:
    assert is_long_enough(FEWEST_STEPS)
    assert not is_long_enough(FEWEST_STEPS - 1)


def test_every_way_is_either_quick_or_compiled() -> None:
    assert [*QUICK, *COMPILED] == last_bit_candidates()
    assert LAST in QUICK
    assert FULL in COMPILED


def test_what_is_compiled_is_compiled_with_the_fastest_of_the_quick_ways() -> None:
    trials = {LAST: trial(LAST, 1.2), FULL: trial(FULL, 1.5), FUSED: trial(FUSED, 1.1)}
    assert compiled_ways(trials) == [
        TuningConfig.of(channels_last=True, compile="regional"),
        TuningConfig.of(channels_last=True, compile="full"),
    ]
    assert compiled_ways({LAST: trial(LAST, 1.0), FUSED: None}) == COMPILED
    assert FULL not in compiled_ways({FULL: None})


def unknown(num_shapes: int, batch_s: float = 2.0) -> Attempt:
    """Compiling with so many shapes, as if nothing was known."""
    return attempt_of_unknown(work(0.0, num_shapes, batch_s), COMPILED)


@pytest.mark.parametrize("num_shapes", [1, 3])
def test_trying_pays_from_the_length_that_is_named_and_not_just_below(num_shapes: int) -> None:
    attempt = unknown(num_shapes)
    assert attempt.pays(work(attempt.worthwhile_s, num_shapes))
    assert not attempt.pays(work(attempt.worthwhile_s - 0.1, num_shapes))


def test_more_shapes_and_slower_batches_need_longer_runs() -> None:
    assert unknown(2).worthwhile_s > unknown(1).worthwhile_s
    assert unknown(1, 20.0).worthwhile_s > unknown(1).worthwhile_s
    assert not unknown(1).pays(work(1e9, MAX_SHAPES + 1))


def test_what_is_hoped_of_compiling_pays_for_the_trial_twice() -> None:
    attempt = unknown(1)
    assert attempt.limit_s(work(attempt.worthwhile_s)) == pytest.approx(PAYBACK * attempt.cost_s)
    timing = len(COMPILED) * TIMED_CALLS * 0.4
    compared, compiled = (len(COMPILED) + 1) * 2.0, sum(COMPILE_S.values())
    assert attempt.cost_s == pytest.approx(timing + compared + compiled)


def test_ways_that_do_not_compile_cost_their_batches_alone_with_any_number_of_shapes() -> None:
    attempt = attempt_of_unknown(work(0.0, MAX_SHAPES + 1, 2.0), [LAST])
    assert attempt.cost_s == pytest.approx(TIMED_CALLS * 0.4 + 2 * 2.0)
    just = work(attempt.worthwhile_s, MAX_SHAPES + 1, 2.0)
    assert attempt.pays(just)
    assert saving_s(just.sampling_s, EXPECTED_RATIO) == pytest.approx(attempt.cost_s)


def test_loading_the_model_once_more_counts_for_every_way() -> None:
    quick, slow = work(0.0), replace(work(0.0), load_s=10.0)
    unknown_s = attempt_of_unknown(quick, QUICK).cost_s
    assert attempt_of_unknown(slow, QUICK).cost_s == pytest.approx(unknown_s + 10.0 * len(QUICK))
    known_s = attempt_of_known(quick, trial(LAST, 1.2)).cost_s
    assert attempt_of_known(slow, trial(LAST, 1.2)).cost_s == pytest.approx(known_s + 10.0)


def test_a_way_that_is_already_used_leaves_less_to_save() -> None:
    used = trial(LAST, 1.2)
    alone, beside = unknown(1), attempt_of_unknown(work(0.0, 1, 2.0), COMPILED, used)
    assert beside.worthwhile_s == pytest.approx(1.2 * alone.worthwhile_s)
    assert alone.pays(work(alone.worthwhile_s))
    assert not beside.pays(work(alone.worthwhile_s))


def test_a_known_way_must_beat_the_one_that_is_used_already() -> None:
    long, known = work(1e4), trial(LAST, 1.3)
    slower = attempt_of_known(long, known, trial(FUSED, 1.1))
    assert slower.ratio == pytest.approx(1.3 / 1.1)
    assert slower.pays(long)
    for ratio in (1.3, 1.4):
        assert not attempt_of_known(long, known, trial(FUSED, ratio)).pays(long)


def test_compiling_whole_networks_beside_compiled_blocks_is_for_much_longer_runs() -> None:
    (blocks, whole), used = COMPILED, trial(LAST, 1.2)
    assert (blocks.speed.compile, whole.speed.compile) == ("regional", "full")
    first = attempt_of_unknown(work(0.0), [blocks], used)
    second = attempt_of_unknown(work(0.0), [whole], trial(blocks, 1.2))
    alone = attempt_of_unknown(work(0.0), [whole], used)
    assert first.worthwhile_s < alone.worthwhile_s < second.worthwhile_s
    assert second.ratio == EXPECTED_RATIO_BESIDE_COMPILED


def test_a_trial_may_take_twice_what_it_is_expected_to_cost() -> None:
    attempt = attempt_of_unknown(work(0.0, 1, 20.0), [LAST])
    assert attempt.limit_s(work(attempt.worthwhile_s)) == pytest.approx(2 * attempt.cost_s)


def test_a_known_way_pays_much_earlier_than_what_was_never_tried() -> None:
    # Each of 3 shapes loads in 60 s; two batches of 1 s are compared, and two warm up in 0.2 s.
    attempt = attempt_of_known(work(0.0, 3), trial(FULL, 1.25))
    assert attempt.cost_s == pytest.approx(182.4)
    assert attempt.worthwhile_s == pytest.approx(912.0)
    assert attempt.worthwhile_s < unknown(3, 1.0).worthwhile_s / 2
    assert attempt.ways == (FULL,)
    assert attempt.is_known


def test_a_speed_up_of_two_saves_half_of_the_time() -> None:
    assert saving_s(100.0, 2.0) == 50.0
    assert saving_s(100.0, 0.5) == -100.0


def test_the_shapes_that_are_still_to_be_compiled_count_against_the_saving() -> None:
    # 60 s for each of 9 more shapes is 540 s; of 5,000 s a ratio of 1.1 saves 454 s.
    for ratio, kept in ((1.1, False), (1.2, True)):
        found = choose(work(5_000.0, 10), {FULL: trial(FULL, ratio)})
        assert (found is not None) is kept
    quick = trial(LAST, 1.1)
    assert choose(work(5_000.0, 10), {FULL: trial(FULL, 1.2), LAST: quick}) == quick


def test_the_fastest_way_is_kept_that_stays_within_the_last_bits() -> None:
    long = work(5_000.0)
    trials = {LAST: trial(LAST, 1.2), FULL: trial(FULL, 1.5)}
    assert choose(long, trials) == trials[FULL]
    assert choose(long, trials | {FULL: trial(FULL, 1.5, 69.9)}) == trials[LAST]
    assert choose(long, trials | {FULL: None}) == trials[LAST]
    assert choose(long, {LAST: trial(LAST, 1.02), FULL: None}) is None
