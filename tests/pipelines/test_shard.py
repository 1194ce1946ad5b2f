"""One shard in one process, with a sampler whose pictures are a function of the seed."""

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from plans import MODEL

from diffusion_core.errors import DeviceError, SamplingError
from diffusion_core.sampling import ImageRequest, SampledBatch, SamplingParams
from pipelines import shard
from pipelines.batching import batches, planned_images
from pipelines.commit import commit_shard, committed_shards, metadata_part, read_commit
from pipelines.planning import check, plan_part
from pipelines.run_record import RunRecord, new_record
from pipelines.shard import BatchDone, ShardDone, ShardRunner, ShardWork, fail_shard
from pipelines.spec import RunSpec
from pipelines.storage import Store


class FakeSampler:
    """Paints an image in a colour that its seed decides; fails where the prompt says so."""

    def __init__(self) -> None:
        self.seeds: list[int] = []
        self.batches: list[int] = []

    def sample(self, requests: Sequence[ImageRequest], params: SamplingParams) -> SampledBatch:
        if any("explode" in request.prompt for request in requests):
            raise SamplingError("it exploded")
        self.seeds += [request.seed for request in requests]
        self.batches.append(len(requests))
        pixels = np.zeros((len(requests), params.height, params.width, 3), np.uint8)
        for image, request in zip(pixels, requests, strict=True):
            image[:] = [request.seed % 256, request.seed // 256 % 256, 7]
        faults = ["non-finite" if "nan" in r.prompt else None for r in requests]
        return SampledBatch(pixels, tuple(faults))


@pytest.fixture
def prepared(tmp_path: Path) -> tuple[Store, RunRecord, pa.Table]:
    return prepare(tmp_path, [f"picture {i}" for i in range(6)])


def prepare(tmp_path: Path, prompts: Sequence[str]) -> tuple[Store, RunRecord, pa.Table]:
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(prompts) + "\n")
    spec = RunSpec.from_dict(
        {
            "name": "night",
            "manifest": str(path),
            "output": str(tmp_path / "runs"),
            "batch": {"size": 4, "shard_size": 100},
        }
    )
    layout = check(spec, MODEL, 4)
    record = new_record(spec, MODEL, "cpu", 4, layout)
    return Store(spec.url), record, plan_part(spec, MODEL, layout, 0)


def run(
    store: Store, record: RunRecord, work: ShardWork, sampler: FakeSampler
) -> list[BatchDone | ShardDone]:
    runner = ShardRunner(store, record, sampler, "here:1")  # type: ignore[arg-type]
    events = list(runner.run(work))
    runner.close()
    return events


def test_a_shard_is_sampled_in_batches_and_committed_last(
    prepared: tuple[Store, RunRecord, pa.Table],
) -> None:
    store, record, rows = prepared
    sampler = FakeSampler()
    events = run(store, record, ShardWork(0, rows), sampler)
    assert sampler.batches == [4, 2]
    assert [type(event) for event in events] == [BatchDone, BatchDone, ShardDone]
    assert events[-1] == ShardDone(0, num_ok=6, num_failed=0)
    assert committed_shards(store) == {0}
    assert len(store.list("images")) == 6


def test_images_of_an_earlier_attempt_are_adopted_and_not_sampled(
    prepared: tuple[Store, RunRecord, pa.Table],
) -> None:
    store, record, rows = prepared
    run(store, record, ShardWork(0, rows), FakeSampler())
    first = read_commit(store, 0)
    store.delete("metadata/shard-00000.parquet")
    missing = planned_images(rows)[2]
    store.delete(missing.file)
    sampler = FakeSampler()
    run(store, record, ShardWork(0, rows, attempt=2, look_first=True), sampler)
    assert sampler.seeds == [missing.seed]
    assert read_commit(store, 0).column("sha256") == first.column("sha256")


