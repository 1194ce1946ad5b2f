"""The shard runner in one process, with a sampler whose images are a function of their seeds."""

import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from support.fakes.fake_runs import FakeSampler, make_shard, prepare, work_on

from nightpress.diffusion_core.errors import DeviceError, OutOfMemory
from nightpress.diffusion_core.sampling.copy_to_host import Copy
from nightpress.diffusion_core.sampling.sampler import SampledBatch
from nightpress.pipelines.errors import LeaseLost
from nightpress.pipelines.image_files import file_format
from nightpress.pipelines.records import FailureType
from nightpress.pipelines.run_directory.commit import (
    commit_shard,
    committed_shards,
    metadata_part,
    read_commit,
)
from nightpress.pipelines.run_directory.lease import FencingToken, current_process
from nightpress.pipelines.run_directory.record import RunRecord
from nightpress.pipelines.shards.batching import batches, planned_images
from nightpress.pipelines.shards.events import (
    BatchDone,
    BatchSampled,
    BatchSplit,
    ShardBegun,
    ShardDone,
    ShardLeft,
)
from nightpress.pipelines.shards.failed_shard import fail_shard
from nightpress.pipelines.shards.runner import ShardRunner
from nightpress.pipelines.shards.work import SetAsideRow
from nightpress.pipelines.storage import Store

KILLED = FailureType.WORKER_KILLED
KIND = "128x96-guided"


def test_a_shard_is_sampled_in_batches_and_committed_last(
    prepared: tuple[Store, RunRecord, pa.Table],
) -> None:
    store, record, rows = prepared
    sampler = FakeSampler()
    events = make_shard(store, record, rows, sampler)
    assert sampler.batches == [4, 2]
    assert [type(event) for event in events] == [BatchDone, BatchDone, ShardDone]
    assert events[-1] == ShardDone(0, num_ok=6, num_failed=0)
    assert committed_shards(store) == {0}
    assert len(store.list("images")) == 6


def test_images_of_an_earlier_attempt_are_adopted_and_not_sampled(
    prepared: tuple[Store, RunRecord, pa.Table],
) -> None:
    store, record, rows = prepared
    make_shard(store, record, rows, FakeSampler())
    first = read_commit(store, 0)
    store.delete("metadata/shard-00000.parquet")
    missing = planned_images(rows)[2]
    store.delete(missing.file)
    sampler = FakeSampler()
    make_shard(store, record, rows, sampler, work_on(rows, attempt=2, look_first=True))
    assert sampler.seeds == [missing.seed]
    assert read_commit(store, 0).column("sha256") == first.column("sha256")


def test_an_attempt_that_does_not_look_first_still_adopts_what_it_finds(
    prepared: tuple[Store, RunRecord, pa.Table],
) -> None:
    store, record, rows = prepared
    make_shard(store, record, rows, FakeSampler())
    store.delete("metadata/shard-00000.parquet")
    events = make_shard(store, record, rows, FakeSampler())
    assert events[-1] == ShardDone(0, num_ok=6, num_failed=0)


