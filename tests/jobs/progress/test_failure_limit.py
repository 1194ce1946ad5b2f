"""The failure limit: when too many failures stop a run."""

import pytest

from nightpress.jobs.progress.events import Message, RowSetAside, ShardRetried
from nightpress.jobs.progress.failure_limit import MIN_DONE, FailureLimit
from nightpress.pipelines.shards.runner import BatchDone, ShardDone


def counted(limit: int | str | None, *shards: tuple[int, int]) -> FailureLimit:
    found = FailureLimit(limit)
    for number, (ok, failed) in enumerate(shards):
        found.add(ShardDone(number, ok, failed))
    return found


@pytest.mark.parametrize("limit", [None, 2, "2%"])
def test_a_run_without_failures_is_never_stopped(limit: int | str | None) -> None:
    assert counted(limit, (500, 0)).exceeded is None


def test_a_number_stops_the_run_once_it_is_exceeded() -> None:
    assert counted(2, (1, 2)).exceeded is None
    assert counted(2, (1, 2), (9, 1)).exceeded == (
        "3 of 13 images failed, and max_failures is 2; a higher limit lets the run go on"
    )
    assert counted(0, (0, 1)).exceeded is not None


def test_a_percentage_is_of_all_that_are_done_and_needs_a_minimum() -> None:
    few = MIN_DONE // 2
    assert counted("10%", (0, few)).exceeded is None
    assert counted("10%", (0, few), (0, few)).exceeded is not None
    assert counted("10%", (95, 5)).exceeded is None
    assert counted("10%", (85, 15)).exceeded is not None


def test_rows_that_were_set_aside_count_once() -> None:
    limit = counted(1)
    limit.add(Message("hello"))
    limit.add(RowSetAside(0, 3, "it died"))
    assert limit.exceeded is None
    limit.add(ShardDone(0, 7, 1))
    assert limit.exceeded is None
    limit.add(RowSetAside(1, 0, "it died"))
    assert limit.exceeded is not None


def test_failures_in_a_large_shard_stop_the_run_long_before_its_end() -> None:
    limit = FailureLimit(3)
    limit.add(BatchDone(0, num_ok=1, num_failed=3, num_sampled=1))
    assert limit.exceeded is None
    limit.add(BatchDone(0, num_ok=0, num_failed=1, num_sampled=0))
    assert (
        limit.exceeded
        == "4 of 5 images failed, and max_failures is 3; a higher limit lets the run go on"
    )


def test_a_percentage_counts_images_under_way() -> None:
    limit = FailureLimit("10%")
    for _ in range(MIN_DONE // 10):
        assert limit.exceeded is None
        limit.add(BatchDone(0, num_ok=8, num_failed=2, num_sampled=8))
    assert limit.exceeded is not None


def test_a_commit_s_counts_replace_those_of_its_batches() -> None:
    limit = FailureLimit(3)
    limit.add(BatchDone(0, num_ok=2, num_failed=2, num_sampled=2))
    limit.add(ShardDone(0, 2, 2))
    assert limit.exceeded is None
    limit.add(BatchDone(1, num_ok=2, num_failed=2, num_sampled=2))
    assert limit.exceeded is not None


def test_rows_that_are_tried_again_count_once() -> None:
    limit = FailureLimit(2)
    for attempt in range(1, 4):
        limit.add(BatchDone(0, num_ok=5, num_failed=2, num_sampled=5))
        assert limit.exceeded is None
        limit.add(ShardRetried(0, attempt, "its process died"))
    limit.add(RowSetAside(0, 6, "its process died"))
    limit.add(BatchDone(0, num_ok=5, num_failed=1, num_sampled=0))  # the row set aside
    limit.add(BatchDone(0, num_ok=0, num_failed=1, num_sampled=0))
    assert limit.exceeded is None
    limit.add(BatchDone(0, num_ok=0, num_failed=1, num_sampled=0))
    assert limit.exceeded is not None


def test_images_that_gates_rejected_do_not_count() -> None:
    limit = FailureLimit(2)
    limit.add(BatchDone(0, num_ok=1, num_failed=5, num_sampled=1, num_rejected=4))
    assert limit.exceeded is None
    limit.add(ShardDone(0, num_ok=1, num_failed=5, num_rejected=4))
    assert limit.exceeded is None
    limit.add(ShardDone(1, num_ok=1, num_failed=9, num_rejected=7))
    assert limit.exceeded is not None
    assert limit.exceeded.startswith("3 of 5 images failed")
