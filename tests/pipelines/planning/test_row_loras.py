"""The columns `lora` and `lora_scale`: what is allowed, and how images are planned."""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.plans import MODEL, images_by_id, job, planned, problems_of_rows, write

from nightpress.diffusion_core.sampling.request import SamplingParams
from nightpress.pipelines.planning import PlanLayout, check, read_shard, units
from nightpress.pipelines.shards.batching import PlannedImage, batches, planned_images
from nightpress.pipelines.storage import Store

INK = {"source": "/loras/ink.safetensors", "scale": 0.8}
LORAS = {"row_loras": [INK, {"source": "studio/clay@v1"}]}

Adapter = tuple[str | None, float | None]


def loras_of(tmp_path: Path, *rows: dict[str, Any], suffix: str = ".jsonl") -> list[Adapter]:
    """The plan's values for each row, in the manifest's order."""
    manifest = write(tmp_path / f"m{suffix}", rows)
    _, plan = planned(job(tmp_path, manifest, model=LORAS))
    images = images_by_id(plan)
    return [(images[name]["lora"], images[name]["lora_scale"]) for name in sorted(images)]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".csv", ".tsv"])
def test_a_row_gets_its_lora_with_its_own_scale_or_the_loras(tmp_path: Path, suffix: str) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": "a", "lora": "ink", "lora_scale": None},
        {"prompt": "b", "lora": "clay", "lora_scale": 0.25},
        {"prompt": "c", "lora": None, "lora_scale": None},
        {"prompt": "d", "lora": "", "lora_scale": None},
        {"prompt": "e", "lora": " ink ", "lora_scale": -1.5},
        {"prompt": "f", "lora": "clay", "lora_scale": None},
        {"prompt": "g", "lora": "ink", "lora_scale": 0.0},
    ]
    assert loras_of(tmp_path, *rows, suffix=suffix) == [
        ("ink", 0.8),
        ("clay", 0.25),
        (None, None),
        (None, None),
        ("ink", -1.5),
        ("clay", 1.0),
        ("ink", 0.0),
    ]


def test_row_loras_without_a_lora_column_are_not_used(tmp_path: Path) -> None:
    assert loras_of(tmp_path, {"prompt": "a"}, {"prompt": "b"}) == [(None, None)] * 2


def test_an_empty_lora_column_is_fine_in_a_job_without_loras(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "lora": None}, {"prompt": "b", "lora": " "}]
    _, plan = planned(job(tmp_path, write(tmp_path / "m.jsonl", rows)))
    assert plan["lora"].null_count == 2


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (
            {"lora": "oil"},
            "column lora: model.row_loras has no LoRA 'oil'; choose one of: ink, clay",
        ),
        ({"lora_scale": 0.5}, "column lora_scale: the scale is 0.5, but the row has no LoRA"),
        (
            {"lora": "", "lora_scale": 1},
            "column lora_scale: the scale is 1, but the row has no LoRA",
        ),
        (
            {"lora": "ink", "lora_scale": float("inf")},
            "column lora_scale: inf is not a finite number",
        ),
        ({"lora": "ink", "lora_scale": "much"}, "column lora_scale: 'much' is not a number"),
        ({"lora": 7}, "column lora: its type is int64, but lora must be text"),
    ],
)
def test_invalid_loras_are_reported(tmp_path: Path, row: dict[str, Any], problem: str) -> None:
    (found,) = problems_of_rows(tmp_path, {"prompt": "p", **row}, model=LORAS)
    assert found.endswith(problem)


def test_naming_a_lora_in_a_job_without_loras_is_reported(tmp_path: Path) -> None:
    assert problems_of_rows(tmp_path, {"prompt": "p", "lora": "ink"}) == [
        "m.jsonl, line 1, column lora: LoRA 'ink' cannot be used, because the job has no "
        "model.row_loras"
    ]


def test_lora_columns_can_be_mapped_and_coded(tmp_path: Path) -> None:
    columns = {
        "lora": {"column": "style", "values": {0: "", 1: "ink", 2: "clay"}},
        "lora_scale": "strength_of_style",
    }
    rows = [
        {"prompt": "a", "style": 2, "strength_of_style": 0.5},
        {"prompt": "b", "style": 0, "strength_of_style": None},
        {"prompt": "c", "style": 1, "strength_of_style": None},
    ]
    manifest = write(tmp_path / "m.jsonl", rows)
    _, plan = planned(job(tmp_path, manifest, model=LORAS, columns=columns))
    assert {row["id"][-1]: (row["lora"], row["lora_scale"]) for row in plan.to_pylist()} == {
        "0": ("clay", 0.5),
        "1": (None, None),
        "2": ("ink", 0.8),
    }
    unread = {"lora": None, "lora_scale": None}
    other = write(tmp_path / "o.jsonl", [{"prompt": "a", "lora": "a saint", "lora_scale": "x"}])
    _, plan = planned(job(tmp_path, other, columns=unread, name="other"))
    assert plan["manifest_lora"].to_pylist() == ["a saint"]
    assert plan["lora"].to_pylist() == [None]


