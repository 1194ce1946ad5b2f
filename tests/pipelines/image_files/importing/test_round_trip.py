"""An image of nightpress is imported and made again with the same bits, by the built-in model."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.fakes.fake_runs import work_on
from support.plans import write
from support.slow_cases import slow_except

from nightpress.diffusion_core import builtin
from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.diffusion_core.models.loading import LoadedModel, describe, load
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.sampling.sampler import Sampler
from nightpress.pipelines.image_files.importing.importer import import_images
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.planning import check, read_shard, write_plan
from nightpress.pipelines.run_directory.commit import read_commit
from nightpress.pipelines.run_directory.record import RUN_FILE, new_record
from nightpress.pipelines.shards.runner import ShardRunner
from nightpress.pipelines.storage import Store

Pixels = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def model() -> tuple[ModelInfo, LoadedModel]:
    torch.set_num_threads(1)
    return describe(builtin.folder(), ModelSpec()), load(builtin.folder(), ModelSpec(), "cpu")


def made(spec: RunSpec, model: tuple[ModelInfo, LoadedModel]) -> Pixels:
    """The images of a run in this process, by their ids."""
    info, loaded = model
    size = spec.batch.size
    assert isinstance(size, int)
    layout = check(spec, info, size)
    record = new_record(spec, info, "cpu", size, layout)
    store = Store(spec.url)
    store.create(RUN_FILE, record.to_json())
    list(write_plan(spec, info, layout, store))
    found: Pixels = {}
    for shard in range(layout.num_shards):
        rows = read_shard(store, layout, shard)
        runner = ShardRunner(store, record, Sampler(loaded, size), "here:1")
        list(runner.run(work_on(rows, shard), rows))
        runner.close()
        for row in read_commit(store, shard).to_pylist():
            assert row["status"] == "ok", row["error"]
            with Image.open(BytesIO(store.read(row["file"]))) as image:
                found[row["id"]] = np.array(image)
    return found


def job_in(folder: Path, rows: list[dict[str, Any]], **values: Any) -> RunSpec:
    job = {
        "name": "first",
        "manifest": str(write(folder / "rows.jsonl", rows)),
        "output": str(folder / "runs"),
        "sampling": {"num_inference_steps": 3, "width": 64, "height": 64},
        "batch": {"size": 2},
    }
    return RunSpec.from_dict(job | values)


ROWS: list[dict[str, Any]] = [
    {"id": "fox", "prompt": "a red fox, day", "negative_prompt": 'blur, "low"\nlines', "seed": 3},
    {"id": "karras", "prompt": "two cats", "scheduler": "dpmpp_2m karras", "guidance_scale": 2.345},
    {
        "id": "noisy",
        "prompt": "a (big) dog",
        "scheduler": "Euler a",
        "width": 96,
        "seed": 2**53 - 1,
    },
    {"id": "own", "prompt": "a star: yellow, round", "num_inference_steps": 5},
]


@pytest.mark.parametrize(
    ("suffix", "format_"), slow_except([(".csv", "png"), (".parquet", "webp")], (".csv", "png"))
)
def test_an_imported_image_is_made_again_with_the_same_bits(
    tmp_path: Path, model: tuple[ModelInfo, LoadedModel], suffix: str, format_: str
) -> None:
    first = job_in(tmp_path, ROWS, images={"format": format_})
    before = made(first, model)
    result = import_images(f"{first.url}/images", str(tmp_path / f"again{suffix}"))
    assert (result.not_read, result.notes, len(result.manifests)) == ((), None, 1)
    job = RunSpec.from_file(result.manifests[0].job, [f"output={tmp_path}/runs"])
    after = made(job, model)
    assert after.keys() == {f"{name}_00" for name in before}
    for name, pixels in before.items():
        np.testing.assert_array_equal(after[f"{name}_00"], pixels)


def test_passes_are_made_again_with_the_same_bits(
    tmp_path: Path, model: tuple[ModelInfo, LoadedModel]
) -> None:
    passes = [{"scale": 1.5, "strength": 0.5, "num_inference_steps": 4}]
    first = job_in(tmp_path, [{"id": "fox", "prompt": "a red fox", "seed": 3}], passes=passes)
    before = made(first, model)
    assert before["fox"].shape == (96, 96, 3)
    result = import_images(f"{first.url}/images", str(tmp_path / "again.csv"))
    job = RunSpec.from_file(result.manifests[0].job, [f"output={tmp_path}/runs"])
    np.testing.assert_array_equal(made(job, model)["fox_00"], before["fox"])
