"""A shard begins while the device is at work on the last batch of the one before."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from support.fakes.fake_runs import FakeSampler, prepare, rows_of, work_on
from support.fakes.late_sampler import PATIENCE_S, LateSampler, Spotted
from support.waiting import until

from nightpress.diffusion_core.errors import DeviceError, OutOfMemory
from nightpress.diffusion_core.sampling.batch_result import SampledBatch
from nightpress.pipelines.errors import StoreError
from nightpress.pipelines.run_directory.commit import committed_shards, read_commit
from nightpress.pipelines.run_directory.record import RunRecord
from nightpress.pipelines.shards.events import BatchDone, BatchSampled, ShardDone, ShardEvent
from nightpress.pipelines.shards.runner import ShardRunner
from nightpress.pipelines.shards.timeline import Activity
from nightpress.pipelines.shards.work import Amendment
from nightpress.pipelines.storage import Store

Prepared = tuple[Store, RunRecord, pa.Table]


def planned(folder: Path) -> Prepared:
    """Two shards of two batches each."""
    prompts = [f"picture {number}" for number in range(16)]
    return prepare(folder, prompts, shard_size=8, review={"thumbs": False})


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    return planned(tmp_path)


@pytest.fixture
def expected(tmp_path: Path) -> list[str]:
    """The hashes that a sampler makes which is done with each batch at once."""
    plain = planned(tmp_path / "plain")
    make_both(plain, Spotted())
    return hashes(plain)


def hashes(prepared: Prepared) -> list[str]:
    parts = [read_commit(prepared[0], shard) for shard in (0, 1)]
    return [sha for part in parts for sha in part.column("sha256").to_pylist()]


@contextmanager
def both_running(
    prepared: Prepared,
    sampler: FakeSampler,
    first: dict[str, Any] | None = None,
    second: dict[str, Any] | None = None,
    watch: Callable[[ShardRunner], None] = lambda runner: None,
) -> Iterator[list[Future[list[ShardEvent]]]]:
    """The events of both shards; the first begins when the second waits for it.

    Args:
        first, second: more about the work on each.
        watch: called with the runner before it runs.
    """
    store, record, rows = prepared
    runner = ShardRunner(store, record, sampler, "here:1")  # type: ignore[arg-type]
    watch(runner)

    def make(shard: int, ticket: int, work: dict[str, Any]) -> list[ShardEvent]:
        own = rows_of(rows, shard)
        with runner.accelerator_lock.ticket(ticket):
            return list(runner.run(work_on(own, shard, **work), own, ticket))

    with ThreadPoolExecutor(2) as threads:
        later = threads.submit(make, 1, 1, second or {})
        until(lambda: runner.accelerator_lock.is_awaited_by(1))
        yield [threads.submit(make, 0, 0, first or {}), later]
    runner.close()


def make_both(prepared: Prepared, sampler: FakeSampler, **work: Any) -> None:
    with both_running(prepared, sampler, **work) as shards:
        ends = [shard.result(PATIENCE_S)[-1] for shard in shards]
    assert ends == [ShardDone(0, num_ok=8, num_failed=0), ShardDone(1, num_ok=8, num_failed=0)]


def after_the_next(number: int) -> list[int]:
    """The device is done with a batch when the next one was queued, and with later ones at once."""
    return [number - 1] * (number > 0) + [number] * (number >= 3)


def test_the_next_shard_is_queued_before_the_device_is_done_with_this_one(
    prepared: Prepared, expected: list[str]
) -> None:
    sampler = LateSampler(allow=after_the_next)
    make_both(prepared, sampler)
    assert sampler.seeds == prepared[2].column("seed").to_pylist()
    assert hashes(prepared) == expected


def test_a_last_batch_that_must_be_sampled_again_is_after_the_next_shard_has_begun(
    prepared: Prepared, expected: list[str]
) -> None:
    sampler = LateSampler(allow=after_the_next, overflows=[1])
    make_both(prepared, sampler)
    seeds = prepared[2].column("seed").to_pylist()
    assert sampler.seeds == [*seeds[:12], *seeds[4:8], *seeds[12:]]
    assert hashes(prepared) == expected


@pytest.mark.parametrize("retried", ["first", "second"])
def test_a_retried_shard_shares_the_device_with_no_other(
    prepared: Prepared, expected: list[str], retried: str
) -> None:
    """What it ends the process with would be blamed on the other shard again and again."""
    begun = Begun()
    make_both(prepared, LateSampler(), watch=begun.watch, **{retried: {"attempt": 2}})
    assert begun.had_in_flight == [False, False]
    assert hashes(prepared) == expected


class Begun:
    """Notes for each shard that begins whether a batch of another is in flight."""

    def __init__(self) -> None:
        self.had_in_flight: list[bool] = []

    def watch(self, runner: ShardRunner) -> None:
        sampler = runner._batch_sampler
        begin = sampler.begin_shard

        def noted(*args: Any) -> None:
            self.had_in_flight.append(sampler.has_batch_in_flight)
            begin(*args)

        sampler.begin_shard = noted  # type: ignore[method-assign]


def test_a_first_attempt_shares_the_device_with_the_next(prepared: Prepared) -> None:
    begun = Begun()
    make_both(prepared, LateSampler(), watch=begun.watch)
    assert begun.had_in_flight == [False, True]


@pytest.mark.parametrize("keeps", [["first"], ["second"]])
def test_images_that_keep_their_batch_sizes_are_queued_behind_no_other_shard(
    prepared: Prepared, expected: list[str], keeps: list[str]
) -> None:
    """A batch that is sampled again needs the sizes of its own shard."""
    make_both(prepared, Spotted())
    store = prepared[0]
    for name in store.list("images"):
        store.delete(name)
    every = tuple(range(8))
    works = {
        name: {"look_first": True, "amends": Amendment(every, replaces=name in keeps)}
        for name in ("first", "second")
    }
    sampler = LateSampler(overflows=[1])
    make_both(prepared, sampler, **works)
    seeds = prepared[2].column("seed").to_pylist()
    assert sampler.seeds == [*seeds[:8], *seeds[4:8], *seeds[8:]], "again before the next shard"
    assert hashes(prepared) == expected


def test_a_shard_that_fails_at_once_settles_what_was_left_to_it(prepared: Prepared) -> None:
    """Otherwise the images of the first shard wait for ever to be sampled again."""

    def watch(runner: ShardRunner) -> None:
        sample = runner._batch_sampler.sample

        def failing(images: Any, *args: Any) -> Any:
            if runner.accelerator_lock.serving == 1:
                raise StoreError("the pictures cannot be read")
            return sample(images, *args)

        runner._batch_sampler.sample = failing  # type: ignore[method-assign]

    sampler = LateSampler(overflows=[1])
    with both_running(prepared, sampler, watch=watch) as (first, second):
        assert first.result(PATIENCE_S)[-1] == ShardDone(0, num_ok=8, num_failed=0)
        with pytest.raises(StoreError, match="cannot be read"):
            second.result(PATIENCE_S)
    assert committed_shards(prepared[0]) == {0}


def test_a_shard_that_is_drained_at_once_settles_what_was_left_to_it(prepared: Prepared) -> None:
    class Drained(LateSampler):
        def sample(self, *args: Any) -> SampledBatch:
            made = super().sample(*args)
            if len(self.moments) == 2:
                runners[0].drain()
            return made

    runners: list[ShardRunner] = []
    sampler = Drained(overflows=[1])
    with both_running(prepared, sampler, watch=runners.append) as (first, second):
        assert first.result(PATIENCE_S)[-1] == ShardDone(0, num_ok=8, num_failed=0)
        second.result(PATIENCE_S)
    assert len(sampler.moments) == 3, "two batches, and one of them again"
    assert committed_shards(prepared[0]) == {0}


def test_a_device_that_fails_in_the_last_batch_ends_both_shards(prepared: Prepared) -> None:
    class Failing(LateSampler):
        def sample(self, *args: Any) -> SampledBatch:
            self.error = "CUDA error: an illegal memory access" if len(self.moments) == 1 else ""
            return super().sample(*args)

    with both_running(prepared, Failing(allow=after_the_next)) as shards:
        for shard in shards:
            with pytest.raises(DeviceError, match="illegal memory access"):
                shard.result(PATIENCE_S)
    assert committed_shards(prepared[0]) == set()


def test_a_device_that_hangs_in_the_last_batch_is_blamed_on_both_shards(
    prepared: Prepared,
) -> None:
    runners: list[ShardRunner] = []
    sampler = LateSampler(allow=lambda number: [[0], [], [], [1, 2, 3]][number])
    with both_running(prepared, sampler, watch=runners.append) as shards:
        until(lambda: len(sampler.moments) == 3)
        until(lambda: runners[0].is_stuck(1))
        until(lambda: runners[0].is_stuck(0))  # the device is at work on its last batch
        assert not runners[0].is_stuck(2)
        sampler.moments[1].allowed.set()
        until(lambda: not runners[0].is_stuck(0))
        for shard in shards:
            shard.result(PATIENCE_S)


class HangingSampler(LateSampler):
    """Hangs in the first batch of the second shard."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.hangs, self.goes_on = threading.Event(), threading.Event()

    def sample(self, *args: Any) -> SampledBatch:
        if len(self.moments) == 2:
            self.hangs.set()
            assert self.goes_on.wait(3 * PATIENCE_S)
        return super().sample(*args)