def test_an_attempt_that_does_not_look_first_still_adopts_what_it_finds(
    prepared: tuple[Store, RunRecord, pa.Table],
) -> None:
    store, record, rows = prepared
    run(store, record, ShardWork(0, rows), FakeSampler())
    store.delete("metadata/shard-00000.parquet")
    events = run(store, record, ShardWork(0, rows), FakeSampler())
    assert events[-1] == ShardDone(0, num_ok=6, num_failed=0)


def test_a_row_that_makes_its_batch_fail_fails_alone(tmp_path: Path) -> None:
    store, record, rows = prepare(tmp_path, ["a", "explode", "b", "nan", "c"])
    events = run(store, record, ShardWork(0, rows), FakeSampler())
    assert events[-1] == ShardDone(0, num_ok=3, num_failed=2)
    failed = {
        row["prompt"]: (row["error_type"], row["error"], row["file"])
        for row in read_commit(store, 0).to_pylist()
        if row["status"] == "failed"
    }
    assert failed == {
        "explode": ("SamplingError", "it exploded", None),
        "nan": ("BadImage", "non-finite", None),
    }


def test_a_shard_that_is_given_up_keeps_the_images_it_has(
    prepared: tuple[Store, RunRecord, pa.Table],
) -> None:
    store, record, rows = prepared
    run(store, record, ShardWork(0, rows), FakeSampler())
    store.delete("metadata/shard-00000.parquet")
    store.delete(planned_images(rows)[3].file)
    done = fail_shard(store, record, ShardWork(0, rows, attempt=3), "WorkerLost", "it died")
    assert done == ShardDone(0, num_ok=5, num_failed=1)


def test_a_device_that_fails_ends_the_shard_and_blames_no_image(
    prepared: tuple[Store, RunRecord, pa.Table],
) -> None:
    store, record, rows = prepared

    class Dying(FakeSampler):
        def sample(self, requests, params):  # type: ignore[no-untyped-def]
            raise DeviceError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(DeviceError):
        run(store, record, ShardWork(0, rows), Dying())
    assert committed_shards(store) == set()


def test_an_image_that_cannot_be_encoded_fails_alone(
    prepared: tuple[Store, RunRecord, pa.Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, record, rows = prepared
    plain = shard.encode

    def picky(pixels, facts, images):  # type: ignore[no-untyped-def]
        if facts.prompt == "picture 2":
            raise TypeError("no such picture")
        return plain(pixels, facts, images)

    monkeypatch.setattr(shard, "encode", picky)
    events = run(store, record, ShardWork(0, rows), FakeSampler())
    assert events[-1] == ShardDone(0, num_ok=5, num_failed=1)


def test_only_parts_right_under_metadata_are_commits(
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
    fail_shard(store, record, ShardWork(0, rows, attempt=9), "WorkerLost", "it died")
    winner = read_commit(store, 0)
    events = run(store, record, ShardWork(0, rows), FakeSampler())
    assert events[-1] == ShardDone(0, num_ok=0, num_failed=6)
    assert read_commit(store, 0).equals(winner)


def test_of_many_that_commit_at_once_one_wins_and_all_see_it(
    prepared: tuple[Store, RunRecord, pa.Table],
) -> None:
    store, record, rows = prepared
    fail_shard(store, record, ShardWork(5, rows), "WorkerLost", "it died")
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
    run(store, record, ShardWork(0, rows), FakeSampler())
    assert read_commit(store, 0).column("tags").to_pylist() == tags.to_pylist()


def test_batches_hold_equal_settings_only(
    prepared: tuple[Store, RunRecord, pa.Table],
) -> None:
    images = planned_images(prepared[2])
    mixed = [replace(image, height=96 + 8 * (i // 3)) for i, image in enumerate(images)]
    assert [len(batch) for batch in batches(mixed, 2)] == [2, 1, 2, 1]


def test_a_metadata_part_has_a_record_for_each_row(
    prepared: tuple[Store, RunRecord, pa.Table],
) -> None:
    store, record, rows = prepared
    run(store, record, ShardWork(0, rows), FakeSampler())
    part = read_commit(store, 0)
    assert part.column("image_id").to_pylist() == rows.column("image_id").to_pylist()
    assert metadata_part([], rows.slice(0, 0)).num_rows == 0
