"""Images that are made again: taken back from the plan, with new variants and seeds."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from support.growing_runs import begin, cats
from support.plans import MODEL, job, write

from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.diffusion_core.models.lora_files import LoraInfo
from nightpress.diffusion_core.models.modes import modes_of
from nightpress.pipelines.errors import ManifestError
from nightpress.pipelines.hashing import derive_seeds, hash64
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.planning import PlanLayout, check, plan_part, write_plan
from nightpress.pipelines.planning.again_rows import check_rows_again
from nightpress.pipelines.planning.parents import FoundParents, find_parents
from nightpress.pipelines.run_directory.record import require_record
from nightpress.pipelines.storage import Store


def planned_again(
    spec: RunSpec,
    names: Sequence[str],
    num_images: int = 1,
    info: ModelInfo = MODEL,
    layout: PlanLayout | None = None,
    **settings: Any,
) -> list[dict[str, Any]]:
    """The plan of other variants of some images of a run, by image id."""
    store = Store(spec.url)
    layout = layout or require_record(store).layout
    found = find_parents(store, layout, names, num_images)
    assert found.unknown == ()
    rows = check_rows_again(spec, info, layout, store, found.parents, num_images, settings)
    kept = rows.kept(store, "editions/0001-rows-")
    parts = [plan_part(spec, info, kept, n) for n in range(len(kept.parts))]
    table = pa.concat_tables(parts, promote_options="default")
    return table.sort_by("image_id").to_pylist()


def test_new_variants_follow_the_highest_and_name_their_parent(tmp_path: Path) -> None:
    spec = begin(tmp_path, cats(1, 2, 3, num_images=2, mood="calm"))
    rows = planned_again(spec, ["r2_01", "r3"], 2)
    assert [(row["image_id"], row["parent"]) for row in rows] == [
        ("r2_02", "r2_01"),
        ("r2_03", "r2_01"),
        ("r3_02", "r3_00"),
        ("r3_03", "r3_00"),
    ]
    assert {row["prompt"] for row in rows} == {"cat 2", "cat 3"}
    assert {row["mood"] for row in rows} == {"calm"}
    assert [row["file"] for row in rows[:1]] == ["images/r2_02.png"]


def test_two_images_of_one_row_give_variants_one_after_the_other(tmp_path: Path) -> None:
    spec = begin(tmp_path, cats(1, num_images=3))
    rows = planned_again(spec, ["r1_02", "r1_00", "r1_02"], 2)
    assert [(row["image_id"], row["parent"]) for row in rows] == [
        ("r1_03", "r1_02"),
        ("r1_04", "r1_02"),
        ("r1_05", "r1_00"),
        ("r1_06", "r1_00"),
    ]


def test_seeds_are_those_of_any_new_variant(tmp_path: Path) -> None:
    rows = [
        {"id": "own", "prompt": "a", "seed": 100, "num_images": 2},
        {"id": "none", "prompt": "b", "seed": None, "num_images": 2},
    ]
    spec = begin(tmp_path, rows, seed=5)
    none, own = planned_again(spec, ["own_01", "none_01"])
    assert (own["image_id"], own["seed"]) == ("own_02", 102)
    derived = derive_seeds(hash64(pa.array(["none"]), 5), np.array([2]))
    assert (none["image_id"], none["seed"]) == ("none_02", int(derived[0]))


def test_a_manifest_that_would_have_had_more_images_gives_the_same_rows(tmp_path: Path) -> None:
    """Making r1 again twice is the same as having asked for two more images at first."""
    few = begin(tmp_path / "few", cats(1, 2, width=64))
    again = planned_again(few, ["r1"], 2)
    many = begin(tmp_path / "many", cats(1, 2, width=64, num_images=3))
    layout = require_record(Store(many.url)).layout
    images = {row["image_id"]: row for row in plan_part(many, MODEL, layout, 0).to_pylist()}
    for row in again:
        same = images[row["image_id"]] | {"parent": "r1_00", "shard": row["shard"]}
        assert row == same


def test_settings_that_are_given_differ_and_no_others(tmp_path: Path) -> None:
    rows = cats(1, width=64, guidance_scale=7.5, num_inference_steps=9, scheduler="euler")
    spec = begin(tmp_path, rows)
    (plain,) = planned_again(spec, ["r1"])
    (other,) = planned_again(spec, ["r1"], guidance_scale=2, scheduler="ddim", width=128)
    different = {name for name in plain if plain[name] != other[name]}
    assert different == {"guidance_scale", "scheduler", "width"}
    assert (other["guidance_scale"], other["scheduler"], other["width"]) == (2.0, "ddim", 128)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"width": 100}, "image r1_00, column width: 100 is not a multiple of 8"),
        ({"scheduler": "eular"}, "image r1_00, column scheduler: there is no sampler 'eular'"),
        ({"guidance_scale": "much"}, "image r1_00, column guidance_scale: 'much' is not a number"),
        ({"strength": 0.5}, "image r1_00, column strength: the strength is 0.5, but the row has n"),
        ({"lora": "ink"}, "image r1_00, column lora: LoRA 'ink' cannot be used"),
        ({"scheduler": 3}, "the chosen images, column scheduler: its type is int64"),
    ],
)
def test_settings_that_a_row_cannot_have_are_refused_by_image_and_column(
    tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    spec = begin(tmp_path, cats(1))
    with pytest.raises(ManifestError) as caught:
        planned_again(spec, ["r1"], **settings)
    assert said in str(caught.value)


def test_mapped_names_and_codes_are_taken_back_as_what_they_mean(tmp_path: Path) -> None:
    rows = [
        {"key": 7, "text": "a cat", "sampler": 3, "w": 64, "width": "wide", "prompt": "old"},
        {"key": 8, "text": "a dog", "sampler": 1, "w": 72, "width": None, "prompt": None},
    ]
    columns = {
        "id": "key",
        "prompt": "text",
        "width": "w",
        "scheduler": {"column": "sampler", "values": {1: "ddim", 3: "euler"}},
    }
    spec = begin(tmp_path, rows, columns=columns)
    (row,) = planned_again(spec, ["7"])
    assert (row["id"], row["prompt"], row["scheduler"], row["width"]) == ("7", "a cat", "euler", 64)
    assert (row["manifest_width"], row["manifest_prompt"]) == ("wide", "old")


def test_priorities_and_the_order_of_the_job_are_kept(tmp_path: Path) -> None:
    rows = [{"id": f"r{n}", "prompt": "p", "priority": n, "score": -n} for n in range(4)]
    spec = begin(tmp_path, rows, batch={"order": ["score"]})
    store = Store(spec.url)
    layout = require_record(store).layout
    found = find_parents(store, layout, ["r0", "r3", "r2"], 1)
    checked = check_rows_again(spec, MODEL, layout, store, found.parents, 1, {})
    assert checked.layout.order == ("-priority", "+score")
    assert [row["priority"] for row in planned_again(spec, ["r0", "r3", "r2"])] == [0, 2, 3]


def test_a_run_whose_names_do_not_tell_variants_apart_is_refused(tmp_path: Path) -> None:
    spec = begin(tmp_path, cats(1, 2), images={"file_name": "{id}.png"})
    with pytest.raises(
        ManifestError, match=r"r1_01 would be the file 'images/r1\.png', but another"
    ):
        planned_again(spec, ["r1"])


def test_passes_are_taken_again_from_the_first_size(tmp_path: Path) -> None:
    info = replace(MODEL, modes=("text", "image"))
    passes = [{"scale": 1.5, "strength": 0.5, "num_inference_steps": 10}]
    path = write(tmp_path / "m.jsonl", cats(1, width=64, height=64))
    spec = job(tmp_path, path, passes=passes)
    layout = check(spec, info, 2)
    list(write_plan(spec, info, layout, Store(spec.url)))
    (row,) = planned_again(spec, ["r1"], info=info, layout=layout)
    assert (row["width"], row["height"]) == (96, 96)


def found(spec: RunSpec, *names: str) -> FoundParents:
    store = Store(spec.url)
    return find_parents(store, require_record(store).layout, names, 1)


def test_names_that_the_run_does_not_have_are_told(tmp_path: Path) -> None:
    spec = begin(tmp_path, cats(1, 2))
    looked_up = found(spec, "r1", "nobody", "r2_00", "r2_01", "")
    assert looked_up.unknown == ("nobody", "r2_01", "")
    assert looked_up.num_parents == 2


PICTURED = replace(
    MODEL,
    modes=modes_of("StableDiffusionPipeline", has_controls=True, has_references=True),
    controlnets=(LoraInfo("depth", "d" * 64, 0.9), LoraInfo("canny", "c" * 64, 1.0)),
    references=(LoraInfo("style", "s" * 64, 0.6),),
    width=64,
    height=64,
)

ADAPTERS = {
    "model": {
        "controlnets": [{"source": "a", "name": "depth"}, {"source": "b", "name": "canny"}],
        "references": [{"source": "c", "name": "style"}],
    },
    "inputs": {"check": "none"},
}


def test_pictures_scales_and_canvases_condition_the_new_images_too(tmp_path: Path) -> None:
    rows = [
        {"id": "text", "prompt": "p"},
        {"id": "image", "prompt": "p", "init_image": "a.png", "strength": 0.6},
        {"id": "plain", "prompt": "p", "init_image": "b.png"},
        {"id": "out", "prompt": "p", "init_image": "a.png", "canvas": [0, 8, 0, 8]},
        {"id": "mask", "prompt": "p", "init_image": "a.png", "mask_image": "m.png"},
        {"id": "one", "prompt": "p", "control_image": [None, "c.png"], "control_scale": 0.5},
        {"id": "both", "prompt": "p", "control_image": ["c.png", "d.png"]},
        {"id": "ref", "prompt": "p", "reference_image": ["e.png", "f.png"]},
        {"id": "scaled", "prompt": "p", "reference_image": ["e.png"], "reference_scale": 0.2},
    ]
    path = write(tmp_path / "m.jsonl", rows)
    spec = job(tmp_path, path, **ADAPTERS)
    layout = check(spec, PICTURED, 2)
    list(write_plan(spec, PICTURED, layout, Store(spec.url)))
    before = {row["id"]: row for row in plan_part(spec, PICTURED, layout, 0).to_pylist()}
    names = [row["id"] for row in rows]
    again = planned_again(spec, names, info=PICTURED, layout=layout)
    assert sorted(row["id"] for row in again) == sorted(names)
    for row in again:
        assert row["conditioning"] == before[row["id"]]["conditioning"]
        urls = [each["url"] for each in row["inputs"] or ()]
        assert urls == [each["url"] for each in before[row["id"]]["inputs"] or ()]
    (louder,) = planned_again(spec, ["both"], info=PICTURED, layout=layout, control_scale=0.3)
    assert '"control_scales":[0.3,0.3]' in louder["conditioning"]


def test_pictures_that_the_manifest_holds_are_kept_with_the_edition(tmp_path: Path) -> None:
    data = [b"\x89PNG one", None]
    table = pa.table({"id": ["a", "b"], "prompt": ["p", "q"], "init_image": pa.array(data)})
    import pyarrow.parquet as pq

    path = tmp_path / "m.parquet"
    pq.write_table(table, path)
    spec = job(tmp_path, path, inputs={"check": "none"})
    info = replace(MODEL, modes=("text", "image"))
    layout = check(spec, info, 2)
    list(write_plan(spec, info, layout, Store(spec.url)))
    path.unlink()
    one, other = planned_again(spec, ["a", "b"], info=info, layout=layout)
    assert [each["data"] for each in one["inputs"]] == [data[0]]
    assert other["inputs"] in (None, [])