def flipped(data: bytes) -> bytes:
    """The data with one bit flipped."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :]


@pytest.mark.parametrize("harm", [flipped, lambda data: data[:60], lambda data: b""])
@pytest.mark.parametrize("look_first", [True, False])
def test_a_truncated_or_flipped_copy_of_an_image_is_replaced(
    prepared: tuple[Store, RunRecord, pa.Table], harm: Callable[[bytes], bytes], look_first: bool
) -> None:
    store, record, rows = prepared
    make_shard(store, record, rows, FakeSampler())
    store.delete("metadata/shard-00000.parquet")
    harmed = planned_images(rows)[2]
    whole = store.read(harmed.file)
    store.put(harmed.file, harm(whole))
    work = work_on(rows, attempt=2, look_first=look_first)
    assert make_shard(store, record, rows, FakeSampler(), work)[-1] == ShardDone(
        0, num_ok=6, num_failed=0
    )
    assert store.read(harmed.file) == whole


def test_another_image_under_the_name_is_kept(
    prepared: tuple[Store, RunRecord, pa.Table],
) -> None:
    store, record, rows = prepared
    make_shard(store, record, rows, FakeSampler())
    store.delete("metadata/shard-00000.parquet")
    first, second = planned_images(rows)[:2]
    others = store.read(second.file)
    store.put(first.file, others)
    events = make_shard(store, record, rows, FakeSampler(), work_on(rows, look_first=True))
    assert events[-1] == ShardDone(0, num_ok=5, num_failed=1)
    assert store.read(first.file) == others
    assert read_commit(store, 0).column("error_type")[0].as_py() == "NameTaken"


def test_a_row_that_makes_its_batch_fail_fails_alone(tmp_path: Path) -> None:
    store, record, rows = prepare(tmp_path, ["a", "explode", "b", "nan", "c"])
    events = make_shard(store, record, rows, FakeSampler())
    assert events[-1] == ShardDone(0, num_ok=3, num_failed=2)
    assert [event for event in events if isinstance(event, BatchSplit)] == [
        BatchSplit(0, None, KIND, 4, 4, 1, "SamplingError: it exploded", did_not_fit=False)
    ]
    failed = {
        row["prompt"]: (row["error_type"], row["error"], row["file"])
        for row in read_commit(store, 0).to_pylist()
        if row["status"] == "failed"
    }
    assert failed == {
        "explode": ("SamplingError", "SamplingError: it exploded", None),
        "nan": ("NonFinite", "its values are not finite", None),
    }


def test_a_shard_that_is_given_up_keeps_its_stored_images(
    prepared: tuple[Store, RunRecord, pa.Table],
) -> None:
    store, record, rows = prepared
    make_shard(store, record, rows, FakeSampler())
    store.delete("metadata/shard-00000.parquet")
    store.delete(planned_images(rows)[3].file)
    done = fail_shard(store, record, work_on(rows, attempt=3), rows, KILLED, "it died")
    assert done == ShardDone(0, num_ok=5, num_failed=1)


def test_a_device_error_ends_the_shard_and_fails_no_image(
    prepared: tuple[Store, RunRecord, pa.Table],
) -> None:
    store, record, rows = prepared

    class Dying(FakeSampler):
        def sample(self, requests, params, batch_size=None):  # type: ignore[no-untyped-def]
            raise DeviceError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(DeviceError):
        make_shard(store, record, rows, Dying())
    assert committed_shards(store) == set()


def test_a_device_error_while_pixels_are_copied_to_the_host_ends_the_shard_too(
    prepared: tuple[Store, RunRecord, pa.Table],
) -> None:
    store, record, rows = prepared

    class Failed:
        def synchronize(self) -> None:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    class Owing(FakeSampler):
        def sample(self, requests, params, batch_size=None):  # type: ignore[no-untyped-def]
            made = super().sample(requests, params, batch_size)
            return SampledBatch(Copy(torch.from_numpy(made.pixels), Failed()), made.faults)

    with pytest.raises(DeviceError, match="illegal memory access"):
        make_shard(store, record, rows, Owing())
    assert committed_shards(store) == set()
    assert store.list("images") == {}


def test_an_image_that_cannot_be_encoded_fails_alone(
    prepared: tuple[Store, RunRecord, pa.Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, record, rows = prepared
    plain = file_format.encode

    def picky(pixels, facts, images, embed):  # type: ignore[no-untyped-def]
        if facts.prompt == "picture 2":
            raise TypeError("no such picture")
        return plain(pixels, facts, images, embed)

    monkeypatch.setattr(file_format, "encode", picky)
    events = make_shard(store, record, rows, FakeSampler())
    assert events[-1] == ShardDone(0, num_ok=5, num_failed=1)


def test_only_parts_directly_below_metadata_are_commits(
    prepared: tuple[Store, RunRecord, pa.Table],
) -> None:
    store, _, _ = prepared
    store.put("metadata/backup/shard-00001.parquet", b"")
    store.put("metadata/shard-00002.parquet", b"")
    assert committed_shards(store) == {2}


def test_a_lost_commit_race_adopts_the_winning_commit(
    prepared: tuple[Store, RunRecord, pa.Table],
) -> None:
    store, record, rows = prepared
    fail_shard(store, record, work_on(rows, attempt=9), rows, KILLED, "it died")
    winner = read_commit(store, 0)
    events = make_shard(store, record, rows, FakeSampler())
    assert events[-1] == ShardDone(0, num_ok=0, num_failed=6)
    assert read_commit(store, 0).equals(winner)


def test_of_many_simultaneous_commits_one_wins_and_all_see_it(
    prepared: tuple[Store, RunRecord, pa.Table],
) -> None:
    store, record, rows = prepared
    fail_shard(store, record, work_on(rows, 5), rows, KILLED, "it died")
    part = read_commit(store, 5)
    parts = [
        part.set_column(
            part.schema.get_field_index("attempts"),
            part.schema.field("attempts"),
            pa.array([number] * len(part), pa.int32()),
        )
        for number in range(8)
    ]
    seen: list[pa.Table] = []
    threads = [
        threading.Thread(target=lambda p=p: seen.append(commit_shard(store, 0, p))) for p in parts
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 8
    assert all(other.equals(seen[0]) for other in seen)


def test_carried_columns_follow_the_record_untouched(
    prepared: tuple[Store, RunRecord, pa.Table],
) -> None:
    store, record, rows = prepared
    tags = pa.array([[f"tag {i}", None] for i in range(len(rows))], pa.list_(pa.string()))
    rows = rows.append_column("tags", tags)
    make_shard(store, record, rows, FakeSampler())
    assert read_commit(store, 0).column("tags").to_pylist() == tags.to_pylist()


def test_batches_hold_equal_settings_only(
    prepared: tuple[Store, RunRecord, pa.Table],
) -> None:
    images = planned_images(prepared[2])
    mixed = [replace(image, height=96 + 8 * (i // 3)) for i, image in enumerate(images)]
    assert [len(batch) for batch in batches(mixed, lambda image: 2)] == [2, 1, 2, 1]


def test_a_metadata_part_has_a_record_for_each_row(
    prepared: tuple[Store, RunRecord, pa.Table],
) -> None:
    store, record, rows = prepared
    make_shard(store, record, rows, FakeSampler())
    part = read_commit(store, 0)
    assert part.column("image_id").to_pylist() == rows.column("image_id").to_pylist()
    assert metadata_part([], rows.slice(0, 0)).num_rows == 0


def test_rows_that_were_set_aside_are_failed_and_not_tried(
    prepared: tuple[Store, RunRecord, pa.Table],
) -> None:
    store, record, rows = prepared
    aside = (
        SetAsideRow(2, 5, KILLED, "it died"),
        SetAsideRow(4, 6, FailureType.TIMEOUT, "it hung"),
    )
    sampler = FakeSampler()
    events = make_shard(store, record, rows, sampler, work_on(rows, attempt=7, set_aside=aside))
    assert events[-1] == ShardDone(0, num_ok=4, num_failed=2)
    assert len(sampler.seeds) == 4
    part = read_commit(store, 0).to_pylist()
    assert [(row["error_type"], row["attempts"]) for row in part if row["status"] == "failed"] == [
        ("WorkerKilled", 5),
        ("Timeout", 6),
    ]


def test_a_row_that_was_set_aside_after_its_image_was_stored_is_ok(
    prepared: tuple[Store, RunRecord, pa.Table],
) -> None:
    store, record, rows = prepared
    make_shard(store, record, rows, FakeSampler(), work_on(rows, start=2, stop=3, commits=False))
    aside = (SetAsideRow(2, 5, KILLED, "it died"), SetAsideRow(4, 6, KILLED, "it died"))
    work = work_on(rows, attempt=7, look_first=True, set_aside=aside)
    events = make_shard(store, record, rows, FakeSampler(), work)
    assert events[-1] == ShardDone(0, num_ok=5, num_failed=1)
    failed = [row["status"] == "failed" for row in read_commit(store, 0).to_pylist()]
    assert failed == [False, False, False, False, True, False]


def test_some_rows_of_a_shard_are_stored_and_not_committed(
    prepared: tuple[Store, RunRecord, pa.Table],
) -> None:
    store, record, rows = prepared
    events = make_shard(
        store, record, rows, FakeSampler(), work_on(rows, start=2, stop=5, commits=False)
    )
    assert [type(event) for event in events] == [BatchDone]
    assert committed_shards(store) == set()
    images = planned_images(rows)
    assert sorted(store.list("images")) == [image.file for image in images[2:5]]
    sampler = FakeSampler()
    make_shard(store, record, rows, sampler, work_on(rows, attempt=2, look_first=True))
    assert committed_shards(store) == {0}


def test_a_shard_that_is_committed_is_not_made_again(
    prepared: tuple[Store, RunRecord, pa.Table],
) -> None:
    store, record, rows = prepared
    make_shard(store, record, rows, FakeSampler())
    sampler = FakeSampler()
    events = make_shard(store, record, rows, sampler, work_on(rows, attempt=2))
    assert events == [ShardDone(0, num_ok=6, num_failed=0)]
    assert sampler.seeds == []


def test_a_batch_that_does_not_fit_is_halved_and_the_size_is_remembered(
    prepared: tuple[Store, RunRecord, pa.Table],
) -> None:
    store, record, rows = prepared
    sampler = FakeSampler(fits=1)
    events = make_shard(store, record, rows, sampler)
    assert events[-1] == ShardDone(0, num_ok=6, num_failed=0)
    assert sampler.batches == [1] * 6
    assert [event for event in events if isinstance(event, BatchSplit)] == [
        BatchSplit(0, None, KIND, size, size, size // 2, f"{size} do not fit", did_not_fit=True)
        for size in (4, 2)
    ]
    assert set(read_commit(store, 0).column("batch_size").to_pylist()) == {1}
    assert sorted(store.list("batch")) == [
        "batch/128x96-guided-1.json",
        "batch/128x96-guided-2.json",
    ]
    store.delete("metadata/shard-00000.parquet")
    for name in store.list("images"):
        store.delete(name)
    later = FakeSampler(fits=2)
    make_shard(store, record, rows, later)
    assert later.batches == [1] * 6


def test_images_of_a_smaller_batch_are_adopted(
    prepared: tuple[Store, RunRecord, pa.Table],
) -> None:
    store, record, rows = prepared
    make_shard(store, record, rows, FakeSampler(fits=2))
    sizes = read_commit(store, 0).column("batch_size")
    store.delete("metadata/shard-00000.parquet")
    sampler = FakeSampler()
    make_shard(store, record, rows, sampler, work_on(rows, look_first=True))
    assert sampler.seeds == []
    assert read_commit(store, 0).column("batch_size") == sizes


@pytest.mark.parametrize("error", [OutOfMemory("too large"), RuntimeError("a row is odd")])
def test_the_memory_of_a_failed_batch_is_released_before_smaller_ones_are_tried(
    prepared: tuple[Store, RunRecord, pa.Table], error: Exception
) -> None:
    store, record, rows = prepared
    held: list[weakref.ref[torch.Tensor]] = []

    class Filling(FakeSampler):
        def sample(self, requests, params, batch_size=None):  # type: ignore[no-untyped-def]
            if len(requests) > 1:
                memory = torch.zeros(8)
                held.append(weakref.ref(memory))
                raise type(error)(str(error))
            assert [each() for each in held] == [None] * len(held)
            return super().sample(requests, params, batch_size)

    events = make_shard(store, record, rows, Filling())
    assert events[-1] == ShardDone(0, num_ok=6, num_failed=0)
    assert len(held) >= 2


def test_a_row_that_does_not_fit_alone_fails_alone(tmp_path: Path) -> None:
    store, record, rows = prepare(tmp_path, ["a", "b"])
    events = make_shard(store, record, rows, FakeSampler(fits=0))
    assert events[-1] == ShardDone(0, num_ok=0, num_failed=2)
    assert set(read_commit(store, 0).column("error_type").to_pylist()) == {"OutOfMemory"}


def test_draining_ends_a_shard_after_its_current_batch_which_is_stored(
    prepared: tuple[Store, RunRecord, pa.Table],
) -> None:
    store, record, rows = prepared

    class Interrupted(FakeSampler):
        def sample(self, requests, params, batch_size=None):  # type: ignore[no-untyped-def]
            runner.drain()
            return super().sample(requests, params, batch_size)

    sampler = Interrupted()
    runner = ShardRunner(store, record, sampler, "here:1")  # type: ignore[arg-type]
    events = list(runner.run(work_on(rows), rows))
    runner.close()
    assert events == [
        ShardBegun(0),
        BatchSampled(0),
        BatchDone(0, num_ok=4, num_failed=0, num_sampled=4),
        ShardLeft(0),
    ]
    assert committed_shards(store) == set()
    assert len(store.list("images")) == 4


def test_a_runner_that_is_fenced_off_commits_nothing(
    prepared: tuple[Store, RunRecord, pa.Table],
) -> None:
    store, record, rows = prepared
    store.create("lease/00002.json", current_process().to_json())
    runner = ShardRunner(store, record, FakeSampler(), "here:1", FencingToken(1, "mine"))  # type: ignore[arg-type]
    with pytest.raises(LeaseLost, match="taken over"):
        list(runner.run(work_on(rows), rows))
    runner.close()
    assert committed_shards(store) == set()