def test_a_next_shard_that_hangs_is_not_blamed_on_one_whose_last_batch_has_ended(
    prepared: Prepared,
) -> None:
    sampler = HangingSampler()
    runners: list[ShardRunner] = []
    with both_running(prepared, sampler, watch=runners.append) as (first, second):
        assert sampler.hangs.wait(PATIENCE_S)
        try:
            until(lambda: not runners[0].is_stuck(0))
            assert runners[0].is_stuck(1)
            assert first.result(PATIENCE_S)[-1] == ShardDone(0, num_ok=8, num_failed=0)
        finally:
            sampler.goes_on.set()
        second.result(PATIENCE_S)


def test_a_next_shard_that_hangs_is_seen_while_images_wait_to_be_sampled_again(
    prepared: Prepared,
) -> None:
    """The driver asks about the first shard alone until that has ended."""
    sampler = HangingSampler(overflows=[1])
    runners: list[ShardRunner] = []
    with both_running(prepared, sampler, watch=runners.append) as (first, second):
        until(lambda: runners[0].is_stuck(1))
        time.sleep(0.2)  # until the threads of the first shard wait
        try:
            assert runners[0].is_stuck(0)
            assert not first.done()
        finally:
            sampler.goes_on.set()
        assert first.result(PATIENCE_S)[-1] == ShardDone(0, num_ok=8, num_failed=0)
        second.result(PATIENCE_S)


