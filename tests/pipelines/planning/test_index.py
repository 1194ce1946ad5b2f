"""The index of a plan: every image is found in its shard, by a small read of each part."""

import io
from pathlib import Path

import numpy as np
import pytest
from support.plans import MODEL, job, write

from nightpress.pipelines.planning import (
    PlanLayout,
    candidate_shards,
    check,
    read_shard,
    rewrite_plan_part,
    units,
    write_plan,
)
from nightpress.pipelines.planning.index import PlanIndex, index_path
from nightpress.pipelines.storage import Store

SEED = 7


def planned(folder: Path, rows: list[dict[str, object]]) -> tuple[Store, PlanLayout]:
    spec = job(folder, write(folder / "m.jsonl", rows), seed=SEED, batch={"shard_size": 5})
    layout, store = check(spec, MODEL), Store(spec.url)
    list(write_plan(spec, MODEL, layout, store))
    return store, layout


def found(store: Store, layout: PlanLayout, image_id: str) -> list[int]:
    return candidate_shards(store, layout, SEED, image_id)


@pytest.mark.parametrize(
    "row",
    [{}, {"id": "row_{n}"}, {"id": "r{n}", "seed": 3, "num_images": 3}],
    ids=["numbered", "named", "seeded"],
)
def test_every_image_is_found_in_its_shard_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: dict[str, object]
) -> None:
    monkeypatch.setattr(units, "MAX_PART_IMAGES", 100)
    rows = [
        {k: v.format(n=n) if isinstance(v, str) else v for k, v in row.items()}
        | {"prompt": "p", "width": 64 + n % 3 * 8}
        for n in range(150)
    ]
    store, layout = planned(tmp_path, rows)
    assert len(layout.parts) > 1
    for shard in range(layout.num_shards):
        for image_id in read_shard(store, layout, shard).column("image_id").to_pylist():
            assert found(store, layout, image_id) == [shard]


@pytest.mark.parametrize(
    "image_id", ["", "_", "_00", "nobody", "nobody_00", "00000001_", "00000001_01", "1_" + "9" * 40]
)
def test_an_image_that_is_not_planned_is_in_no_shard(tmp_path: Path, image_id: str) -> None:
    store, layout = planned(tmp_path, [{"prompt": "p"}] * 20)
    assert found(store, layout, image_id) == []


def test_a_small_part_of_a_large_index_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, layout = planned(tmp_path, [{"prompt": "p", "num_images": 100_000}])
    read: list[int] = []
    read_part = Store.read_part

    def counted(self: Store, path: str, start: int, num_bytes: int) -> bytes:
        read.append(num_bytes)
        return read_part(self, path, start, num_bytes)

    monkeypatch.setattr(Store, "read_part", counted)
    for variant in range(0, 100_000, 997):
        assert found(store, layout, f"00000000_{variant:02d}") == [variant // 5]
    assert max(read) < 20_000


def test_an_index_is_sorted_and_can_be_loaded_with_numpy(tmp_path: Path) -> None:
    store, layout = planned(tmp_path, [{"prompt": "p"}] * 20)
    entries = np.load(io.BytesIO(store.read(index_path(layout.parts[0]))))
    assert entries.dtype == np.uint64
    assert len(entries) == 20
    assert (np.diff(entries.astype(object)) > 0).all()


@pytest.mark.parametrize("damage", ["missing", "cut", "empty"])
def test_without_its_index_every_shard_of_a_part_is_a_candidate(
    tmp_path: Path, damage: str
) -> None:
    rows = [{"prompt": "p"}] * 20
    store, layout = planned(tmp_path, rows)
    path = index_path(layout.parts[0])
    whole = store.read(path)
    if damage == "missing":
        store.delete(path)
    else:
        store.put(path, whole[:140] if damage == "cut" else b"")
    assert found(store, layout, "00000003_00") == [0, 1, 2, 3]
    spec = job(tmp_path, tmp_path / "m.jsonl", seed=SEED, batch={"shard_size": 5})
    rewrite_plan_part(spec, MODEL, layout, store, 0)
    assert store.read(path) == whole


def test_entries_far_from_where_they_are_expected_are_found_too(tmp_path: Path) -> None:
    """The window is six standard deviations wide; beyond it, the whole index is read."""
    store, layout = planned(tmp_path, [{"prompt": "p", "num_images": 100_000}])
    path = index_path(layout.parts[0])
    entries = np.load(io.BytesIO(store.read(path)))
    crowded = np.concatenate([np.zeros(50_000, np.uint64), entries[:50_000]])
    file = io.BytesIO()
    np.save(file, crowded)
    store.put(path, file.getvalue())
    early = int(entries[25_000] & np.uint64(2**24 - 1))
    assert any(
        found(store, layout, f"00000000_{variant:02d}") == [early]
        for variant in range(early * 5, early * 5 + 5)
    )


@pytest.mark.parametrize("missing", [False, True])
def test_an_index_in_memory_finds_what_single_lookups_find(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: bool
) -> None:
    monkeypatch.setattr(units, "MAX_PART_IMAGES", 20)
    rows: list[dict[str, object]] = [{"id": f"r{n}", "prompt": "p"} for n in range(50)]
    store, layout = planned(tmp_path, rows)
    if missing:
        store.delete(index_path(layout.parts[1]))
    index = PlanIndex.read(store, layout, SEED)
    for image_id in [*(f"r{n}_00" for n in range(60)), "r1_01", "nobody", "_00", ""]:
        assert index.shards_of(image_id) == found(store, layout, image_id), image_id
