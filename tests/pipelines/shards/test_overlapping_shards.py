"""Shards of one worker overlap: one is sampled while another is being stored."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.fakes.fake_runs import FakeSampler, prepare, rows_of, work_on

from nightpress.pipelines.run_directory.commit import committed_shards, read_commit
from nightpress.pipelines.shards.events import ShardDone
from nightpress.pipelines.shards.runner import ShardRunner
from nightpress.pipelines.storage import Store


@pytest.mark.parametrize("packing", ["none", "webdataset"])
def test_the_next_shard_is_sampled_while_this_one_is_being_stored(
    tmp_path: Path, packing: str
) -> None:
    prompts = [f"picture {i}" for i in range(8)]
    store, record, rows = prepare(tmp_path, prompts, shard_size=4, packing=packing)
    shards = [rows_of(rows, shard) for shard in (0, 1)]
    stored, sampled = threading.Event(), threading.Event()

    class Slow(Store):
        def create(self, path: str, data: bytes) -> bool:
            if path.startswith("images") and not stored.is_set():
                assert sampled.wait(20)  # the second shard, while the first is not stored
            return super().create(path, data)

    class Watched(FakeSampler):
        def sample(self, requests, params, batch_size=None):  # type: ignore[no-untyped-def]
            made = super().sample(requests, params, batch_size)
            if len(self.batches) == 2:
                sampled.set()
            return made

    runner = ShardRunner(Slow(store.url), record, Watched(), "here:1")  # type: ignore[arg-type]
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(lambda: list(runner.run(work_on(shards[0]), shards[0])))
        second = threads.submit(lambda: list(runner.run(work_on(shards[1], 1), shards[1])))
        assert isinstance(first.result(30)[-1], ShardDone)
        assert isinstance(second.result(30)[-1], ShardDone)
    runner.close()
    for number in (0, 1):
        part = read_commit(store, number)
        assert part.column("image_id").equals(shards[number].column("image_id"))
        assert len(set(part.column("file").to_pylist())) == (4 if packing == "none" else 1)
    assert committed_shards(store) == {0, 1}


def test_shards_are_sampled_in_the_order_of_their_tickets(tmp_path: Path) -> None:
    prompts = [f"picture {i}" for i in range(8)]
    store, record, rows = prepare(tmp_path, prompts, shard_size=4)
    shards = [rows_of(rows, shard) for shard in (0, 1)]
    sampler = FakeSampler()
    runner = ShardRunner(store, record, sampler, "here:1")  # type: ignore[arg-type]
    lock = runner.accelerator_lock
    with ThreadPoolExecutor(2) as threads, lock.ticket(0) as first, lock.ticket(1) as second:
        later = threads.submit(lambda: list(runner.run(work_on(shards[1], 1), shards[1], second)))
        time.sleep(0.2)  # until it waits for its ticket
        assert sampler.seeds == []
        list(runner.run(work_on(shards[0]), shards[0], first))
        assert isinstance(later.result(30)[-1], ShardDone)
    runner.close()
    assert sampler.seeds == rows.column("seed").to_pylist()