def test_nothing_is_left_to_a_shard_that_does_not_wait_for_its_turn(prepared: Prepared) -> None:
    """It may turn out to be committed, and then it settles nothing."""
    store, record, rows = prepared
    own = rows_of(rows, 0)
    runner = ShardRunner(store, record, LateSampler(overflows=[1]), "here:1")  # type: ignore[arg-type]
    runner._works[1] = work_on(own, 1)
    events: list[ShardEvent] = []
    thread = threading.Thread(
        target=lambda: events.extend(runner.run(work_on(own), own, 0)), daemon=True
    )
    thread.start()
    thread.join(PATIENCE_S)
    assert events[-1] == ShardDone(0, num_ok=8, num_failed=0)
    runner.close()


def test_a_store_that_fails_when_a_batch_is_sampled_again_fails_its_images(
    prepared: Prepared,
) -> None:
    def watch(runner: ShardRunner) -> None:
        def failing(*args: Any) -> Any:
            raise StoreError("the smaller batch size cannot be stored")

        runner._batch_sampler._sampled_again = failing  # type: ignore[method-assign]

    sampler = LateSampler(overflows=[1])
    with both_running(prepared, sampler, watch=watch) as shards:
        for shard in shards:
            with pytest.raises(StoreError, match="cannot be stored"):
                shard.result(PATIENCE_S)