def test_a_file_name_can_contain_the_lora(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "lora": "ink"}, {"prompt": "b"}]
    spec = job(
        tmp_path,
        write(tmp_path / "m.jsonl", rows),
        model=LORAS,
        images={"file_name": "{lora}-{lora_scale}-{image_id}.png"},
    )
    files = {row["id"][-1]: row["file"] for row in planned(spec)[1].to_pylist()}
    assert files == {"0": "images/ink-0.8-00000000_00.png", "1": "images/_-_-00000001_00.png"}


def mixed(num_rows: int, seed: int = 3) -> list[dict[str, Any]]:
    """Rows with two sizes, two samplers, and two LoRAs or none, in random order."""
    random = np.random.default_rng(seed)
    return [
        {
            "prompt": f"p{n}",
            "width": int(random.choice([64, 128])),
            "scheduler": str(random.choice(["ddim", "euler"])),
            "lora": [None, "ink", "clay"][random.integers(3)],
        }
        for n in range(num_rows)
    ]


def adapters(images: list[PlannedImage]) -> list[Adapter]:
    """The LoRAs of consecutive images, without repetitions."""
    loras = [(image.lora, image.lora_scale) for image in images]
    return [loras[0], *(now for before, now in pairwise(loras) if now != before)]


def plan_of(folder: Path, rows: list[dict[str, Any]], size: int) -> list[PlannedImage]:
    manifest = write(folder / "m.jsonl", rows)
    return planned_images(planned(job(folder, manifest, model=LORAS), MODEL, size)[1])


def test_a_part_goes_through_the_loras_once_and_back_with_the_leftovers(
    tmp_path: Path,
) -> None:
    images = plan_of(tmp_path, mixed(300), 8)
    none, ink, clay = (None, None), ("ink", 0.8), ("clay", 1.0)
    assert adapters(images) == [none, ink, clay, ink, none]
    whole = [dict(row, lora=lora) for row in mixed(8) for lora in (None, "ink", "clay")]
    same = [row | {"width": 64, "scheduler": "ddim"} for row in whole]
    (tmp_path / "whole").mkdir()
    assert adapters(plan_of(tmp_path / "whole", same, 8)) == [none, ink, clay]


def test_over_many_shards_a_part_switches_to_a_lora_at_most_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "MAX_PART_IMAGES", 150)
    manifest = write(tmp_path / "m.jsonl", mixed(450))
    spec = job(tmp_path, manifest, model=LORAS, batch={"shard_size": 16})
    layout, plan = planned(spec, MODEL, 8)
    assert len(layout.parts) == 3
    assert layout.num_shards > 25
    made = [
        batch[0]
        for shard in range(layout.num_shards)
        for batch in batches(
            planned_images(read_shard(Store(spec.url), layout, shard)), lambda image: 8
        )
    ]
    begun = Counter(adapters(made))
    assert max(begun.values()) <= 2 * len(layout.parts)
    assert sum(begun.values()) <= 5 * len(layout.parts)
    assert len(plan) == 450


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=40))
def test_a_shard_switches_to_each_lora_once(rows: list[tuple[int, int]]) -> None:
    images = [
        PlannedImage(
            image_id=f"{n}_00",
            id=str(n),
            variant=0,
            shard=0,
            file=f"images/{n}_00.png",
            prompt="p",
            negative_prompt="",
            seed=n,
            width=64 + 8 * size,
            height=64,
            num_inference_steps=2,
            guidance_scale=3.0,
            scheduler="ddim",
            lora=[None, "ink", "clay"][lora],
            lora_scale=[None, 0.8, 1.0][lora],
        )
        for n, (lora, size) in enumerate(rows)
    ]
    made = list(batches(images, lambda image: 4))
    assert sorted(image.seed for batch in made for image in batch) == list(range(len(rows)))
    assert all(len({image.params for image in batch}) == 1 for batch in made)
    taken_up = adapters([batch[0] for batch in made])
    assert len(taken_up) == len(set(taken_up))


def test_settings_that_differ_only_in_the_lora_are_counted_separately(tmp_path: Path) -> None:
    rows = [
        {"prompt": "a", "lora": "ink"},
        {"prompt": "b", "lora": "ink", "lora_scale": 0.5, "num_images": 2},
        {"prompt": "c"},
    ]
    layout = check(job(tmp_path, write(tmp_path / "m.jsonl", rows), model=LORAS), MODEL)
    counts = {(e.settings.lora, e.settings.lora_scale): e.num_images for e in layout.batches}
    assert counts == {("ink", 0.8): 1, ("ink", 0.5): 2, (None, None): 1}
    assert PlanLayout.from_dict(json.loads(json.dumps(layout.as_dict()))) == layout


def test_the_layout_of_an_older_run_is_read(tmp_path: Path) -> None:
    layout = check(job(tmp_path, write(tmp_path / "m.jsonl", [{"prompt": "a"}])), MODEL)
    values = json.loads(json.dumps(layout.as_dict()))
    for each in values["batches"]:
        del each["lora"], each["lora_scale"]
    again = PlanLayout.from_dict(values)
    assert again == layout
    assert again.batches[0].settings == SamplingParams(128, 96, 20, 4.5, "default", None, None)
