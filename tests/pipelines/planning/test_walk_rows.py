"""Rows of a walk: each starts at what its job would make, and ends where the next one starts."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from support.plans import MODEL, images_by_id, job, planned, write

from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.pipelines.errors import ManifestError, SpecError
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.planning import check, walk_rows

ROWS = (
    {"id": "a", "prompt": "a cat", "width": 64, "mood": "calm", "priority": 2},
    {"id": "b", "prompt": "a dog", "seed": 7, "negative_prompt": "blurry", "guidance_scale": 3},
    {"id": "c", "prompt": "a fox", "scheduler": "euler", "num_images": 3},
)


WITH_PICTURES = replace(MODEL, modes=("text", "image"), default_strengths=(("image", 0.8),))


def rows_of(spec: RunSpec, to_seed: int | None = None, info: ModelInfo = MODEL) -> pa.Table:
    return walk_rows.walk_rows(spec, info, check(spec, info), to_seed)


def test_each_row_ends_at_the_prompt_and_the_seed_of_the_next(tmp_path: Path) -> None:
    spec = job(tmp_path, write(tmp_path / "m.jsonl", ROWS), seed=5)
    images = images_by_id(planned(spec)[1])
    firsts = [images[f"{name}_00"] for name in "abc"]
    found = rows_of(spec).to_pylist()
    assert len(found) == 2
    for row, (start, end) in zip(found, pairwise(firsts), strict=True):
        assert (row["prompt"], row["seed"]) == (start["prompt"], start["seed"])
        assert (row["to_prompt"], row["to_seed"]) == (end["prompt"], end["seed"])
        for name in ("id", "width", "height", "negative_prompt", "guidance_scale", "scheduler"):
            assert row[name] == start[name], name
    assert [row["mood"] for row in found] == ["calm", None]
    assert [row["priority"] for row in found] == [2, None]


def test_a_walk_to_one_seed_keeps_every_prompt(tmp_path: Path) -> None:
    spec = job(tmp_path, write(tmp_path / "m.jsonl", ROWS))
    found = rows_of(spec, to_seed=99).to_pylist()
    assert [(row["prompt"], row["to_seed"]) for row in found] == [
        ("a cat", 99),
        ("a dog", 99),
        ("a fox", 99),
    ]
    assert "to_prompt" not in found[0]


def test_the_rows_of_a_walk_are_a_manifest_of_clips_that_start_at_the_jobs_images(
    tmp_path: Path,
) -> None:
    named = {"columns": {"prompt": "text", "seed": None}}
    rows = [{"text": f"number {n}", "seed": f"not a seed {n}", "mood": n} for n in range(4)]
    spec = job(tmp_path, write(tmp_path / "m.jsonl", rows), **named)
    images = images_by_id(planned(spec)[1])
    table = rows_of(spec)
    walks = job(
        tmp_path,
        write(tmp_path / "walks.jsonl", table.to_pylist()),
        name="walk",
        images={"format": "webp"},
        sampling={"num_frames": 9},
    )
    found = images_by_id(planned(walks)[1])
    assert list(found) == ["00000000_00", "00000001_00", "00000002_00"]
    for name, row in found.items():
        for column in ("prompt", "seed", "width", "num_inference_steps", "mood", "manifest_seed"):
            assert row[column] == images[name][column], column
        assert row["clip"]["num_frames"] == 9
    assert found["00000000_00"]["clip"]["to_seed"] == images["00000001_00"]["seed"]


def test_passes_begin_again_at_the_size_that_they_began_at(tmp_path: Path) -> None:
    passes = [{"scale": 2, "strength": 0.5, "num_inference_steps": 10}]
    spec = job(tmp_path, write(tmp_path / "m.jsonl", ROWS[:2]), passes=passes)
    assert rows_of(spec, info=WITH_PICTURES).column("width").to_pylist() == [64]


def test_one_row_is_refused_unless_there_is_a_seed_to_walk_to(tmp_path: Path) -> None:
    spec = job(tmp_path, write(tmp_path / "m.jsonl", ROWS[:1]))
    with pytest.raises(SpecError, match=r"one row.*--to-seed"):
        rows_of(spec)
    assert len(rows_of(spec, to_seed=1)) == 1


def test_too_many_rows_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk_rows, "MAX_ROWS", 2)
    with pytest.raises(SpecError, match="3 rows; at most 2"):
        rows_of(job(tmp_path, write(tmp_path / "m.jsonl", ROWS)))


def test_a_row_with_pictures_is_refused_with_its_number(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"prompt": "a"}, {"prompt": "b", "init_image": "b.png"}]
    spec = job(tmp_path, write(tmp_path / "m.jsonl", rows), inputs={"check": "none"})
    with pytest.raises(ManifestError, match=r"row 1 .*it has pictures"):
        rows_of(spec, info=WITH_PICTURES)
