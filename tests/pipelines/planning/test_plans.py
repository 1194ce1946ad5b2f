"""What holds for every plan, whatever the manifest's format, files and order."""

import json
import pickle
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.plans import MODEL, encoded, images_by_id, job, manifest_changes, planned, write
from support.servers import Folder

from nightpress.diffusion_core.sampling.request import SamplingParams
from nightpress.pipelines.errors import ManifestError, StoreMissing
from nightpress.pipelines.job.spec import MAX_SEED, RunSpec
from nightpress.pipelines.planning import (
    PlanLayout,
    check,
    plan_part,
    read_shard,
    units,
    write_plan,
)
from nightpress.pipelines.records import PLAN_SCHEMA
from nightpress.pipelines.storage import Store

SEEDS = {"x_00": 188829763795983, "x_01": 3732687549306328, "y_00": 579933494510407}

FORMATS = (".parquet", ".csv", ".tsv", ".jsonl")

CHARACTERS = st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufeff")
TEXT = st.text(CHARACTERS | st.sampled_from("\t\n\r"), min_size=1).filter(str.strip)

ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "prompt": TEXT,
            "negative_prompt": TEXT,
            "note": st.text(CHARACTERS, min_size=1),
        }
    ),
    min_size=1,
    max_size=8,
)


def test_a_row_becomes_an_image_with_every_setting_filled_in(tmp_path: Path) -> None:
    layout, plan = planned(job(tmp_path, write(tmp_path / "m.jsonl", [{"prompt": "a cat"}])))
    assert plan.schema == PLAN_SCHEMA
    (row,) = plan.to_pylist()
    assert 0 <= row.pop("seed") <= MAX_SEED
    assert row == {
        "image_id": "00000000_00",
        "id": "00000000",
        "variant": 0,
        "shard": 0,
        "file": "images/00000000_00.png",
        "prompt": "a cat",
        "negative_prompt": "",
        "width": 128,
        "height": 96,
        "num_inference_steps": 20,
        "guidance_scale": 4.5,
        "scheduler": "default",
        "lora": None,
        "lora_scale": None,
        "conditioning": None,
        "inputs": None,
        "passes": None,
        "parent": None,
        "clip": None,
    }
    assert (layout.num_rows, layout.num_images, layout.num_shards) == (1, 1, 1)


def test_derived_seeds_never_change(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "id": "x", "num_images": 2}, {"prompt": "b", "id": "y"}]
    _, plan = planned(job(tmp_path, write(tmp_path / "m.jsonl", rows), seed=7))
    assert dict(zip(plan["image_id"].to_pylist(), plan["seed"].to_pylist(), strict=True)) == SEEDS


def test_variants_count_up_from_the_seed_of_their_row(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "seed": 40, "num_images": 120}, {"prompt": "b", "num_images": 2}]
    _, plan = planned(job(tmp_path, write(tmp_path / "m.jsonl", rows)))
    images = images_by_id(plan)
    assert len(images) == 122
    assert images["00000000_00"]["seed"] == 40
    assert images["00000000_07"]["seed"] == 47
    assert images["00000000_119"]["seed"] == 159
    assert images["00000001_00"]["seed"] != images["00000001_01"]["seed"]


def test_the_runs_seed_changes_derived_seeds_only(tmp_path: Path) -> None:
    manifest = write(tmp_path / "m.jsonl", [{"prompt": "a", "seed": 5}, {"prompt": "b"}])
    _, one = planned(job(tmp_path / "1", manifest, seed=1))
    _, two = planned(job(tmp_path / "2", manifest, seed=2))
    assert one["seed"][0] == two["seed"][0]
    assert one["seed"][1] != two["seed"][1]


