"""A job with two real models, the built-in one and a tiny one, whose shards one process makes."""

from pathlib import Path
from typing import Any

from support import tiny_models

from nightpress.diffusion_core.sampling.sampler import Sampler
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.manifest.job_models import ModelInfos
from nightpress.pipelines.models.files import ModelFiles
from nightpress.pipelines.planning import check, cut_into_shards, read_shard, write_plan
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.run_directory.record import RunRecord, create_record, new_record
from nightpress.pipelines.shards.runner import ShardRunner
from nightpress.pipelines.shards.work import ShardWork
from nightpress.pipelines.storage import Store

SMALL = {"width": 64, "height": 64, "num_inference_steps": 1}
TINY = {"width": 32, "height": 40, "num_inference_steps": 2, "scheduler": "ddim"}

PROMPTS = ("a red cat", "a blue dog", "a red cat")


def write_job(folder: Path) -> dict[str, Any]:
    """Write a manifest with each prompt for each model; returns the job as values."""
    tiny_models.save("sd", folder / "tiny")
    rows = [
        f"{model}{n},{model},{prompt},s{n % 2}"
        for n, prompt in enumerate(PROMPTS)
        for model in ("drawn", "tiny")
    ]
    (folder / "m.csv").write_text("\n".join(["id,model,prompt,scene", *rows]) + "\n")
    return {
        "name": "night",
        "manifest": str(folder / "m.csv"),
        "output": str(folder / "out"),
        "models": [
            {"name": "drawn", "source": "builtin", "sampling": SMALL},
            {"name": "tiny", "source": str(folder / "tiny"), "sampling": TINY},
        ],
        "images": {"file_name": "{model_name}/{image_id}.png"},
        "batch": {"size": 2, "shard_size": 2},
        "seed": 5,
    }


def alone(folder: Path, name: str) -> dict[str, Any]:
    """The job of `write_job` with one of its models only, and with the rows of that."""
    values = write_job(folder)
    (model,) = (each for each in values.pop("models") if each["name"] == name)
    lines = Path(values["manifest"]).read_text().splitlines()
    own = [line for line in lines if line.split(",")[1] in ("model", name)]
    manifest = folder / f"{name}.csv"
    manifest.write_text(
        "\n".join(",".join(line.split(",")[::2][:2] + line.split(",")[3:]) for line in own)
    )
    values |= {"images": {}, "model": model["source"], "sampling": model["sampling"]}
    return values | {"name": name, "manifest": str(manifest)}


def infos_of(spec: RunSpec) -> ModelInfos:
    """What is known about the models of a job."""
    found = {}
    for name in spec.model_names:
        model = spec.for_model(name).model
        found[name] = ModelFiles.locate(model, spec.storage).describe(model)
    return found.get(None, found)


def begin(spec: RunSpec) -> tuple[Store, RunRecord]:
    """Plan a job and write its record."""
    infos, size = infos_of(spec), int(spec.batch.size)
    layout = cut_into_shards(spec, check(spec, infos, size), size)
    store = Store(spec.url)
    record = create_record(store, new_record(spec, infos, "cpu", size, layout))
    list(write_plan(spec, infos, layout, store))
    return store, record


def make(store: Store, record: RunRecord) -> Run:
    """Make all shards in this process, one model after the other."""
    for each in record.each_model:
        model = each.spec.model
        loaded = ModelFiles.locate(model, {}).load(model, "cpu")
        runner = ShardRunner(store, each, Sampler(loaded, each.batch_size), "here")
        for shard in range(record.layout.num_shards):
            if record.layout.model_of(shard) == each.model_name:
                work = ShardWork(shard, 0, record.layout.shard_images(shard))
                list(runner.run(work, read_shard(store, record.layout, shard)))
        runner.close()
    return Run(store, record)
