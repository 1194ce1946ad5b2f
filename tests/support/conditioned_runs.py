"""Real runs of a tiny model in one process, of rows with and without pictures."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.sampling.sampler import Sampler
from nightpress.pipelines import Run, RunSpec
from nightpress.pipelines.models.files import ModelFiles
from nightpress.pipelines.planning import check, read_shard, write_plan
from nightpress.pipelines.run_directory.record import RUN_FILE, new_record
from nightpress.pipelines.shards.runner import ShardRunner
from nightpress.pipelines.shards.work import ShardWork
from nightpress.pipelines.storage import Store

STEPS = {"num_inference_steps": 2, "width": 16, "height": 16, "guidance_scale": 3.0}

ROWS: list[dict[str, Any]] = [
    {"id": "text", "prompt": "a"},
    {"id": "image", "prompt": "b", "init_image": "photo.png", "strength": 0.6},
    {"id": "mask", "prompt": "c", "init_image": "photo.png", "mask_image": "mask.png"},
]


def pictures(folder: Path) -> None:
    """`photo.png` and `mask.png`, larger than the images that are made from them."""
    photo = np.arange(40 * 40 * 3).reshape(40, 40, 3) % 251
    Image.fromarray(photo.astype(np.uint8)).save(folder / "photo.png")
    mask = np.zeros((40, 40), np.uint8)
    mask[:, 20:] = 255
    Image.fromarray(mask).save(folder / "mask.png")


def run_of(
    folder: Path,
    loaded: LoadedModel,
    info: ModelInfo,
    rows: Sequence[dict[str, Any]] = ROWS,
    **job: Any,
) -> Run:
    """Plan a job over these rows and make all of its shards."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures(folder)
    manifest = folder / "rows.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = RunSpec.from_dict(
        {
            "name": "run",
            "manifest": str(manifest),
            "output": str(folder / "out"),
            "model": info.source,
            "sampling": STEPS,
            "inputs": {"root": str(folder)},
            "batch": {"size": 2, "shard_size": 4},
        }
        | job
    )
    return made(spec, loaded, info)


def made_example(job: Path, output: Path, num_steps: int, batch_size: int) -> Run:
    """An example job of the manual, with fewer steps, made on two threads."""
    torch.set_num_threads(2)
    steps = f"sampling.num_inference_steps={num_steps}"
    spec = RunSpec.from_file(job, [f"output={output}", steps, f"batch.size={batch_size}"])
    files = ModelFiles.locate(spec.model, {})
    return made(spec, files.load(spec.model, "cpu"), files.describe(spec.model))


def made(spec: RunSpec, loaded: LoadedModel, info: ModelInfo) -> Run:
    """Plan a job and make all of its shards."""
    layout = check(spec, info, 2)
    store, record = Store(spec.url), new_record(spec, info, "cpu", 2, layout)
    store.create(RUN_FILE, record.to_json())
    list(write_plan(spec, info, layout, store))
    runner = ShardRunner(store, record, Sampler(loaded, 2), "here:1")
    for shard in range(layout.num_shards):
        planned = read_shard(store, layout, shard)
        for _ in runner.run(ShardWork(shard, start=0, stop=len(planned)), planned):
            pass
    runner.close()
    return Run(store, record)
