"""Thumbnails are made beside the images, belong to their bytes, and never fail an image."""

import json
from pathlib import Path
from typing import Any

import pytest
from support.fakes.fake_runs import FakeSampler, make_shard, prepare, work_on

from nightpress.pipelines.errors import StoreError
from nightpress.pipelines.image_files import atlas
from nightpress.pipelines.records import FailureType
from nightpress.pipelines.run_directory.commit import read_commit
from nightpress.pipelines.run_directory.thumbs import ThumbPlace, is_atlas, is_intact, read_thumbs
from nightpress.pipelines.shards import shard_thumbs
from nightpress.pipelines.shards.batching import planned_images
from nightpress.pipelines.shards.events import ShardDone
from nightpress.pipelines.shards.work import Amendment, SetAsideRow
from nightpress.pipelines.storage import Store

PROMPTS = [f"picture {n}" for n in range(70)]


def prepared(folder: Path, prompts: list[str] = PROMPTS, **others: Any) -> Any:
    return prepare(folder, prompts, review={"thumbs": True}, **others)


def current(store: Store) -> set[tuple[str, str]]:
    """(image id, SHA-256) of the images that are ok."""
    rows = read_commit(store, 0).select(["image_id", "sha256", "status"]).to_pylist()
    return {(row["image_id"], row["sha256"]) for row in rows if row["status"] == "ok"}


@pytest.mark.parametrize("packing", ["none", "webdataset", "parquet"])
def test_a_shard_stores_atlases_of_64_and_one_index(tmp_path: Path, packing: str) -> None:
    store, record, rows = prepared(tmp_path, packing=packing)
    events = make_shard(store, record, rows, FakeSampler())
    assert events[-1] == ShardDone(0, num_ok=70, num_failed=0)
    found = read_thumbs(store)
    assert set(found.places) == current(store)
    assert found.problems == {}
    assert sorted(len(each.cells) for each in found.named.values()) == [6, 64]
    assert all(is_intact(path, store.read(path)) for path in store.list("thumbs"))
    [first] = [each for each in found.named.values() if len(each.cells) == 64]
    assert [first.cells[cell][0] for cell in (0, 63)] == ["00000000_00", "00000063_00"]


def test_a_run_that_asks_for_none_makes_none(tmp_path: Path) -> None:
    store, record, rows = prepare(tmp_path, PROMPTS[:4])
    make_shard(store, record, rows, FakeSampler())
    assert store.list("thumbs") == {}


def test_every_attempt_makes_the_same_atlases(tmp_path: Path) -> None:
    names = []
    for name in ("one", "two"):
        store, record, rows = prepared(tmp_path / name)
        make_shard(store, record, rows, FakeSampler())
        names.append({path for path in store.list("thumbs") if is_atlas(path)})
    assert names[0] == names[1]


def test_an_image_that_is_adopted_has_a_thumbnail_too(tmp_path: Path) -> None:
    store, record, rows = prepared(tmp_path, PROMPTS[:6])
    make_shard(store, record, rows, FakeSampler())
    first = store.list("thumbs")
    for path in [*first, "metadata/shard-00000.parquet", planned_images(rows)[2].file]:
        store.delete(path)
    sampler = FakeSampler()
    make_shard(store, record, rows, sampler, work_on(rows, attempt=2, look_first=True))
    assert len(sampler.seeds) == 1
    assert store.list("thumbs") == first, "made of the bytes, they are the same"


def test_an_attempt_at_a_part_of_a_shard_leaves_thumbnails_to_the_one_that_commits(
    tmp_path: Path,
) -> None:
    store, record, rows = prepared(tmp_path, PROMPTS[:6])
    make_shard(store, record, rows, FakeSampler(), work_on(rows).part(range(3)))
    assert store.list("thumbs") == {}
    make_shard(store, record, rows, FakeSampler(), work_on(rows, look_first=True))
    assert set(read_thumbs(store).places) == current(store)


def test_a_row_that_is_made_again_gets_another_thumbnail_and_the_old_is_not_found(
    tmp_path: Path,
) -> None:
    store, record, rows = prepared(tmp_path, PROMPTS[:6])
    aside = SetAsideRow(1, 3, FailureType.WORKER_KILLED, "killed")
    make_shard(store, record, rows, FakeSampler(), work_on(rows, set_aside=(aside,)))
    assert len(read_thumbs(store).places) == 5
    retried = work_on(rows, amends=Amendment(rows=(1,)), look_first=True)
    make_shard(store, record, rows, FakeSampler(), retried)
    assert set(read_thumbs(store).places) == current(store)
    assert len(current(store)) == 6


def test_a_repair_gives_what_it_replaces_the_thumbnail_it_had(tmp_path: Path) -> None:
    store, record, rows = prepared(tmp_path, PROMPTS[:6])
    make_shard(store, record, rows, FakeSampler())
    damaged = planned_images(rows)[4].file
    store.put(damaged, store.read(damaged)[:-9])
    work = work_on(rows, amends=Amendment(rows=(4,), replaces=True), look_first=True)
    make_shard(store, record, rows, FakeSampler(), work)
    assert set(read_thumbs(store).places) == current(store)


