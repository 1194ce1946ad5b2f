"""Runs whose rows are made from pictures, in one process, without a model."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from support.fakes.fake_runs import FakeSampler, work_on
from support.plans import MODEL, Row, write

from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.diffusion_core.sampling.sampler import ImageRequest, SampledBatch, SamplingParams
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.planning import check, read_shard, write_plan
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.run_directory.record import RUN_FILE, RunRecord, new_record
from nightpress.pipelines.run_directory.used_inputs import read_used_inputs
from nightpress.pipelines.shards.events import ShardDone, ShardEvent
from nightpress.pipelines.shards.input_history import InputSession
from nightpress.pipelines.shards.runner import ShardRunner
from nightpress.pipelines.shards.work import ShardWork
from nightpress.pipelines.storage import Store

PICTURED = replace(MODEL, modes=("text", "image", "inpaint"), width=32, height=32)


class PictureSampler(FakeSampler):
    """Paints each image with the mean colour of its initial image, and its seed."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[ImageRequest] = []

    def sample(
        self,
        requests: Sequence[ImageRequest],
        params: SamplingParams,
        batch_size: int | None = None,
    ) -> SampledBatch:
        made = super().sample(requests, params, batch_size)
        self.requests += requests
        for pixels, request in zip(made.pixels, requests, strict=True):
            if request.images.init_image is not None:
                pixels[:] = request.images.init_image.mean((0, 1)).astype(np.uint8)
                pixels[0, 0] = request.seed % 256
        return made


def begin(
    folder: Path, rows: Sequence[Row], info: ModelInfo = PICTURED, **job: Any
) -> tuple[Store, RunRecord]:
    """Plan a run whose pictures lie in the folder, without looking at them."""
    values = {
        "name": "night",
        "manifest": str(write(folder / "rows.jsonl", rows)),
        "output": str(folder / "runs"),
        "inputs": {"root": str(folder), "check": "none"},
        "batch": {"size": 2, "shard_size": 4},
    }
    spec = RunSpec.from_dict(values | job)
    layout = check(spec, info, 2)
    record = new_record(spec, info, "cpu", 2, layout)
    store = Store(spec.url)
    store.create(RUN_FILE, record.to_json())
    list(write_plan(spec, info, layout, store))
    return store, record


def session(store: Store, record: RunRecord) -> InputSession:
    """What a start of the run would tell its actors now."""
    return InputSession(None, read_used_inputs(Run(store, record)))


def rows_of(store: Store, record: RunRecord, shard: int = 0) -> pa.Table:
    return read_shard(store, record.layout, shard)


def make(
    store: Store,
    record: RunRecord,
    shard: int = 0,
    sampler: FakeSampler | None = None,
    work: ShardWork | None = None,
) -> list[ShardEvent]:
    """A start of the run that makes one shard, or does other work on it."""
    rows = rows_of(store, record, shard)
    inputs = session(store, record)
    runner = ShardRunner(store, record, sampler or PictureSampler(), "here:1", inputs=inputs)  # type: ignore[arg-type]
    events = list(runner.run(work or work_on(rows, shard, look_first=True), rows))
    runner.close()
    return events


def done(events: Sequence[ShardEvent]) -> ShardDone:
    """How the shard ended."""
    last = events[-1]
    assert isinstance(last, ShardDone)
    return last


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
