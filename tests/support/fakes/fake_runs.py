"""Runs without a model: each image is a colour that its seed decides, made in one process."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from support.plans import MODEL

from nightpress.diffusion_core.errors import OutOfMemory, SamplingError
from nightpress.diffusion_core.sampling.sampler import (
    Fault,
    ImageRequest,
    SampledBatch,
    SamplingParams,
)
from nightpress.pipelines.image_files.content_credentials.signing_key import SigningKey
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.planning import check, plan_part, read_shard, write_plan
from nightpress.pipelines.run_directory.record import RUN_FILE, RunRecord, new_record
from nightpress.pipelines.scoring.image_scorer import NO_SCORERS, ImageScorer
from nightpress.pipelines.scoring.scorer import LoadedScorer
from nightpress.pipelines.shards.attempt import Attempt
from nightpress.pipelines.shards.events import BatchSampled, ShardBegun, ShardEvent
from nightpress.pipelines.shards.runner import ShardRunner
from nightpress.pipelines.shards.shard_scores import ShardScores
from nightpress.pipelines.shards.work import ShardWork
from nightpress.pipelines.storage import Store


class FakeSampler:
    """Fills each image with a colour that its seed decides; fails where the prompt says so."""

    supports_per_image_guidance = False
    shares_batches = True

    def __init__(self, fits: int = 100) -> None:
        self.fits = fits
        self.seeds: list[int] = []
        self.batches: list[int] = []
        self.prepared: list[str] = []
        self.joined: list[int] = []

    def prepare(self, requests: Sequence[ImageRequest], params: SamplingParams) -> None:
        self.prepared += [request.prompt for request in requests]

    def join_pictures(self, requests: Any, params: SamplingParams, batch_size: int) -> None:
        self.joined.append(len(requests))

    def sample(
        self,
        requests: Sequence[ImageRequest],
        params: SamplingParams,
        batch_size: int | None = None,
    ) -> SampledBatch:
        if batch_size is not None and batch_size > self.fits:
            raise OutOfMemory(f"{batch_size} do not fit")
        if any("explode" in request.prompt for request in requests):
            raise SamplingError("it exploded")
        self.seeds += [request.seed for request in requests]
        self.batches.append(len(requests))
        width, height = params.final_size
        pixels = np.zeros((len(requests), height, width, 3), np.uint8)
        for image, request in zip(pixels, requests, strict=True):
            image[:] = [request.seed % 256, request.seed // 256 % 256, 7]
        faults = [Fault.NON_FINITE if "nan" in r.prompt else None for r in requests]
        return SampledBatch(pixels, tuple(faults))


def prepare(
    tmp_path: Path,
    prompts: Sequence[str],
    shard_size: int = 100,
    packing: str = "none",
    **others: Any,
) -> tuple[Store, RunRecord, pa.Table]:
    """Plan a run in memory, with an empty store: store, record, first part of the plan.

    Args:
        others: other sections of the job; `images` is merged with the packing.
    """
    tmp_path.mkdir(parents=True, exist_ok=True)
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(prompts) + "\n")
    spec = RunSpec.from_dict(
        {
            "name": "night",
            "manifest": str(path),
            "output": str(tmp_path / "runs"),
            "batch": {"size": 4, "shard_size": shard_size},
            **others,
            "images": {"packing": packing} | others.get("images", {}),
        }
    )
    layout = check(spec, MODEL, 4)
    record = new_record(spec, MODEL, "cpu", 4, layout)
    return Store(spec.url), record, plan_part(spec, MODEL, layout, 0)


def rows_of(rows: pa.Table, shard: int) -> pa.Table:
    """The rows of one shard of a plan."""
    return rows.filter(pc.equal(rows.column("shard"), shard))


def work_on(rows: pa.Table, shard: int = 0, **values: Any) -> ShardWork:
    """Work on all rows of a shard, or on all rows of its amendment."""
    amends = values.get("amends")
    num_rows = len(rows) if amends is None else len(amends.rows)
    return ShardWork(shard, **{"start": 0, "stop": num_rows} | values)


def attempt_on(
    store: Store, record: RunRecord, rows: pa.Table, work: ShardWork | None = None, **values: Any
) -> Attempt:
    """An attempt at a shard, whose images are only measured."""
    scores = ShardScores(ImageScorer(), record.spec.images, rows)
    return Attempt(store, record, work or work_on(rows), "here:1", scores, **values)


def make_shard(
    store: Store,
    record: RunRecord,
    rows: pa.Table,
    sampler: FakeSampler,
    work: ShardWork | None = None,
    key: SigningKey | None = None,
    scorers: Mapping[str, LoadedScorer] = NO_SCORERS,
) -> list[ShardEvent]:
    """Make shard 0, or do other work; returns the events except signs of life."""
    runner = ShardRunner(store, record, sampler, "here:1", key=key, scorers=scorers)  # type: ignore[arg-type]
    events = runner.run(work or work_on(rows), rows)
    telling = [event for event in events if not isinstance(event, BatchSampled | ShardBegun)]
    runner.close()
    return telling


def finished_run(
    folder: Path,
    prompts: Sequence[str],
    shard_size: int = 4,
    packing: str = "none",
    key: SigningKey | None = None,
    scorers: Mapping[str, LoadedScorer] = NO_SCORERS,
    **others: Any,
) -> tuple[Store, RunRecord]:
    """A whole run: record, plan, images and commits; see `prepare`."""
    store, record, _ = prepare(folder, prompts, shard_size, packing, **others)
    store.create(RUN_FILE, record.to_json())
    list(write_plan(record.spec, MODEL, record.layout, store))
    for shard in range(record.layout.num_shards):
        rows = read_shard(store, record.layout, shard)
        make_shard(store, record, rows, FakeSampler(), work_on(rows, shard), key, scorers)
    return store, record
