"""The shard queue: whatever fails, every shard ends once and only poisonous rows are set aside."""

import math
from collections import Counter
from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import given

from nightpress.jobs.dispatch.shard_queue import LOSSES_PER_ATTEMPT, ShardQueue
from nightpress.pipelines.records import FailureType
from nightpress.pipelines.shards.work import ShardWork

KILLED = FailureType.WORKER_KILLED


def queue_of(*sizes: int, max_attempts: int = 3, needs_actor: bool = False) -> ShardQueue:
    """A queue of shards with these numbers of rows."""
    return ShardQueue(
        range(len(sizes)),
        lambda shard: ShardWork(shard, 0, sizes[shard]),
        max_attempts,
        needs_actor,
    )


def rows(work: ShardWork) -> set[int]:
    """The rows that are tried."""
    return set(work.rows) - {row.row for row in work.set_aside}


def do_all(
    queue: ShardQueue, poison: dict[int, set[int]]
) -> tuple[dict[int, ShardWork], Counter[int]]:
    """Do all work; poisonous work crashes. Returns the commits, and the crashes by shard."""
    commits: dict[int, ShardWork] = {}
    crashes: Counter[int] = Counter()
    while not queue.is_finished:
        work = queue.take()
        if rows(work) & poison.get(work.shard, set()):
            crashes[work.shard] += 1
            assert queue.record_crash(work, KILLED, "it died")
        elif queue.complete(work):
            assert work.shard not in commits
            commits[work.shard] = work
    return commits, crashes


def test_without_failures_each_shard_is_handed_out_whole_and_in_order() -> None:
    queue = queue_of(4, 4, 2)
    works = [queue.take() for _ in range(3)]
    assert [(p.shard, p.start, p.stop, p.attempt, p.commits) for p in works] == [
        (0, 0, 4, 1, True),
        (1, 0, 4, 1, True),
        (2, 0, 2, 1, True),
    ]
    assert not queue.is_finished
    assert all(queue.complete(work) for work in works)
    assert queue.is_finished


def test_after_one_crash_the_whole_shard_is_retried() -> None:
    queue = queue_of(8)
    work = queue.take()
    assert queue.record_crash(work, KILLED, "once")
    again = queue.take()
    assert (again.start, again.stop, again.attempt, again.commits) == (0, 8, 2, True)
    assert queue.complete(again)


def test_a_row_that_always_kills_is_isolated_after_logarithmically_many_crashes() -> None:
    for size in (1, 2, 7, 64, 1000):
        for bad in {0, size // 2, size - 1}:
            commits, crashes = do_all(queue_of(size), {0: {bad}})
            assert [row.row for row in commits[0].set_aside] == [bad]
            assert commits[0].set_aside[0].error_type == KILLED
            assert crashes[0] <= 4 + math.ceil(math.log2(size))


def do_all_by_name(
    queue: ShardQueue, poison: set[int], batch_size: int, misnamed_by: int = 0
) -> tuple[ShardWork, int]:
    """Do the work on shard 0 in batches; isolated work names the one in hand, or a later one.

    Returns the commit, and how many processes crashed.
    """
    crashes = 0
    while True:
        work = queue.take()
        left = [row for row in work.rows if row not in {each.row for each in work.set_aside}]
        size = 1 if work.singly else batch_size
        cut = [tuple(left[n : n + size]) for n in range(0, len(left), size)]
        bad = [n for n, batch in enumerate(cut) if poison & set(batch)]
        if not bad:
            if queue.complete(work):
                return work, crashes
            continue
        crashes += 1
        named = cut[min(bad[0] + misnamed_by, len(cut) - 1)] if work.isolated else ()
        assert queue.record_crash(work, KILLED, "it died", named)


@pytest.mark.parametrize("batch_size", [1, 4, 8, 64])
@pytest.mark.parametrize("bad", [0, 3, 700, 1023])
def test_a_row_whose_batch_is_named_is_found_after_four_crashes(batch_size: int, bad: int) -> None:
    commit, crashes = do_all_by_name(queue_of(1024), {bad}, batch_size)
    assert [row.row for row in commit.set_aside] == [bad]
    assert crashes == (3 if batch_size == 1 else 4)


@given(
    size=st.integers(1, 60),
    batch_size=st.integers(1, 9),
    max_attempts=st.integers(1, 4),
    misnamed_by=st.integers(0, 3),
    data=st.data(),
)
def test_exactly_the_poisonous_rows_are_set_aside_even_if_innocent_batches_are_named(
    size: int, batch_size: int, max_attempts: int, misnamed_by: int, data: st.DataObject
) -> None:
    poison = data.draw(st.sets(st.integers(0, size - 1), max_size=3))
    queue = queue_of(size, max_attempts=max_attempts)
    commit, crashes = do_all_by_name(queue, poison, batch_size, misnamed_by)
    assert {row.row for row in commit.set_aside} == poison
    assert crashes <= max_attempts + (len(poison) + 1) * (4 + math.ceil(math.log2(size)))


def test_a_single_row_is_not_set_aside_after_one_death() -> None:
    queue = queue_of(4)
    while (work := queue.take()).num_rows > 1:
        assert queue.record_crash(work, KILLED, "a neighbour, or nobody")
    assert queue.record_crash(work, KILLED, "by chance")
    again = queue.take()
    assert (again.rows, again.attempt) == (work.rows, work.attempt + 1)
    queue.complete(again)
    commits, _ = do_all(queue, {})
    assert not commits[0].set_aside


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    max_attempts=st.integers(1, 4),
    data=st.data(),
)
def test_exactly_the_poisonous_rows_are_set_aside(
    sizes: list[int], max_attempts: int, data: st.DataObject
) -> None:
    poison = {
        shard: data.draw(st.sets(st.integers(0, size - 1), max_size=4))
        for shard, size in enumerate(sizes)
    }
    commits, crashes = do_all(queue_of(*sizes, max_attempts=max_attempts), poison)
    assert set(commits) == set(range(len(sizes)))
    for shard, size in enumerate(sizes):
        assert {row.row for row in commits[shard].set_aside} == poison[shard]
        most = max_attempts + len(poison[shard]) * (3 + math.ceil(math.log2(size)))
        assert crashes[shard] <= most