def test_a_shard_that_waits_for_pictures_settles_what_was_left_to_it(prepared: Prepared) -> None:
    """Otherwise the shard before it waits for these pictures."""
    arrive = threading.Event()

    def watch(runner: ShardRunner) -> None:
        inputs, take = runner._inputs, runner._inputs.take

        def late(images: Any, *args: Any) -> Any:
            if runner.accelerator_lock.serving == 1:
                assert arrive.wait(3 * PATIENCE_S)
            return take(images, *args)

        inputs.are_ready = lambda images: arrive.is_set()  # type: ignore[method-assign]
        inputs.take = late  # type: ignore[method-assign]

    with both_running(prepared, LateSampler(overflows=[1]), watch=watch) as (first, second):
        try:
            assert first.result(PATIENCE_S)[-1] == ShardDone(0, num_ok=8, num_failed=0)
        finally:
            arrive.set()
        assert second.result(PATIENCE_S)[-1] == ShardDone(1, num_ok=8, num_failed=0)


@pytest.mark.parametrize("found", ["first", "second"])
def test_a_shard_whose_images_are_all_found_leaves_and_settles_batches_as_any_other(
    prepared: Prepared, expected: list[str], found: str
) -> None:
    store, record, rows = prepared
    number = ("first", "second").index(found)
    own = rows_of(rows, number)
    runner = ShardRunner(store, record, Spotted(), "here:1")  # type: ignore[arg-type]
    list(runner.run(work_on(own, number, commits=False), own))
    runner.close()
    make_both(prepared, LateSampler(overflows=[1]), **{found: {"look_first": True}})
    assert hashes(prepared) == expected


def test_a_shard_whose_first_batch_does_not_fit_settles_what_was_left_to_it(
    prepared: Prepared,
) -> None:
    class Full(LateSampler):
        def sample(self, requests: Any, params: Any, batch_size: Any = None) -> SampledBatch:
            if len(self.moments) == 2 and batch_size > 2:
                raise OutOfMemory("4 do not fit")
            return super().sample(requests, params, batch_size)

    sampler = Full(overflows=[1])
    make_both(prepared, sampler)
    sizes = read_commit(prepared[0], 0).column("batch_size").to_pylist()
    assert sizes == [4] * 4 + [2] * 4, "the size that fits holds for what is sampled again"


def test_the_seconds_of_a_batch_are_told_once_the_device_is_done_with_one(
    prepared: Prepared,
) -> None:
    """The limit after which an actor counts as hung is worked out from them."""
    with both_running(prepared, LateSampler()) as shards:
        events = [shard.result(PATIENCE_S) for shard in shards]
    first, second = [
        [e.batch_s for e in each if isinstance(e, BatchSampled | BatchDone)] for each in events
    ]
    assert first[0] == 0.0
    assert first[1] > 0.0
    assert second[0] > 0.0


def test_the_device_counts_as_busy_from_one_shard_to_the_next(prepared: Prepared) -> None:
    activities: list[Activity] = []

    def watch(runner: ShardRunner) -> None:
        switch = runner.timeline.switch

        def noted(activity: Activity) -> None:
            activities.append(activity)
            switch(activity)

        runner.timeline.switch = noted  # type: ignore[method-assign]

    make_both(prepared, LateSampler(), watch=watch)
    sampled = [Activity.BUSY, Activity.OUTPUT] * 2
    assert activities == [*sampled, Activity.BUSY, *sampled, Activity.INPUT]
