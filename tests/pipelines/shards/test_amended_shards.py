"""Amendments: rows of a committed shard that are made again."""

from pathlib import Path

import pyarrow as pa
from support.fakes.fake_runs import FakeSampler, make_shard, prepare, work_on

from nightpress.diffusion_core.sampling.sampler import SampledBatch
from nightpress.pipelines.run_directory.commit import read_commit
from nightpress.pipelines.run_directory.record import RunRecord
from nightpress.pipelines.shards.batch_size_fallback import BatchSizeFallback
from nightpress.pipelines.shards.batching import planned_images
from nightpress.pipelines.shards.events import ShardDone
from nightpress.pipelines.shards.work import Amendment
from nightpress.pipelines.storage import Store


def test_failed_rows_are_made_again_and_keep_their_positions(tmp_path: Path) -> None:
    store, record, rows = prepare(tmp_path, ["a", "nan", "b", "nan too", "c"])
    make_shard(store, record, rows, FakeSampler())
    before = read_commit(store, 0).to_pylist()

    class Better(FakeSampler):
        def sample(self, requests, params, batch_size=None):  # type: ignore[no-untyped-def]
            made = super().sample(requests, params, batch_size)
            return SampledBatch(made.pixels, (None,) * len(requests))

    sampler = Better()
    work = work_on(rows, look_first=True, amends=Amendment((1, 3), replaces=False))
    events = make_shard(store, record, rows, sampler, work)
    assert events[-1] == ShardDone(0, num_ok=2, num_failed=0)
    assert len(sampler.seeds) == 2
    after = read_commit(store, 0).to_pylist()
    assert [row["status"] for row in after] == ["ok"] * 5
    assert [row["attempts"] for row in after] == [1, 2, 1, 2, 1]
    assert [after[n] for n in (0, 2, 4)] == [before[n] for n in (0, 2, 4)]


def test_damaged_images_are_replaced_and_the_commit_does_not_change(
    prepared: tuple[Store, RunRecord, pa.Table],
) -> None:
    store, record, rows = prepared
    make_shard(store, record, rows, FakeSampler())
    before = read_commit(store, 0)
    image = planned_images(rows)[3].file
    whole = store.read(image)
    store.put(image, whole[:-9] + b"\0" + whole[-8:])
    work = work_on(rows, look_first=True, amends=Amendment((3,), replaces=True))
    make_shard(store, record, rows, FakeSampler(), work)
    assert store.read(image) == whole
    assert read_commit(store, 0).equals(before)


def test_a_damaged_image_is_made_again_with_its_original_batch_size(
    prepared: tuple[Store, RunRecord, pa.Table],
) -> None:
    store, record, rows = prepared
    make_shard(store, record, rows, FakeSampler())
    image = planned_images(rows)[3]
    whole = store.read(image.file)
    store.delete(image.file)
    BatchSizeFallback(store, record.batch_sizes).halve(image.params, 4)
    work = work_on(rows, look_first=True, amends=Amendment((3,), replaces=True))
    make_shard(store, record, rows, FakeSampler(), work)
    assert store.read(image.file) == whole
    store.delete(image.file)
    events = make_shard(store, record, rows, FakeSampler(fits=2), work)
    assert events[-1] == ShardDone(0, num_ok=1, num_failed=0)
    assert store.read(image.file) != whole
