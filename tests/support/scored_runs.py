"""Runs without a model whose commits have scores: a record, and metadata rows without images."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
from support.made_runs import BEGIN, FACTS, record_of

from nightpress.pipelines import Run, open_run
from nightpress.pipelines.planning import PlanLayout, PlanPart
from nightpress.pipelines.records import FailureType, ImageRecord
from nightpress.pipelines.run_directory.commit import commit_shard, metadata_part
from nightpress.pipelines.run_directory.record import RUN_FILE
from nightpress.pipelines.storage import Store

HASH = "0123456789abcdef" + "8" * 48


@dataclass(frozen=True)
class Scored:
    """One image of a run."""

    row: str
    variant: int = 0
    scores: Mapping[str, float | None] | None = field(default_factory=dict)
    perceptual_hash: str | None = HASH
    category: str | None = "a"
    failed: bool = False
    content: str = ""
    """What its file holds, beside its id."""

    @property
    def image_id(self) -> str:
        return f"{self.row}_{self.variant:02d}"


def begin(output: str, num_images: int, shard_size: int = 4, **job: Any) -> Run:
    """A run that has committed nothing yet; `job` holds keys of its job file."""
    num_shards = -(-num_images // shard_size)
    part = PlanPart("plan/part-00000.parquet", 0, 0, num_images, num_images, 0, num_shards)
    layout = PlanLayout(parts=(part,), shard_size=shard_size, batches=(), files=())
    record = replace(record_of(output, **job), layout=layout)
    store = Store(record.spec.url)
    store.create(RUN_FILE, record.to_json())
    return open_run(store.url)


def part(images: Sequence[Scored], **carried: pa.Array) -> pa.Table:
    """The metadata of a shard, with the carried column `category`."""
    rows = {
        "image_id": [each.image_id for each in images],
        "category": pa.array([each.category for each in images], pa.string()),
    }
    return metadata_part([_record(each) for each in images], pa.table(rows | carried))


def made(output: str, images: Sequence[Scored], shard_size: int = 4, **job: Any) -> Run:
    """A finished run of these images."""
    run = begin(output, len(images), shard_size, **job)
    for shard, first in enumerate(range(0, len(images), shard_size)):
        commit_shard(run.store, shard, part(images[first : first + shard_size]))
    return run


def _record(image: Scored) -> ImageRecord:
    facts = replace(FACTS, image_id=image.image_id, id=image.row, variant=image.variant)
    common = {"facts": facts, "attempts": 1, "worker": "node-1", "started_at": BEGIN}
    if image.failed:
        error: dict[str, Any] = {"error_type": FailureType.NON_FINITE, "error": "not finite"}
        return ImageRecord(status="failed", **common, **error)
    content = image.content or image.image_id
    return ImageRecord(
        status="ok",
        **common,
        file=f"images/{image.image_id}.png",
        sha256=hashlib.sha256(content.encode()).hexdigest(),
        num_bytes=len(content),
        sampling_s=2.0,
        scores=image.scores,
        perceptual_hash=image.perceptual_hash,
    )