@given(
    sizes=st.lists(st.integers(1, 12), min_size=2, max_size=6),
    max_attempts=st.integers(1, 4),
    data=st.data(),
)
def test_exactly_the_poisonous_rows_are_set_aside_though_a_dying_process_reports_nothing(
    sizes: list[int], max_attempts: int, data: st.DataObject
) -> None:
    """An actor holds two pieces of work; if one of them is innocent, that one is blamed."""
    poison = {
        shard: data.draw(st.sets(st.integers(0, size - 1), max_size=2))
        for shard, size in enumerate(sizes)
    }
    queue, set_aside = queue_of(*sizes, max_attempts=max_attempts), {}
    while not queue.is_finished:
        held = [queue.take()]
        if not held[0].isolated and (second := queue.take_shared()) is not None:
            held.append(second)
        ends = [bool(rows(work) & poison[work.shard]) for work in held]
        if not any(ends):
            for work in held:
                if queue.complete(work):
                    set_aside[work.shard] = {row.row for row in work.set_aside}
            continue
        blamed = held.pop(ends.index(min(ends)))
        for work in held:
            queue.requeue(replace(work, isolated=True))
        assert queue.record_crash(blamed, KILLED, "it died")
    assert set_aside == poison


@given(data=st.data())
def test_under_any_mixture_of_failures_every_shard_ends_once(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=4))
    queue = queue_of(*sizes, needs_actor=data.draw(st.booleans()))
    in_flight: list[ShardWork] = []
    ended: Counter[int] = Counter()
    num_failures = 0
    while not queue.is_finished:
        if queue and (not in_flight or data.draw(st.booleans())):
            in_flight.append(queue.take())
            continue
        work = in_flight.pop(data.draw(st.integers(0, len(in_flight) - 1)))
        kinds = ["done", "crash", "loss", "back", "copy"] if num_failures < 40 else ["done"]
        num_failures += 1
        match data.draw(st.sampled_from(kinds)):
            case "done":
                ended[work.shard] += queue.complete(work)
            case "crash" | "loss" as kind:
                if kind == "crash":
                    goes_on = queue.record_crash(work, KILLED, "it died")
                else:
                    goes_on = queue.record_loss(work)
                if not goes_on:
                    queue.close(work.shard)
                    ended[work.shard] += 1
            case "back":
                queue.requeue(work)
            case "copy" if work.commits:
                in_flight += [work, work.next_attempt()]
            case _:
                in_flight.append(work)
    assert ended == Counter(range(len(sizes)))


def test_lost_nodes_are_forgiven_but_not_forever() -> None:
    queue = queue_of(4, max_attempts=2)
    for _ in range(LOSSES_PER_ATTEMPT * 2):
        work = queue.take()
        assert work.commits
        assert queue.record_loss(work)
    assert [queue.take().commits for _ in range(2)] == [False, False]


def test_requeued_work_is_handed_out_first() -> None:
    queue = queue_of(4, 4)
    first = queue.take()
    queue.requeue(first)
    assert queue.take() == first


def test_a_copy_that_finishes_second_counts_nothing() -> None:
    queue = queue_of(4)
    work = queue.take()
    copy = work.next_attempt()
    assert queue.complete(copy)
    assert not queue.complete(work)
    assert queue.record_crash(work, KILLED, "late")
    assert queue.is_finished


def test_a_shard_whose_commit_never_succeeds_is_given_up() -> None:
    queue = queue_of(2, max_attempts=2)
    given_up = False
    while not given_up:
        work = queue.take()
        if work.commits:
            given_up = not queue.record_crash(work, KILLED, "always")
        else:
            queue.complete(work)
    queue.close(0)
    assert queue.is_finished


def until_given_up(queue: ShardQueue) -> ShardWork:
    """Crash every attempt at whole shards, until one comes with every row set aside."""
    while rows(work := queue.take()):
        if work.commits:
            assert queue.record_crash(work, KILLED, "always")
        else:
            queue.complete(work)
    return work


def test_a_shard_that_an_actor_must_score_is_handed_out_once_more_without_its_rows() -> None:
    queue = queue_of(3, max_attempts=2, needs_actor=True)
    work = until_given_up(queue)
    assert queue.is_given_up(0)
    assert (work.commits, work.look_first, work.isolated) == (True, True, True)
    assert {(row.row, row.error_type, row.error) for row in work.set_aside} == {
        (number, KILLED, "always") for number in range(3)
    }
    assert queue.complete(work)
    assert queue.is_finished


def test_only_the_attempt_without_rows_can_end_a_shard_that_is_given_up() -> None:
    queue = queue_of(3, max_attempts=1, needs_actor=True)
    work = until_given_up(queue)
    copy_of_before = replace(work, set_aside=())
    assert queue.record_crash(copy_of_before, KILLED, "late")
    assert queue.record_loss(work)  # a lost node proves nothing
    assert not rows(again := queue.take())
    assert not queue.record_crash(again, KILLED, "even so")
