"""The totals of a run, from its events."""

import random

import pytest

from nightpress.jobs.progress.events import ActorJoined, ActorLost, Planned, ShardRetried
from nightpress.jobs.progress.tally import Tally
from nightpress.pipelines.run_directory.summary import PAUSE_S
from nightpress.pipelines.shards.events import BatchDone, ShardDone, ShardLeft


class Clock:
    """A clock that moves only when a test sets it."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def planned(done: int = 0) -> Planned:
    return Planned(num_images=20, num_shards=5, num_done=done)


def test_an_image_counts_once_however_often_its_shard_was_tried() -> None:
    tally = Tally(clock=Clock())
    for event in (
        planned(),
        BatchDone(0, 2, 0, 2),
        BatchDone(0, 1, 1, 1),
        ShardRetried(0, 1, "it died"),
        BatchDone(0, 3, 0, 3),
        BatchDone(0, 1, 0, 1),
        ShardDone(0, 4, 0),
    ):
        tally.add(event)
    assert (tally.num_ok, tally.num_failed, tally.num_done) == (4, 0, 4)


def test_images_of_earlier_starts_are_done_but_not_made() -> None:
    tally = Tally(clock=Clock())
    tally.add(planned(done=8))
    tally.add(BatchDone(3, 2, 0, 2))
    assert (tally.num_done, tally.num_made, tally.num_failed) == (10, 2, 0)


def test_images_of_an_actor_that_leaves_count_once() -> None:
    tally = Tally(clock=Clock())
    tally.add(planned())
    for event in (BatchDone(0, 4, 0, 4), ShardLeft(0), BatchDone(0, 4, 0, 0)):
        tally.add(event)
    assert (tally.num_ok, tally.num_made) == (4, 4)


def test_a_commit_s_counts_replace_those_of_the_attempt() -> None:
    tally = Tally(clock=Clock())
    tally.add(planned())
    tally.add(BatchDone(0, 4, 0, 4))
    tally.add(ShardDone(0, 3, 1))
    assert (tally.num_ok, tally.num_failed) == (3, 1)


def test_the_rate_is_images_per_second_of_sampling_and_gives_the_time_left() -> None:
    clock = Clock()
    tally = Tally(clock=clock)
    tally.add(planned())
    assert tally.images_per_s is None
    assert tally.left_s is None
    clock.now += 30  # the model loads
    tally.add(BatchDone(0, 4, 0, 4, batch_s=4.0))
    clock.now += 4
    tally.add(BatchDone(1, 4, 0, 4, batch_s=3.5))
    assert tally.images_per_s == 1.0
    assert tally.left_s == 12.0
    clock.now += 50  # nothing is sampled any more
    assert tally.images_per_s == 1.0


def test_a_long_pause_is_no_sampling_time_and_a_short_one_is() -> None:
    clock = Clock()
    tally = Tally(clock=clock)
    tally.add(BatchDone(0, 4, 0, 4, batch_s=4.0))
    clock.now += 4 + PAUSE_S + 1
    tally.add(BatchDone(1, 4, 0, 4, batch_s=4.0))
    assert tally.active_s == 8.0
    clock.now += 4 + PAUSE_S
    tally.add(BatchDone(2, 4, 0, 4, batch_s=4.0))
    assert tally.active_s == 12.0 + PAUSE_S


def test_time_in_which_images_are_scored_is_no_pause() -> None:
    clock = Clock()
    tally = Tally(clock=clock)
    tally.add(planned())
    tally.add(BatchDone(0, 4, 0, 4, batch_s=4.0, scoring_s=40.0))
    assert tally.active_s == 40.0
    for _ in range(3):
        clock.now += 4 + 3 * PAUSE_S
        tally.add(BatchDone(1, 4, 0, 4, batch_s=4.0, scoring_s=3 * PAUSE_S))
    assert tally.active_s == 40.0 + 3 * (4 + 3 * PAUSE_S)
    assert tally.left_s == pytest.approx(tally.active_s / 4)
    clock.now += PAUSE_S
    tally.add(BatchDone(1, 0, 1, 0, scoring_s=PAUSE_S))  # nothing was sampled
    assert tally.active_s == 40.0 + 3 * (4 + 3 * PAUSE_S) + PAUSE_S


def test_found_images_give_no_rate() -> None:
    clock = Clock()
    tally = Tally(clock=clock)
    tally.add(planned())
    tally.add(BatchDone(0, 4, 0, 0))
    clock.now += 30
    tally.add(BatchDone(1, 4, 0, 0))
    assert tally.images_per_s is None
    clock.now += 4
    tally.add(BatchDone(2, 4, 0, 4, batch_s=4.0))
    assert tally.images_per_s == 1.0


def test_actors_are_counted_as_they_join_and_leave() -> None:
    tally = Tally(clock=Clock())
    tally.add(ActorJoined("a", 2))
    tally.add(ActorLost("a", 1, "gone"))
    assert tally.num_actors == 1


def test_counts_under_way_are_kept_up_to_date() -> None:
    tally, chance = Tally(clock=Clock()), random.Random(5)
    for _ in range(500):
        shard, ok, failed = chance.randrange(20), chance.randrange(5), chance.randrange(3)
        ends = [ShardRetried(shard, 1, "it died"), ShardLeft(shard), ShardDone(shard, ok, failed)]
        tally.add(chance.choice([*ends, *[BatchDone(shard, ok, failed, ok)] * 6]))
        sums = [sum(counts) for counts in zip(*tally.under_way.values(), strict=True)] or [0, 0]
        assert list(tally.num_under_way) == sums