def test_images_that_fail_have_empty_cells(tmp_path: Path) -> None:
    store, record, rows = prepared(tmp_path, ["a", "nan b", "c"])
    events = make_shard(store, record, rows, FakeSampler())
    assert events[-1] == ShardDone(0, num_ok=2, num_failed=1)
    [found] = read_thumbs(store).named.values()
    assert sorted(found.cells) == [0, 2]


def test_a_thumbnail_that_cannot_be_made_is_counted_and_the_image_is_ok(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, record, rows = prepared(tmp_path, PROMPTS[:3])
    calls = iter(range(3))

    def fails_once(pixels: Any) -> Any:
        if next(calls) == 1:
            raise MemoryError("no room")
        return atlas.thumb_of_pixels(pixels)

    monkeypatch.setattr(shard_thumbs, "thumb_of_pixels", fails_once)
    done = make_shard(store, record, rows, FakeSampler())[-1]
    assert done == ShardDone(
        0, num_ok=3, num_failed=0, num_without_thumb=1, thumb_error="MemoryError: no room"
    )
    assert len(read_thumbs(store).places) == 2


def test_a_store_that_refuses_thumbnails_costs_no_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, record, rows = prepared(tmp_path, PROMPTS[:3])
    create = Store.create

    def refuses(self: Store, path: str, data: bytes) -> bool:
        if path.startswith("thumbs/"):
            raise StoreError("full")
        return create(self, path, data)

    monkeypatch.setattr(Store, "create", refuses)
    done = make_shard(store, record, rows, FakeSampler())[-1]
    assert isinstance(done, ShardDone)
    assert (done.num_ok, done.num_without_thumb, done.thumb_error) == (3, 3, "StoreError: full")


def test_many_failures_do_not_fill_the_memory_with_thumbnails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_thumbs, "CELLS", 4)
    monkeypatch.setattr(shard_thumbs, "MAX_HELD", 6)
    prompts = [f"nan {n}" if n % 4 == 3 else f"picture {n}" for n in range(40)]
    store, record, rows = prepared(tmp_path, prompts)
    stored: list[int] = []
    store_atlas = shard_thumbs.store_atlas
    monkeypatch.setattr(
        shard_thumbs,
        "store_atlas",
        lambda *args: (stored.append(len(store.list("metadata"))), store_atlas(*args))[1],
    )
    make_shard(store, record, rows, FakeSampler())
    assert len(stored) >= 10
    assert set(read_thumbs(store).places) == current(store)


# Reading


def damaged_run(tmp_path: Path) -> tuple[Store, str, str]:
    """A run with one atlas and one index: store, path of the atlas, path of the index."""
    store, record, rows = prepared(tmp_path, PROMPTS[:3])
    make_shard(store, record, rows, FakeSampler())
    [picture] = [path for path in store.list("thumbs") if is_atlas(path)]
    [index] = [path for path in store.list("thumbs") if not is_atlas(path)]
    return store, picture, index


def test_an_atlas_that_is_missing_or_cut_is_said(tmp_path: Path) -> None:
    store, picture, _ = damaged_run(tmp_path)
    data = store.read(picture)
    store.put(picture, data[:-5])
    found = read_thumbs(store)
    assert found.places == {}
    assert found.problems == {picture: f"it has {len(data) - 5:,} bytes instead of {len(data):,}"}
    store.delete(picture)
    assert read_thumbs(store).problems == {picture: "it is missing"}


def test_an_atlas_that_nobody_misses_is_no_problem(tmp_path: Path) -> None:
    store, picture, _ = damaged_run(tmp_path)
    images = current(store)
    store.delete(picture)
    found = read_thumbs(store)
    assert found.problems_of(images) == {picture: "it is missing"}
    assert found.problems_of({("00000000_00", "e" * 64)}) == {}, "all were made again"
    found.places.update(dict.fromkeys(images, ThumbPlace("thumbs/other.webp", 0)))
    assert found.problems_of(images) == {}, "all have other thumbnails"


@pytest.mark.parametrize("damage", ["cut", "other JSON"])
def test_an_index_that_is_damaged_is_said(tmp_path: Path, damage: str) -> None:
    store, _, index = damaged_run(tmp_path)
    data = store.read(index)
    store.put(index, data[:-5] if damage == "cut" else json.dumps({"atlases": []}).encode())
    found = read_thumbs(store)
    assert found.places == {}
    assert found.problems == {index: "it is not what was written"}


def test_a_damaged_copy_of_an_atlas_is_replaced_by_the_next_that_makes_it(tmp_path: Path) -> None:
    store, picture, _ = damaged_run(tmp_path)
    data = store.read(picture)
    store.put(picture, data[:-5])
    store.delete("metadata/shard-00000.parquet")
    _, record, rows = prepared(tmp_path, PROMPTS[:3])
    make_shard(store, record, rows, FakeSampler(), work_on(rows, look_first=True))
    assert store.read(picture) == data
