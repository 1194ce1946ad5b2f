"""Packed shards: the same images as in single files, in one object, stored and committed once."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from support.fakes.fake_runs import FakeSampler, finished_run, make_shard, prepare, work_on
from support.fakes.memory_store import MemoryFolder, MemoryStore

from nightpress.diffusion_core.sampling.sampler import ImageRequest, SampledBatch, SamplingParams
from nightpress.pipelines import Run
from nightpress.pipelines.errors import LeaseLost
from nightpress.pipelines.image_files.packing import is_intact_pack, members_of
from nightpress.pipelines.planning import read_shard, write_plan
from nightpress.pipelines.records import FailureType
from nightpress.pipelines.run_directory.commit import (
    committed_shards,
    failed_rows,
    read_commit,
    shard_path,
)
from nightpress.pipelines.run_directory.lease import FencingToken, current_process
from nightpress.pipelines.run_directory.orphans import delete_orphans
from nightpress.pipelines.run_directory.record import RunRecord
from nightpress.pipelines.run_directory.verify import (
    Damage,
    orphan_images,
    rows_in_same_packs,
    verify,
)
from nightpress.pipelines.shards.batching import planned_images
from nightpress.pipelines.shards.events import BatchDone, BatchSampled, ShardDone, ShardLeft
from nightpress.pipelines.shards.failed_shard import fail_shard
from nightpress.pipelines.shards.runner import ShardRunner
from nightpress.pipelines.shards.work import Amendment, SetAsideRow
from nightpress.pipelines.storage import Store

KINDS = ("webdataset", "parquet")
PROMPTS = [f"picture {n}" for n in range(6)]


class FaultlessSampler(FakeSampler):
    """Also makes the images at which a `FakeSampler` fails."""

    def sample(
        self,
        requests: Sequence[ImageRequest],
        params: SamplingParams,
        batch_size: int | None = None,
    ) -> SampledBatch:
        pixels = super().sample(requests, params, batch_size).pixels
        return SampledBatch(pixels, (None,) * len(requests))


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def prepared(tmp_path: Path, kind: str) -> tuple[Store, RunRecord, pa.Table]:
    return prepare(tmp_path, PROMPTS, packing=kind)


def images_of(store: Store, part: pa.Table) -> dict[str, bytes]:
    """Image id -> the bytes to which the commit refers."""
    return {
        row["image_id"]: store.read_part(row["file"], row["member_offset"], row["num_bytes"])
        for row in part.to_pylist()
        if row["status"] == "ok"
    }


def only_pack(store: Store) -> str:
    (path,) = store.list("images")
    return path


def test_a_pack_holds_the_files_of_an_unpacked_run(tmp_path: Path, kind: str) -> None:
    plain_store, plain, rows = prepare(tmp_path / "plain", [*PROMPTS, "nan"])
    make_shard(plain_store, plain, rows, FakeSampler())
    files = {image.file: image.image_id for image in planned_images(rows)}
    wanted = {files[path]: plain_store.read(path) for path in plain_store.list("images")}

    store, record, rows = prepare(tmp_path / "packed", [*PROMPTS, "nan"], packing=kind)
    events = make_shard(store, record, rows, FakeSampler())
    part, path = read_commit(store, 0), only_pack(store)
    assert events[-1] == ShardDone(0, num_ok=6, num_failed=1)
    assert is_intact_pack(path, store.read(path))
    assert images_of(store, part) == wanted
    inside = dict(members_of(path, store.read(path)))
    pictures = {name: data for name, data in inside.items() if name.endswith(".png")}
    assert pictures == {
        path.removeprefix("images/"): wanted[each] for path, each in files.items() if each in wanted
    }
    for row in part.filter(pc.equal(part.column("status"), "ok")).to_pylist():
        assert (row["file"], row["sha256"]) == (
            path,
            hashlib.sha256(wanted[row["image_id"]]).hexdigest(),
        )
        assert inside[row["member"]] == wanted[row["image_id"]]
    told = part.select(["member", "member_offset", "file"]).to_pylist()[-1]
    assert set(told.values()) == {None}
    same = [
        name
        for name in part.column_names
        if name not in ("file", "member", "member_offset", "started_at", "sampling_s")
    ]
    assert part.select(same).equals(read_commit(plain_store, 0).select(same))


def test_carried_columns_are_in_the_pack(
    prepared: tuple[Store, RunRecord, pa.Table], kind: str
) -> None:
    store, record, rows = prepared
    rows = rows.append_column("topic", pa.array([f"topic {n}" for n in range(6)]))
    make_shard(store, record, rows, FakeSampler())
    assert b"topic 5" in store.read(only_pack(store))


def test_a_shard_that_was_left_is_made_again_from_the_start(
    prepared: tuple[Store, RunRecord, pa.Table],
) -> None:
    store, record, rows = prepared
    runner: ShardRunner

    class Interrupted(FakeSampler):
        def sample(self, *args: Any) -> SampledBatch:
            runner.drain()
            return super().sample(*args)

    runner = ShardRunner(store, record, Interrupted(), "here:1")  # type: ignore[arg-type]
    events = list(runner.run(work_on(rows), rows))
    runner.close()
    assert events[-1] == ShardLeft(0)
    assert store.list("images") == {}
    again = FakeSampler()
    make_shard(store, record, rows, again, work_on(rows, attempt=2, look_first=True))
    assert len(again.seeds) == 6
    assert committed_shards(store) == {0}


def test_after_a_crash_between_pack_and_commit_the_same_pack_is_committed(
    prepared: tuple[Store, RunRecord, pa.Table],
) -> None:
    store, record, rows = prepared
    make_shard(store, record, rows, FakeSampler())
    path, part = only_pack(store), read_commit(store, 0)
    store.delete(shard_path(0))
    make_shard(store, record, rows, FakeSampler(), work_on(rows, attempt=2, look_first=True))
    assert only_pack(store) == path
    assert read_commit(store, 0).column("file").equals(part.column("file"))


@pytest.mark.parametrize(
    "harm", [lambda data: data[:-9], lambda data: data[:700] + b"?" + data[701:]]
)
def test_a_pack_damaged_by_a_power_cut_is_replaced(
    prepared: tuple[Store, RunRecord, pa.Table], harm: Any
) -> None:
    store, record, rows = prepared
    make_shard(store, record, rows, FakeSampler())
    path = only_pack(store)
    whole = store.read(path)
    store.delete(shard_path(0))
    store.put(path, harm(whole))
    make_shard(store, record, rows, FakeSampler(), work_on(rows, attempt=2, look_first=True))
    assert store.read(only_pack(store)) == whole


def test_attempts_with_different_results_write_two_packs_and_one_is_committed(
    tmp_path: Path, kind: str
) -> None:
    """A row fails in one attempt; the other attempt is slower and does not see the commit."""
    store, record, rows = prepare(tmp_path, ["a", "nan", "c"], packing=kind)
    slow = ShardRunner(store, record, FaultlessSampler(), "slow:1")  # type: ignore[arg-type]
    late = slow.run(work_on(rows), rows)
    for event in late:
        if isinstance(event, BatchSampled | BatchDone):  # as its images are not done yet, or are
            break
    make_shard(store, record, rows, FakeSampler())
    part = read_commit(store, 0)
    assert list(late)[-1] == ShardDone(0, num_ok=2, num_failed=1)
    slow.close()
    assert read_commit(store, 0).equals(part)
    assert orphan_images(Run(store, record)) == []  # it looked for a commit before it stored a pack

    store.delete(shard_path(0))
    make_shard(store, record, rows, FaultlessSampler())
    assert len(store.list("images")) == 2
    assert failed_rows(store, 0) == ()
    assert orphan_images(Run(store, record)) == part.column("file").drop_null().unique().to_pylist()


def test_a_start_that_was_taken_over_stores_no_pack(
    prepared: tuple[Store, RunRecord, pa.Table],
) -> None:
    store, record, rows = prepared
    for epoch in (1, 2):
        store.put(f"lease/{epoch:05d}.json", current_process().to_json())
    fence = FencingToken(1, "mine")
    runner = ShardRunner(store, record, FakeSampler(), "here:1", fence)  # type: ignore[arg-type]
    with pytest.raises(LeaseLost):
        list(runner.run(work_on(rows), rows))
    runner.close()
    assert store.list("images") == {}


def test_retried_rows_are_stored_in_a_new_pack(tmp_path: Path, kind: str) -> None:
    store, record, rows = prepare(tmp_path, ["a", "nan", "c", "nan too"], packing=kind)
    make_shard(store, record, rows, FakeSampler())
    first, before = only_pack(store), read_commit(store, 0)
    sampler = FaultlessSampler()
    work = work_on(rows, amends=Amendment((1, 3)), look_first=True)
    assert make_shard(store, record, rows, sampler, work)[-1] == ShardDone(
        0, num_ok=2, num_failed=0
    )
    assert len(sampler.seeds) == 2
    part = read_commit(store, 0)
    assert len(images_of(store, part)) == 4
    assert [file == first for file in part.column("file").to_pylist()] == [True, False, True, False]
    assert part.take([0, 2]).equals(before.take([0, 2]))
    assert orphan_images(Run(store, record)) == []
    second = part.column("file")[1].as_py()
    pictures = [n for n, _ in members_of(second, store.read(second)) if n.endswith(".png")]
    assert pictures == part.column("member").take([1, 3]).to_pylist()


def test_parts_of_a_divided_shard_store_nothing(
    prepared: tuple[Store, RunRecord, pa.Table],
) -> None:
    store, record, rows = prepared
    make_shard(store, record, rows, FakeSampler(), work_on(rows, start=2, stop=4, commits=False))
    assert store.list("images") == {}
    aside = (SetAsideRow(2, 5, FailureType.WORKER_KILLED, "it died"),)
    work = work_on(rows, attempt=7, look_first=True, set_aside=aside)
    assert make_shard(store, record, rows, FakeSampler(), work)[-1] == ShardDone(
        0, num_ok=5, num_failed=1
    )


def test_a_shard_whose_rows_all_fail_has_no_pack(tmp_path: Path, kind: str) -> None:
    store, record, rows = prepare(tmp_path, ["nan", "nan too"], packing=kind)
    assert make_shard(store, record, rows, FakeSampler())[-1] == ShardDone(0, 0, 2)
    assert store.list("images") == {}
    assert failed_rows(store, 0) == (0, 1)


def test_a_shard_that_no_worker_survives_is_committed_as_failed(
    prepared: tuple[Store, RunRecord, pa.Table],
) -> None:
    store, record, rows = prepared
    done = fail_shard(store, record, work_on(rows), rows, FailureType.WORKER_KILLED, "it died")
    assert done == ShardDone(0, num_ok=0, num_failed=6)


def test_on_a_store_without_conditional_writes_a_pack_is_written_once(
    prepared: tuple[Store, RunRecord, pa.Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, record, rows = prepared
    careful = store.reading_back()
    make_shard(careful, record, rows, FakeSampler())
    path, part = only_pack(store), read_commit(store, 0)
    written: list[str] = []
    put = type(careful._folder).put
    monkeypatch.setattr(
        type(careful._folder), "put", lambda self, p, d: written.append(p) or put(self, p, d)
    )
    store.delete(shard_path(0))
    make_shard(careful, record, rows, FakeSampler(), work_on(rows, attempt=2, look_first=True))
    assert written == [shard_path(0)]
    assert only_pack(store) == path
    assert read_commit(store, 0).column("sha256").equals(part.column("sha256"))


@pytest.mark.parametrize("server", ["seaweed", "rclone_s3"])
def test_packs_on_s3_with_and_without_conditional_writes(
    tmp_path: Path, server: str, request: pytest.FixtureRequest
) -> None:
    _, record, rows = prepare(tmp_path, ["a", "nan", "c"], packing="webdataset")
    folder = request.getfixturevalue(server).folder()
    store = Store(f"{folder.url}/run", folder.options)
    store = store if store.honours_create_only() else store.reading_back()
    assert store.reads_back == (server == "rclone_s3")
    list(write_plan(record.spec, record.model, record.layout, store))
    make_shard(store, record, rows, FakeSampler())
    path, part = only_pack(store), read_commit(store, 0)
    whole = store.read(path)
    assert len(images_of(store, part)) == 2
    store.delete(shard_path(0))
    store.put(path, whole[:-700])
    make_shard(store, record, rows, FakeSampler(), work_on(rows, attempt=2, look_first=True))
    assert store.read(only_pack(store)) == whole
    assert read_commit(store, 0).column("file").equals(part.column("file"))
    retried = work_on(rows, look_first=True, amends=Amendment((1,)))
    make_shard(store, record, rows, FaultlessSampler(), retried)
    store.delete(path)
    for sample in (1.0, 0.999):
        found = [f for shard in verify(Run(store, record), sample) for f in shard.findings]
        assert [(f.damage, f.row) for f in found] == [(Damage.MISSING, 0), (Damage.MISSING, 2)]
    assert orphan_images(Run(store, record)) == []
    repair = Amendment(rows_in_same_packs(Run(store, record), 0, [0]), replaces=True)
    assert repair.rows == (0, 2)
    make_shard(store, record, rows, FakeSampler(), work_on(rows, look_first=True, amends=repair))
    assert store.read(path) == whole
    assert len(images_of(store, read_commit(store, 0))) == 3


def test_two_simultaneous_commits_agree_on_a_pack(kind: str, tmp_path: Path) -> None:
    """The second runner commits just before the first one stores its pack."""
    _, record, rows = prepare(tmp_path, ["a", "nan"], packing=kind)
    folder = MemoryFolder()
    store = MemoryStore(folder)
    first = ShardRunner(store, record, FakeSampler(), "one:1")  # type: ignore[arg-type]
    second = ShardRunner(store, record, FaultlessSampler(), "two:1")  # type: ignore[arg-type]
    # The first runner looks for a commit at its start and before it packs; then it stores the pack.
    folder.meanwhile = {2: lambda: list(second.run(work_on(rows), rows))}  # type: ignore[dict-item]
    assert list(first.run(work_on(rows), rows))[-1] == ShardDone(0, num_ok=2, num_failed=0)
    part = read_commit(store, 0)
    assert len(images_of(store, part)) == 2
    assert len(store.list("images")) == 2
    assert len(orphan_images(Run(store, record))) == 1
    first.close()
    second.close()


# Verifying, repairing and sweeping a packed run.


@pytest.fixture
def packed(tmp_path: Path, kind: str) -> Run:
    return Run(*finished_run(tmp_path, [*PROMPTS, "nan", "b"], shard_size=4, packing=kind))


def pack_of(run_: Run, shard: int) -> Path:
    return Path(run_.url, read_commit(run_.store, shard).column("file").drop_null()[0].as_py())


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def repaired(run_: Run, shard: int, rows: Sequence[int], **how: bool) -> FakeSampler:
    """Make rows again, as `verify --repair` does."""
    sampler = FakeSampler()
    amends = Amendment(rows_in_same_packs(run_, shard, rows) if rows else tuple(range(4)), **how)
    planned = read_shard(run_.store, run_.record.layout, shard)
    make_shard(
        run_.store,
        run_.record,
        planned,
        sampler,
        work_on(planned, shard, look_first=True, amends=amends),
    )
    return sampler


def test_an_untouched_run_verifies(packed: Run) -> None:
    shards = list(verify(packed))
    assert [shard.findings for shard in shards] == [(), ()]
    assert [(shard.num_checked, shard.num_failed) for shard in shards] == [(4, 0), (3, 1)]
    assert orphan_images(packed) == []
    assert packed.packs == [str(pack_of(packed, 0)), str(pack_of(packed, 1))]


def test_images_are_read_from_their_packs(packed: Run) -> None:
    found = {row["image_id"]: np.asarray(image) for row, image in packed.images()}
    assert len(found) == 7
    seed = packed.metadata.to_table().column("seed")[2].as_py()
    assert tuple(found["00000002_00"][0, 0]) == (seed % 256, seed // 256 % 256, 7)
    assert np.array_equal(packed.image("00000002_00"), found["00000002_00"])


def test_only_the_damaged_image_of_a_pack_is_sampled_again(packed: Run) -> None:
    path, before = pack_of(packed, 0), read_commit(packed.store, 0)
    whole = path.read_bytes()
    row = before.to_pylist()[2]
    flip(path, row["member_offset"] + row["num_bytes"] // 2)
    for sample in (1.0, 0.999):
        (finding,) = [f for shard in verify(packed, sample) for f in shard.findings]
        assert (finding.damage, finding.row) == (Damage.CHANGED, 2)
        assert finding.path == f"{row['file']}/{row['member']}"
    sampler = repaired(packed, 0, [2], replaces=True)
    assert sampler.seeds == [row["seed"]]
    assert path.read_bytes() == whole
    assert read_commit(packed.store, 0).equals(before)
    assert all(not shard.findings for shard in verify(packed))


def test_a_missing_pack_is_made_again_under_its_name(packed: Run) -> None:
    path, before = pack_of(packed, 1), read_commit(packed.store, 1)
    whole = path.read_bytes()
    path.unlink()
    findings = [f for shard in verify(packed) for f in shard.findings]
    assert [(f.damage, f.row) for f in findings] == [(Damage.MISSING, n) for n in (0, 1, 3)]
    assert len(repaired(packed, 1, [0], replaces=True).seeds) == 3
    assert path.read_bytes() == whole
    assert read_commit(packed.store, 1).equals(before)


def test_damage_between_the_images_is_found_and_repaired_without_sampling(packed: Run) -> None:
    path = pack_of(packed, 0)
    whole = path.read_bytes()
    flip(path, len(whole) - 1)
    (finding,) = [f for shard in verify(packed) for f in shard.findings]
    assert "the bytes around them have changed" in finding.text
    assert repaired(packed, 0, [finding.row or 0], replaces=True).seeds == []
    assert path.read_bytes() == whole


def test_a_damaged_commit_is_made_again_from_its_pack(packed: Run) -> None:
    before = read_commit(packed.store, 0)
    packed.store.put(shard_path(0), b"PAR1 and no more")
    assert repaired(packed, 0, [], recommits=True).seeds == []
    where = ["image_id", "file", "member", "member_offset", "sha256"]
    assert read_commit(packed.store, 0).select(where).equals(before.select(where))
    assert all(not shard.findings for shard in verify(packed))


def test_a_row_that_cannot_be_made_again_is_not_in_the_new_pack(packed: Run) -> None:
    """The other rows move to a new pack, and the commit refers to no other."""
    old = pack_of(packed, 0)
    row = read_commit(packed.store, 0).to_pylist()[1]
    flip(old, row["member_offset"] + 99)

    class Failing(FakeSampler):
        def sample(self, *args: Any) -> SampledBatch:
            raise RuntimeError("not any more")

    planned = read_shard(packed.store, packed.record.layout, 0)
    amends = Amendment(rows_in_same_packs(packed, 0, [1]), replaces=True)
    make_shard(packed.store, packed.record, planned, Failing(), work_on(planned, amends=amends))
    part = read_commit(packed.store, 0)
    assert failed_rows(packed.store, 0) == (1,)
    assert pack_of(packed, 0) != old
    assert len(images_of(packed.store, part)) == 3
    assert orphan_images(packed) == [str(old.relative_to(packed.url))]
    assert all(not shard.findings for shard in verify(packed))


def test_only_packs_without_a_commit_are_swept(packed: Run) -> None:
    kept = set(packed.packs)
    orphan = pack_of(packed, 0).with_name(f"shard-00000-{'0' * 16}{pack_of(packed, 0).suffix}")
    orphan.write_bytes(b"from an attempt without a commit")
    packed.store.put("lease/00001.json", current_process().to_json())
    assert orphan_images(packed) == [f"images/{orphan.name}"]
    assert delete_orphans(packed, FencingToken(1, "mine")) == [f"images/{orphan.name}"]
    assert not orphan.exists()
    assert {str(path) for path in Path(packed.url, "images").iterdir()} == kept
    assert all(not shard.findings for shard in verify(packed))
