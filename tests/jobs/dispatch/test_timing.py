"""ShardTiming: what may be expected, and what is far too long."""

from nightpress.jobs.dispatch.timing import (
    FIRST_SILENCE_S,
    REMEMBERED,
    SHORTEST_SILENCE_S,
    SHORTEST_STRAGGLING_S,
    SILENT_BATCHES,
    STRAGGLING,
    ShardTiming,
)


def test_before_anything_is_done_nothing_is_expected_and_nobody_straggles() -> None:
    pace = ShardTiming()
    assert pace.expected_s(10) is None
    assert not pace.is_straggling(10, 1e9)
    assert pace.longest_silence_s == FIRST_SILENCE_S


def test_a_shard_is_expected_to_take_what_the_middle_one_took_by_its_rows() -> None:
    pace = ShardTiming()
    for seconds in (10.0, 20.0, 900.0):
        pace.shard_done(10, seconds)
    assert pace.expected_s(10) == 20.0
    assert pace.expected_s(5) == 10.0


def test_a_shard_straggles_when_it_takes_far_longer_than_expected() -> None:
    pace = ShardTiming()
    pace.shard_done(10, 100.0)
    assert not pace.is_straggling(10, STRAGGLING * 100)
    assert pace.is_straggling(10, STRAGGLING * 100 + 1)
    assert not pace.is_straggling(1, SHORTEST_STRAGGLING_S)


def test_silence_is_measured_by_the_slowest_batch() -> None:
    pace = ShardTiming()
    pace.batch_done(1.0)
    assert pace.longest_silence_s == SHORTEST_SILENCE_S
    pace.batch_done(60.0)
    pace.batch_done(2.0)
    assert pace.longest_silence_s == SILENT_BATCHES * 60


def test_a_slow_batch_is_forgotten_after_a_while() -> None:
    pace = ShardTiming()
    pace.batch_done(60.0)
    for _ in range(REMEMBERED):
        pace.batch_done(20.0)
    assert pace.longest_silence_s == SILENT_BATCHES * 20


def test_where_batches_differ_much_silence_may_last_longer() -> None:
    pace = ShardTiming(spread=16.0)
    pace.batch_done(60.0)
    assert pace.longest_silence_s == SILENT_BATCHES * 60 * 16
