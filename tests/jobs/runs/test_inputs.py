"""Runs whose rows are made from pictures: relative paths, changed pictures, chained runs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.picture_files import png

from nightpress import jobs
from nightpress.jobs.progress.lines import event_line
from nightpress.jobs.runs.preview import sample_images
from nightpress.pipelines import open_run
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.planning import read_shard
from nightpress.pipelines.run_directory.commit import read_commit
from nightpress.pipelines.run_directory.reader import Run

ROWS = [
    {"prompt": "text alone"},
    *({"prompt": f"p{n}", "init_image": f"{n % 3}.png", "strength": 0.8} for n in range(5)),
    {"prompt": "inpaint", "init_image": "0.png", "mask_image": "mask.png", "strength": 1.0},
]


def put_pictures(folder: Path) -> None:
    for number in range(3):
        (folder / f"{number}.png").write_bytes(png(70 + number, 50, number))
    half = np.zeros((100, 140), np.uint8)
    half[:, :70] = 255
    Image.fromarray(half).save(folder / "mask.png")


def job(folder: Path, model: Path, name: str, rows: list[dict[str, Any]], **values: Any) -> RunSpec:
    manifest = folder / f"{name}.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return RunSpec.from_dict(
        {
            "name": name,
            "manifest": str(manifest),
            "output": str(folder / "runs"),
            "model": str(model),
            "sampling": {"num_inference_steps": 2, "width": 32, "height": 32},
            "batch": {"size": 2, "shard_size": 4},
            "cluster": {"actors": 1},
        }
        | values
    )


def outcomes(run: Run) -> dict[str, str]:
    """Prompt -> `ok`, or why it failed."""
    parts = [read_commit(run.store, shard).to_pylist() for shard in run.committed]
    return {row["prompt"]: row["error_type"] or "ok" for part in parts for row in part}


@pytest.mark.usefixtures("local_ray")
def test_a_run_finds_its_pictures_from_anywhere_and_notices_that_one_has_changed(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_pictures(tmp_path)
    monkeypatch.chdir(tmp_path)
    spec = job(tmp_path, tiny_model, "night", ROWS)
    samples = sample_images(spec, 7, by=["prompt"])
    assert jobs.run(spec).num_ok == 7
    run = open_run(spec.url)
    for sample in samples:
        assert np.array_equal(np.asarray(run.image(sample.image.image_id)), sample.pixels)
    assert run.spec.inputs.root == str(tmp_path)

    # A later start, from another folder, with a shard to make and another picture in its place.
    monkeypatch.chdir("/")
    run.store.delete("metadata/shard-00001.parquet")
    lost = [row for row in read_plan(run, 1) if row["inputs"]]
    for row in lost:
        run.store.delete(row["file"])
    changed = lost[0]["inputs"][0]["url"]
    (tmp_path / changed).write_bytes(png(70, 50, 99))
    jobs.run(spec)
    assert set(outcomes(run).values()) == {"ok", "InputChanged"}


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_a_run_with_pictures_is_retried_repaired_and_continued_by_another(
    tmp_path: Path, tiny_model: Path
) -> None:
    put_pictures(tmp_path)
    spec = job(tmp_path, tiny_model, "night", ROWS, inputs={"root": str(tmp_path)})
    (tmp_path / "1.png").rename(tmp_path / "later.png")
    (tmp_path / "1.png").write_bytes(b"<html></html>")
    assert jobs.run(spec).num_failed == 2
    run = open_run(spec.url)
    lost = [row for row in read_plan(run, 1) if row["inputs"] and "1.png" not in str(row["inputs"])]
    changed = lost[0]["inputs"][0]["url"]
    before = (tmp_path / changed).read_bytes()
    (tmp_path / "later.png").rename(tmp_path / "1.png")
    assert jobs.retry(spec.url).num_failed == 0
    assert set(outcomes(run).values()) == {"ok"}

    # A damaged image is made again from the same bytes, or not at all.
    damaged = next(row for row in read_plan(run, 1) if row["image_id"] == lost[0]["image_id"])
    whole = run.store.read(damaged["file"])
    run.store.put(damaged["file"], whole[:200])
    (tmp_path / changed).write_bytes(png(70, 50, 99))
    said: list[str | None] = []
    result = jobs.verify(spec.url, lambda event: said.append(event_line(event)), repair=True)
    assert not result.is_sound
    assert any(line and "its bytes have changed" in line for line in said)
    assert run.store.read(damaged["file"]) == whole[:200]
    assert set(outcomes(run).values()) == {"ok"}
    (tmp_path / changed).write_bytes(before)
    assert jobs.verify(spec.url, repair=True).is_sound
    assert run.store.read(damaged["file"]) == whole

    # Its images are the pictures of another run.
    ids = [row["image_id"] for row in read_plan(run, 0)]
    rows = [{"prompt": f"e{n}", "init_image": f"run://night/{name}"} for n, name in enumerate(ids)]
    edit = job(
        tmp_path,
        tiny_model,
        "edit",
        [*rows, {"prompt": "none", "init_image": "run://a/b_00"}],
        inputs={"check": "none"},
    )
    jobs.run(edit)
    made = outcomes(open_run(edit.url))
    assert made == {"none": "InputMissing", **{f"e{n}": "ok" for n in range(len(ids))}}
    used = {row["sha256"] for row in read_commit(run.store, 0).to_pylist()}
    recorded = read_commit(open_run(edit.url).store, 0).to_pylist()
    assert {row["inputs"][0]["sha256"] for row in recorded if row["inputs"]} <= used | {None}


def read_plan(run: Run, shard: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = read_shard(run.store, run.record.layout, shard).to_pylist()
    return rows
