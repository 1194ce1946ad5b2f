"""Small runs without a model: a record, a few plain squares, and their commits."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.pipelines import Run, RunSpec, open_run
from nightpress.pipelines.image_files.encoding import encode
from nightpress.pipelines.job.images_section import ImagesSpec
from nightpress.pipelines.planning import PlanLayout, PlanPart
from nightpress.pipelines.records import FailureType, ImageFacts, ImageRecord
from nightpress.pipelines.run_directory.commit import commit_shard, metadata_part
from nightpress.pipelines.run_directory.record import RUN_FILE, RunRecord
from nightpress.pipelines.storage import Store

SHARD_SIZE = 4
NUM_IMAGES = 10
BEGIN = 1_800_000_000.0

FACTS = ImageFacts(
    image_id="",
    id="",
    variant=0,
    prompt="a cat",
    negative_prompt="",
    seed=0,
    width=16,
    height=16,
    num_inference_steps=20,
    guidance_scale=4.5,
    scheduler="euler",
    model="builtin",
    model_fingerprint="f" * 64,
    dtype="float32",
    batch_size=2,
)


def colour(number: float) -> tuple[int, int, int]:
    """The colour of an image by its number."""
    return (int(number * 20), int(255 - number * 20), 128)


def record_of(output: str, **job: Any) -> RunRecord:
    spec = RunSpec.from_dict({"name": "run", "manifest": "prompts.txt", "output": output} | job)
    model = ModelInfo(
        "builtin", "f" * 64, "SomePipeline", 8, 16, 16, 20, 4.5, ("default", "euler"), True
    )
    num_shards = -(-NUM_IMAGES // SHARD_SIZE)
    part = PlanPart("plan/part-00000.parquet", 0, 0, NUM_IMAGES, NUM_IMAGES, 0, num_shards)
    layout = PlanLayout(parts=(part,), shard_size=SHARD_SIZE, batches=(), files=())
    return RunRecord(
        spec=spec,
        model=model,
        device="cpu",
        dtype="float32",
        threads=1,
        batch_size=2,
        layout=layout,
        created_at="2027-01-15T08:00:00+00:00",
        versions={"nightpress": "0.1.0"},
    )


def begin(output: str, **job: Any) -> Run:
    """A run that has committed nothing yet; `job` holds keys of its job file."""
    record = record_of(output, **job)
    store = Store(record.spec.url)
    store.create(RUN_FILE, record.to_json())
    return open_run(store.url)


def made(run: Run, number: int, prompt: str = "a cat", **changes: Any) -> ImageRecord:
    """Store a plain square; returns its record: two images per batch, a batch every two seconds."""
    facts = replace(FACTS, image_id=f"{number}_00", id=str(number), seed=number, prompt=prompt)
    pixels = np.full((16, 16, 3), colour(number), np.uint8)
    data = encode(pixels, facts, ImagesSpec())
    file = f"images/{facts.image_id}.png"
    run.store.create(file, data)
    record = ImageRecord(
        facts=facts,
        status="ok",
        attempts=1,
        worker="node-1",
        started_at=BEGIN + number // 2 * 2.0,
        file=file,
        sha256=hashlib.sha256(data).hexdigest(),
        num_bytes=len(data),
        sampling_s=1.0,
    )
    return replace(record, **changes)


def failed(run: Run, number: int, prompt: str = "a cat") -> ImageRecord:
    """The record of an image that failed."""
    unmade: dict[str, Any] = {"file": None, "sha256": None, "num_bytes": None, "sampling_s": None}
    return made(
        run,
        number,
        prompt,
        status="failed",
        error_type=FailureType.NON_FINITE,
        error="not finite",
        **unmade,
    )


def commit(run: Run, shard: int, records: Sequence[ImageRecord], **carried: pa.Array) -> None:
    """Commit a shard of these records and carried columns."""
    rows = pa.table({"image_id": [r.facts.image_id for r in records], **carried})
    commit_shard(run.store, shard, metadata_part(records, rows))


def finish(run: Run) -> None:
    """Commit all ten images; number 5 failed."""
    for shard in range(3):
        numbers = range(shard * SHARD_SIZE, min(NUM_IMAGES, (shard + 1) * SHARD_SIZE))
        records = [failed(run, n) if n == 5 else made(run, n) for n in numbers]
        commit(run, shard, records, topic=pa.array([f"topic {n}" for n in numbers]))
