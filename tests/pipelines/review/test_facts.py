"""The facts of an image, and a job that makes it again."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.fakes.fake_runs import FakeSampler, finished_run, make_shard
from support.plans import MODEL

from nightpress.pipelines.errors import ImageNotFound
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.planning import check, plan_part
from nightpress.pipelines.review.facts import fact_sheet
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.run_directory.record import new_record
from nightpress.pipelines.storage import Store


def run_of(folder: Path, **others: Any) -> Run:
    manifest = folder / "rows.jsonl"
    folder.mkdir(exist_ok=True)
    rows = [
        {
            "prompt": f'picture {n}\nin "ink": #{n}\u2028output: /etc',
            "width": 64 + 8 * n,
            "num_images": 2,
            "sku": f"s{n}",
        }
        for n in range(3)
    ]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    job = {"manifest": str(manifest), "seed": 11, "sampling": {"num_inference_steps": 7}}
    return Run(*finished_run(folder, ["unused"], **job, **others))


def test_the_facts_name_all_that_is_known(tmp_path: Path) -> None:
    facts = dict(fact_sheet(run_of(tmp_path), "00000001_01").facts)
    assert list(facts)[:3] == ["image_id", "prompt", "seed"]
    assert facts["width"] == "72"
    assert facts["sku"] == "s1"
    assert facts["num_inference_steps"] == "7"
    assert len(facts["sha256"]) == 64
    assert "score sharpness" in facts
    assert "error" not in facts


def test_an_image_that_is_not_there_has_none(tmp_path: Path) -> None:
    with pytest.raises(ImageNotFound, match=r"no image '../x' is committed"):
        fact_sheet(run_of(tmp_path), "../x")


def test_the_job_makes_the_same_pixels_again(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    text = fact_sheet(run, "00000001_01").job
    lines = text.splitlines()
    assert lines[0] == (
        "# Save this as again-00000001_01.yaml, and the line at the end as again-00000001_01.jsonl "
        "beside it, without"
    )
    values = yaml.safe_load(text)
    manifest = tmp_path / values["manifest"]
    manifest.write_text(lines[-1].removeprefix("# ") + "\n")
    values |= {"manifest": str(manifest), "output": str(tmp_path / values["output"])}
    spec = RunSpec.from_dict(values)
    layout = check(spec, MODEL, spec.batch.size)
    store, record = Store(spec.url), new_record(spec, MODEL, "cpu", spec.batch.size, layout)
    make_shard(store, record, plan_part(spec, MODEL, layout, 0), FakeSampler())
    again = Run(store, record).metadata.to_table().to_pylist()
    before = run.metadata.to_table().to_pylist()
    [original] = [row for row in before if row["image_id"] == "00000001_01"]
    same = ("prompt", "seed", "width", "height", "num_inference_steps", "guidance_scale", "sku")
    assert len(again) == 1
    for name in (*same, "scheduler", "batch_size", "dtype", "model"):
        assert again[0][name] == original[name], name
    pixels = [
        Run(*each).image(name).tobytes()
        for each, name in (
            ((run.store, run.record), "00000001_01"),
            ((store, record), "00000001_00"),
        )
    ]
    assert pixels[0] == pixels[1]


def test_without_its_plan_an_image_has_facts_and_no_job(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    for path in [*run.store.list("plan"), *run.store.list(".index")]:
        run.store.delete(path)
    sheet = fact_sheet(run, "00000001_01")
    assert dict(sheet.facts)["width"] == "72"
    assert sheet.job.startswith("# There is no job: ")
