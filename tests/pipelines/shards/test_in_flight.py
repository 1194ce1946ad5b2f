"""A batch is queued while the device is still at work on the one before, and nothing is lost."""

import time
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pyarrow as pa
import pytest
from support.fakes.fake_runs import FakeSampler, prepare, work_on
from support.fakes.late_sampler import LateSampler, Spotted

from nightpress.diffusion_core.errors import DeviceError, OutOfMemory
from nightpress.pipelines.run_directory.commit import committed_shards, read_commit
from nightpress.pipelines.run_directory.record import RunRecord
from nightpress.pipelines.shards import image_source
from nightpress.pipelines.shards.batch_sampler import QueuedBatch
from nightpress.pipelines.shards.events import BatchBegun, ShardDone
from nightpress.pipelines.shards.runner import ShardRunner
from nightpress.pipelines.shards.work import ShardWork
from nightpress.pipelines.storage import Store

Prepared = tuple[Store, RunRecord, pa.Table]


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    prompts = [f"picture {number}" for number in range(12)]
    return prepare(tmp_path, prompts, review={"thumbs": False})


def make(prepared: Prepared, sampler: FakeSampler, **work: Any) -> list[Any]:
    store, record, rows = prepared
    runner = ShardRunner(store, record, sampler, "here:1")  # type: ignore[arg-type]
    try:
        return list(runner.run(work_on(rows, **work), rows))
    finally:
        runner.close()


def hashes(prepared: Prepared) -> list[str]:
    return read_commit(prepared[0], 0).column("sha256").to_pylist()


@pytest.fixture
def expected(tmp_path: Path) -> list[str]:
    """What a sampler makes that is done with each batch at once."""
    prompts = [f"picture {number}" for number in range(12)]
    plain = prepare(tmp_path / "plain", prompts, review={"thumbs": False})
    make(plain, Spotted())
    return hashes(plain)


def test_each_batch_is_queued_before_the_device_is_done_with_the_one_before(
    prepared: Prepared, expected: list[str]
) -> None:
    # The device is done with a batch only when the next one was queued.
    sampler = LateSampler(allow=lambda number: [number - 1] + [2] * (number == 2))
    events = make(prepared, sampler)
    assert events[-1] == ShardDone(0, num_ok=12, num_failed=0)
    assert sampler.batches == [4, 4, 4]
    assert hashes(prepared) == expected


def test_a_batch_that_was_decoded_out_of_range_is_sampled_again_after_the_next_was_queued(
    prepared: Prepared, expected: list[str]
) -> None:
    sampler = LateSampler(overflows=[0, 3])
    events = make(prepared, sampler)
    assert events[-1] == ShardDone(0, num_ok=12, num_failed=0)
    seeds = prepared[2].column("seed").to_pylist()
    first, second, third = seeds[:4], seeds[4:8], seeds[8:]
    assert sampler.seeds == [*first, *second, *first, *third, *third]
    assert hashes(prepared) == expected


def test_a_batch_that_does_not_fit_when_it_is_sampled_again_is_made_in_halves(
    prepared: Prepared, expected: list[str]
) -> None:
    class Full(LateSampler):
        def sample(self, requests, params, batch_size=None):  # type: ignore[no-untyped-def]
            if len(self.moments) >= 2 and batch_size > 2:
                raise OutOfMemory("4 do not fit")
            return super().sample(requests, params, batch_size)

    sampler = Full(overflows=[0])
    events = make(prepared, sampler)
    assert events[-1] == ShardDone(0, num_ok=12, num_failed=0)
    assert sampler.batches == [4, 4, 2, 2, 2, 2]
    sizes = read_commit(prepared[0], 0).column("batch_size").to_pylist()
    assert sizes == [2] * 4 + [4] * 4 + [2] * 4


def test_a_batch_that_overflowed_is_sampled_again_before_failed_ones_are_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise its images and the sampling thread would wait for each other for ever."""
    monkeypatch.setattr(image_source, "waits_too_long", lambda pending: len(pending) > 2)
    words = ["picture"] * 4 + ["explode"] * 8 + ["picture"] * 4
    prompts = [f"{word} {number}" for number, word in enumerate(words)]
    prepared = prepare(tmp_path, prompts, review={"thumbs": False})
    sampler = LateSampler(overflows=[0])
    events = make(prepared, sampler)
    assert events[-1] == ShardDone(0, num_ok=8, num_failed=8)
    assert sampler.seeds[:4] == sampler.seeds[4:8], "the first batch, again"


def test_images_without_pictures_leave_no_batch_in_flight(prepared: Prepared) -> None:
    store, record, _ = prepared
    runner = ShardRunner(store, record, FakeSampler(), "here:1")  # type: ignore[arg-type]
    flight = Mock(must_be_repeated=False, wait=lambda: 1.0)
    runner._batch_sampler._in_flight = QueuedBatch(flight, {}, 0)
    assert list(runner._batch_sampler.sample([])) == []
    assert not runner._batch_sampler.has_batch_in_flight
    assert runner._batch_sampler.num_settled == 1
    runner.close()


def test_a_device_that_fails_in_a_batch_in_flight_ends_the_shard(prepared: Prepared) -> None:
    with pytest.raises(DeviceError, match="illegal memory access"):
        make(prepared, LateSampler(error="CUDA error: an illegal memory access was encountered"))
    assert committed_shards(prepared[0]) == set()
    assert prepared[0].list("images") == {}


def test_a_retried_shard_waits_for_each_batch_before_it_names_the_next(prepared: Prepared) -> None:
    store, record, rows = prepared
    sampler = LateSampler()
    runner = ShardRunner(store, record, sampler, "here:1")  # type: ignore[arg-type]
    work = ShardWork(0, 0, len(rows), attempt=2, isolated=True)
    assert work.names_batches
    begun = []
    for event in runner.run(work, rows):
        if isinstance(event, BatchBegun):
            begun.append(event)
            assert len(sampler.moments) == len(begun) - 1
            assert not runner._batch_sampler.has_batch_in_flight
    runner.close()
    assert len(begun) == 3


def test_gated_draws_are_judged_when_the_device_is_done_with_them(tmp_path: Path) -> None:
    prompts = [f"picture {number}" for number in range(8)]
    gates = {"require": ["exposure > 0.45"], "max_draws": 6}
    made = {}
    for name, sampler in (("plain", Spotted()), ("late", LateSampler(overflows=[0, 1]))):
        gated = prepare(tmp_path / name, prompts, gates=gates)
        make(gated, sampler)
        columns = ["image_id", "status", "seed", "draw", "draws", "sha256"]
        made[name] = read_commit(gated[0], 0).select(columns).to_pylist()
    assert made["late"] == made["plain"]
    assert {row["status"] for row in made["plain"]} >= {"ok"}


def test_the_times_of_the_images_are_no_longer_than_the_sampling(prepared: Prepared) -> None:
    began = time.perf_counter()
    make(prepared, LateSampler())
    took = time.perf_counter() - began
    seconds = read_commit(prepared[0], 0).column("sampling_s").to_pylist()
    assert all(each >= 0 for each in seconds)
    assert 0 < sum(seconds) <= took
