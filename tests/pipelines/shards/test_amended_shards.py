"""Shards made again in part: failed rows in their places, damaged images as they were."""

from pathlib import Path

import pyarrow as pa
from support.fakes.fake_press import FakeSampler, prepare, run

from nightpress.diffusion_core.sampling.sampler import SampledBatch
from nightpress.pipelines.run_directory.commit import read_commit
from nightpress.pipelines.run_directory.record import RunRecord
from nightpress.pipelines.shards.batch_size_fallback import WorkingSizes
from nightpress.pipelines.shards.batching import planned_images
from nightpress.pipelines.shards.runner import Amendment, ShardDone, ShardWork
from nightpress.pipelines.storage import Store


def test_failed_rows_are_made_again_in_their_places(tmp_path: Path) -> None:
    store, record, rows = prepare(tmp_path, ["a", "nan", "b", "nan too", "c"])
    run(store, record, ShardWork(0, rows), FakeSampler())
    before = read_commit(store, 0).to_pylist()

    class Better(FakeSampler):
        def sample(self, requests, params, batch_size=None):  # type: ignore[no-untyped-def]
            made = super().sample(requests, params, batch_size)
            return SampledBatch(made.pixels, (None,) * len(requests))

    sampler = Better()
    work = ShardWork(0, rows, look_first=True, amends=Amendment((1, 3), replaces=False))
    events = run(store, record, work, sampler)
    assert events[-1] == ShardDone(0, num_ok=2, num_failed=0)
    assert len(sampler.seeds) == 2
    after = read_commit(store, 0).to_pylist()
    assert [row["status"] for row in after] == ["ok"] * 5
    assert [row["attempts"] for row in after] == [1, 2, 1, 2, 1]
    assert [after[n] for n in (0, 2, 4)] == [before[n] for n in (0, 2, 4)]


def test_damaged_images_are_replaced_and_what_is_the_same_stays_as_it_was(
    prepared: tuple[Store, RunRecord, pa.Table],
) -> None:
    store, record, rows = prepared
    run(store, record, ShardWork(0, rows), FakeSampler())
    before = read_commit(store, 0)
    image = planned_images(rows)[3].file
    whole = store.read(image)
    store.put(image, whole[:-9] + b"\0" + whole[-8:])
    work = ShardWork(0, rows, look_first=True, amends=Amendment((3,), replaces=True))
    run(store, record, work, FakeSampler())
    assert store.read(image) == whole
    assert read_commit(store, 0).equals(before)


def test_a_damaged_image_is_made_again_in_a_batch_of_the_size_that_it_was_made_in(
    prepared: tuple[Store, RunRecord, pa.Table],
) -> None:
    store, record, rows = prepared
    run(store, record, ShardWork(0, rows), FakeSampler())
    image = planned_images(rows)[3]
    whole = store.read(image.file)
    store.delete(image.file)
    WorkingSizes(store, record.batch_sizes).halve(image.params, 4)
    work = ShardWork(0, rows, look_first=True, amends=Amendment((3,), replaces=True))
    run(store, record, work, FakeSampler())
    assert store.read(image.file) == whole
    store.delete(image.file)
    events = run(store, record, work, FakeSampler(fits=2))
    assert events[-1] == ShardDone(0, num_ok=1, num_failed=0)
    assert store.read(image.file) != whole