@settings(deadline=None, max_examples=25)
@given(ROWS)
def test_every_format_gives_the_same_plan(rows: list[dict[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        plans = [
            planned(job(Path(folder) / suffix, write(Path(folder) / f"m{suffix}", rows)))[1]
            for suffix in FORMATS
        ]
    assert [plan.to_pylist() for plan in plans[1:]] == [plans[0].to_pylist()] * 3
    assert plans[0]["prompt"].to_pylist() == [row["prompt"] for row in rows]
    assert plans[0]["negative_prompt"].to_pylist() == [row["negative_prompt"] for row in rows]
    assert plans[0]["note"].to_pylist() == [row["note"] for row in rows]


@settings(deadline=None, max_examples=25)
@given(st.sets(TEXT.filter(lambda text: len(text.encode()) <= 200), min_size=1, max_size=6))
def test_any_text_is_an_id(ids: set[str]) -> None:
    rows = [{"id": id_, "prompt": f"prompt of {id_}"} for id_ in sorted(ids)]
    with tempfile.TemporaryDirectory() as folder:
        template = {"file_name": "{image_id}-{seed}.png"}  # sanitised ids alone may meet
        manifest = write(Path(folder) / "m.parquet", rows)
        _, plan = planned(job(Path(folder), manifest, images=template))
    assert plan["id"].to_pylist() == sorted(ids)
    assert plan["image_id"].to_pylist() == [f"{id_}_00" for id_ in sorted(ids)]


def test_a_prompt_may_be_long(tmp_path: Path) -> None:
    prompt = "a very long prompt, " * 500
    for suffix in FORMATS:
        rows = [{"prompt": prompt, "num_images": 3}]
        _, plan = planned(job(tmp_path / suffix, write(tmp_path / f"m{suffix}", rows)))
        assert plan["prompt"].to_pylist() == [prompt] * 3


@pytest.mark.parametrize("suffix", FORMATS)
def test_splitting_the_rows_into_other_files_changes_no_image(tmp_path: Path, suffix: str) -> None:
    rows = [{"prompt": f"prompt {n}", "num_images": 1 + n % 3, "n": f"{n}"} for n in range(20)]
    whole = write(tmp_path / f"whole{suffix}", rows)
    pieces = [
        write(tmp_path / "parts" / f"{start:02d}{suffix}", rows[start : start + 7])
        for start in (0, 7, 14)
    ]
    _, one = planned(job(tmp_path / "one", whole))
    _, many = planned(job(tmp_path / "many", pieces))
    folder = job(tmp_path / "folder", tmp_path / "parts")
    glob = job(tmp_path / "glob", tmp_path / "parts" / f"*{suffix}")
    assert one.to_pylist() == many.to_pylist()
    assert one.to_pylist() == planned(folder)[1].to_pylist()
    assert one.to_pylist() == planned(glob)[1].to_pylist()


@pytest.mark.parametrize("suffix", [*FORMATS, ".txt"])
def test_the_sizes_of_blocks_units_and_parts_change_no_image(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"prompt": f"prompt {n}", "num_images": 1 + n % 3} for n in range(300)]
    if suffix == ".txt":
        rows = [{"prompt": row["prompt"]} for row in rows]
    manifest = write(tmp_path / f"m{suffix}", rows)
    if suffix == ".parquet":
        pq.write_table(pq.read_table(manifest), manifest, row_group_size=64)
    _, whole = planned(job(tmp_path / "whole", manifest))
    monkeypatch.setattr(units, "MAX_PART_IMAGES", 50)
    monkeypatch.setattr("nightpress.pipelines.manifest.text.BLOCK_BYTES", 500)
    monkeypatch.setattr("nightpress.pipelines.manifest.parquet.BATCH_ROWS", 30)
    layout, cut_into_shards = planned(job(tmp_path / "cut", manifest))
    assert len(layout.parts) > 5
    assert max(part.num_images for part in layout.parts) <= 50
    assert images_by_id(cut_into_shards, "shard") == images_by_id(whole, "shard")


@pytest.mark.parametrize("suffix", [".csv.gz", ".tsv.zst", ".jsonl.bz2", ".txt.gz"])
def test_compressed_text_can_be_read_from_the_middle(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nightpress.pipelines.manifest.text.BLOCK_BYTES", 200)
    monkeypatch.setattr(units, "MAX_PART_IMAGES", 10)
    rows = [{"prompt": f"prompt {n}"} for n in range(60)]
    plain, compression = suffix.rsplit(".", 1)
    name = {"gz": "gzip", "zst": "zstd", "bz2": "bz2"}[compression]
    with pa.CompressedOutputStream(str(tmp_path / f"m{suffix}"), name) as stream:
        stream.write(encoded(plain, rows))
    layout, plan = planned(job(tmp_path, tmp_path / f"m{suffix}"))
    assert len(layout.parts) >= 6
    assert plan["prompt"].to_pylist() == [row["prompt"] for row in rows]


def test_images_with_equal_settings_are_adjacent_and_in_row_order(tmp_path: Path) -> None:
    rows = [
        {
            "prompt": "p",
            "width": [64, 128][n % 2],
            "scheduler": ["euler", "ddim"][n // 2 % 2],
            "guidance_scale": [1, 7.5, 3][n % 3],
        }
        for n in range(60)
    ]
    layout, plan = planned(job(tmp_path, write(tmp_path / "m.jsonl", rows)))
    keys = [
        tuple(
            row[name]
            for name in SamplingParams.__dataclass_fields__
            if name not in ("conditioning", "passes", "num_frames", "fps")
        )
        for row in plan.to_pylist()
    ]
    runs = [key for key, before in zip(keys, [None, *keys[:-1]], strict=True) if key != before]
    assert len(runs) == len(set(runs)) == len(layout.batches) == 12
    assert {each.settings: each.num_images for each in layout.batches} == {
        SamplingParams(*key): keys.count(key) for key in runs
    }
    for key in runs:
        ids = [row["id"] for row, own in zip(plan.to_pylist(), keys, strict=True) if own == key]
        assert ids == sorted(ids)


def test_a_layouts_cost_ratio_counts_pixels_and_steps(tmp_path: Path) -> None:
    rows = [
        {"prompt": "p", "width": 64, "height": 128, "num_inference_steps": 10},
        {"prompt": "p", "width": 256, "height": 64, "num_inference_steps": 30},
    ]
    layout, _ = planned(job(tmp_path, write(tmp_path / "m.jsonl", rows)))
    assert layout.cost_ratio == 6.0
    assert PlanLayout((), 1, (), ()).cost_ratio == 1.0


def test_shards_are_numbered_over_the_parts_and_cover_every_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "MAX_PART_IMAGES", 25)
    rows = [{"prompt": f"prompt {n}"} for n in range(60)]
    manifest = write(tmp_path / "m.csv", rows)
    layout, plan = planned(job(tmp_path, manifest, batch={"shard_size": 7}))
    store = Store(str(tmp_path / "out" / "run"))
    assert [part.num_shards for part in layout.parts] == [4, 4, 2]
    sizes = [layout.shard_images(shard) for shard in range(layout.num_shards)]
    assert sizes == [7, 7, 7, 4, 7, 7, 7, 4, 7, 3]
    for shard, size in enumerate(sizes):
        assert read_shard(store, layout, shard)["shard"].to_pylist() == [shard] * size
    assert plan["id"].to_pylist() == [f"{n:08d}" for n in range(60)]
    with pytest.raises(IndexError, match="shard 10 does not exist; the plan has 10 shards"):
        read_shard(store, layout, 10)


def test_a_shard_is_read_from_its_own_row_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nightpress.pipelines.planning.layout.ROW_GROUP_IMAGES", 20)
    rows = [{"prompt": f"prompt {n}"} for n in range(70)]
    manifest = write(tmp_path / "m.csv", rows)
    layout, plan = planned(job(tmp_path, manifest, batch={"shard_size": 6}))
    path = tmp_path / "out" / "run" / layout.parts[0].path
    assert layout.row_group_size == 18
    assert pq.ParquetFile(path).num_row_groups == 4
    assert plan["prompt"].to_pylist() == [row["prompt"] for row in rows]


@pytest.mark.parametrize(
    ("num_images", "batch_size", "shard_size"),
    [
        (1, 1, 16),
        (1, 12, 24),
        (8192, 4, 32),
        (8192, 12, 36),
        (300_000, 8, 1024),
        (300_000, 6, 1026),
    ],
)
def test_an_automatic_shard_size_is_a_multiple_of_the_batch(
    tmp_path: Path, num_images: int, batch_size: int, shard_size: int
) -> None:
    count = -(-num_images // 100_000)
    rows = [{"prompt": "p", "num_images": num_images // count}] * count
    layout = check(job(tmp_path, write(tmp_path / "m.parquet", rows)), MODEL, batch_size)
    assert layout.num_images == num_images
    assert layout.shard_size == shard_size


def test_packed_shards_are_smaller_unless_the_job_says_so(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "num_images": 100_000}] * 3
    manifest = write(tmp_path / "m.parquet", rows)
    packed = {"images": {"packing": "parquet"}}
    assert check(job(tmp_path, manifest, **packed), MODEL, 6).shard_size == 258
    fixed = job(tmp_path, manifest, **packed, batch={"shard_size": 900})
    assert check(fixed, MODEL, 6).shard_size == 900


def test_one_row_can_have_a_hundred_thousand_images(tmp_path: Path) -> None:
    rows = [{"prompt": "p" * 10_000, "num_images": 100_000, "note": "n"}] * 2
    spec = job(tmp_path, write(tmp_path / "m.parquet", rows))
    layout, store = check(spec, MODEL), Store(spec.url)
    list(write_plan(spec, MODEL, layout, store))
    assert [part.num_images for part in layout.parts] == [100_000, 100_000]
    assert sum(store.list("plan").values()) < 8_000_000
    last = read_shard(store, layout, layout.num_shards - 1)
    assert last["image_id"][-1].as_py() == "00000001_99999"
    assert last["prompt"][-1].as_py() == "p" * 10_000


def test_planning_again_writes_nothing(tmp_path: Path) -> None:
    spec = job(tmp_path, write(tmp_path / "m.csv", [{"prompt": "p"}]))
    layout, store = check(spec, MODEL), Store(spec.url)
    assert list(write_plan(spec, MODEL, layout, store)) == ["plan/part-00000.parquet"]
    assert list(write_plan(spec, MODEL, layout, store)) == []


def test_planning_resumes_where_it_stopped_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "MAX_PART_IMAGES", 25)
    rows = [
        {"prompt": f"prompt {n}", "num_images": 2, "width": 64 + 8 * (n % 2)} for n in range(60)
    ]
    manifest = write(tmp_path / "m.parquet", rows)
    whole, torn = (job(tmp_path / name, manifest) for name in ("whole", "torn"))
    layout, _ = planned(whole)
    assert Store(torn.url).create(layout.parts[3].path, Store(whole.url).read(layout.parts[3].path))
    assert len(list(write_plan(torn, MODEL, layout, Store(torn.url)))) == len(layout.parts) - 1
    for part in layout.parts:
        assert Store(torn.url).read(part.path) == Store(whole.url).read(part.path)


def test_a_part_computed_in_memory_equals_the_written_one(tmp_path: Path) -> None:
    rows = [{"prompt": f"prompt {n}", "num_images": 2, "note": f"n{n}"} for n in range(9)]
    spec = job(tmp_path, write(tmp_path / "m.parquet", rows))
    layout, plan = planned(spec)
    assert plan_part(spec, MODEL, layout, 0) == plan.combine_chunks()


def test_a_layout_survives_json(tmp_path: Path) -> None:
    rows = [{"prompt": f"prompt {n}", "score": n / 2} for n in range(9)]
    spec = job(
        tmp_path,
        [write(tmp_path / "a.parquet", rows), write(tmp_path / "b.csv", rows)],
    )
    layout, plan = planned(spec)
    again = PlanLayout.from_dict(json.loads(json.dumps(layout.as_dict())))
    assert again == layout
    assert plan_part(spec, MODEL, again, 0) == plan.combine_chunks()


def test_checking_writes_nothing(tmp_path: Path) -> None:
    check(job(tmp_path, write(tmp_path / "m.csv", [{"prompt": "p"}])), MODEL)
    assert [path.name for path in tmp_path.iterdir()] == ["m.csv"]


def test_a_mapper_gets_picklable_calls(tmp_path: Path) -> None:
    def mapper(function: Any, calls: Any) -> Any:
        for call in calls:
            sent = pickle.loads(pickle.dumps((function, call)))
            yield pickle.loads(pickle.dumps(sent[0](sent[1])))

    rows = [{"prompt": f"prompt {n}", "id": f"{n}"} for n in range(9)]
    spec = job(tmp_path, write(tmp_path / "m.parquet", rows))
    layout = check(spec, MODEL, 1, mapper)
    assert layout == check(spec, MODEL)
    assert list(write_plan(spec, MODEL, layout, Store(spec.url), mapper))
    assert read_shard(Store(spec.url), layout, 0).num_rows == 9


def test_a_manifest_that_changed_since_it_was_checked_is_not_planned(tmp_path: Path) -> None:
    manifest = write(tmp_path / "m.csv", [{"prompt": f"prompt {n}"} for n in range(9)])
    spec = job(tmp_path, manifest)
    layout = check(spec, MODEL)
    write(manifest, [{"prompt": "other"}])
    with pytest.raises(ManifestError, match="changed since it was checked"):
        list(write_plan(spec, MODEL, layout, Store(spec.url)))


def test_a_row_too_large_for_a_part_gets_its_own_part() -> None:
    images = np.array([10, 100_000, 100_000, 1, 1])
    num_bytes = np.array([1, 1, 1, 1 << 30, 1])
    assert units.split_into_parts(images, num_bytes) == [(2, 100_010), (1, 100_000), (1, 1), (1, 1)]


def test_a_missing_part_is_reported(tmp_path: Path) -> None:
    spec = job(tmp_path, write(tmp_path / "m.csv", [{"prompt": "p"}]))
    layout, _ = planned(spec)
    store = Store(spec.url)
    store.delete(layout.parts[0].path)
    with pytest.raises(StoreMissing, match=r"plan/part-00000\.parquet: not found"):
        read_shard(store, layout, 0)


def test_a_manifest_and_its_plan_can_be_on_s3(bucket: Folder, tmp_path: Path) -> None:
    rows = [{"prompt": f"prompt {n}", "num_images": 2} for n in range(50)]
    manifests = Store(f"{bucket.url}/prompts", bucket.options)
    for name, part in {"a.parquet": rows[:30], "b.csv": rows[30:]}.items():
        assert manifests.create(name, encoded(Path(name).suffix, part))
    far = RunSpec(
        name="run",
        manifest=[f"{manifests.url}/*.parquet", f"{manifests.url}/b.csv"],
        output=f"{bucket.url}/runs",
        storage=bucket.options,
    )
    near = job(
        tmp_path,
        [write(tmp_path / "a.parquet", rows[:30]), write(tmp_path / "b.csv", rows[30:])],
    )
    layout, plan = planned(far)
    assert plan == planned(near)[1]
    assert manifest_changes(layout, far) == []
    assert manifest_changes(layout, near) == []
