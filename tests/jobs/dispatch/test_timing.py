"""ShardTiming: how long a shard is expected to take, and what takes too long."""

from nightpress.jobs.dispatch.timing import (
    FIRST_BATCH_HANG_S,
    HANG_FACTOR,
    MIN_HANG_S,
    MIN_STRAGGLER_S,
    NUM_REMEMBERED,
    STRAGGLER_FACTOR,
    ShardTiming,
)


def test_before_the_first_shard_nothing_is_expected_and_nothing_straggles() -> None:
    timing = ShardTiming()
    assert timing.expected_s(10) is None
    assert not timing.is_straggling(10, 1e9)
    assert timing.hang_timeout_s == FIRST_BATCH_HANG_S


def test_a_shard_is_expected_to_take_the_median_time_per_row() -> None:
    timing = ShardTiming()
    for seconds in (10.0, 20.0, 900.0):
        timing.add_shard(10, seconds)
    assert timing.expected_s(10) == 20.0
    assert timing.expected_s(5) == 10.0


def test_a_shard_straggles_when_it_takes_far_longer_than_expected() -> None:
    timing = ShardTiming()
    timing.add_shard(10, 100.0)
    assert not timing.is_straggling(10, STRAGGLER_FACTOR * 100)
    assert timing.is_straggling(10, STRAGGLER_FACTOR * 100 + 1)
    assert not timing.is_straggling(1, MIN_STRAGGLER_S)


def test_the_hang_timeout_follows_the_slowest_batch() -> None:
    timing = ShardTiming()
    timing.add_batch(1.0)
    assert timing.hang_timeout_s == MIN_HANG_S
    timing.add_batch(60.0)
    timing.add_batch(2.0)
    assert timing.hang_timeout_s == HANG_FACTOR * 60


def test_a_slow_batch_is_forgotten_after_a_while() -> None:
    timing = ShardTiming()
    timing.add_batch(60.0)
    for _ in range(NUM_REMEMBERED):
        timing.add_batch(20.0)
    assert timing.hang_timeout_s == HANG_FACTOR * 20


def test_the_hang_timeout_is_longer_where_batches_differ_in_cost() -> None:
    timing = ShardTiming(cost_ratio=16.0)
    timing.add_batch(60.0)
    assert timing.hang_timeout_s == HANG_FACTOR * 60 * 16
