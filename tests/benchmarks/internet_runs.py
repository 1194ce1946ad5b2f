"""Runs of any size to measure: plans of many rows, and commits of many shards.

In one folder, `rows-N` has a manifest of N rows, its plan and the commits of some of its shards.
`shards-N` has the commits of N shards, which are links to one real metadata part.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from bench_lookup import metadata_of
from bench_planning import MODEL, make_manifest
from support.made_runs import FACTS

from nightpress.pipelines import Run, open_run
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.planning import PlanLayout, PlanPart, check, read_shard, write_plan
from nightpress.pipelines.records import FailureType, ImageRecord
from nightpress.pipelines.run_directory.commit import commit_shard, shard_path
from nightpress.pipelines.run_directory.record import (
    RUN_FILE,
    RunRecord,
    new_record,
    require_record,
)
from nightpress.pipelines.storage import Store

NUM_IMAGES, NUM_SHARDS, NUM_ACTORS = 100_000_000, 100_000, 1_000
"""The run that costs are worked out for."""

SHARD_SIZE, BATCH_SIZE = 1_000, 16

PART_IMAGES = 131_000

PLANNED_FACTS = (
    *("image_id", "id", "variant", "prompt", "negative_prompt", "seed", "scheduler"),
    *("width", "height", "num_inference_steps", "guidance_scale"),
)
MADE_FACTS = (
    *("status", "attempts", "worker", "file", "sha256", "num_bytes", "sampling_s"),
    *("perceptual_hash", "error"),
)
"""Columns of the metadata that are the same fields of an image's facts, and of its record."""

SAMPLE = 24
"""Shards of a plan that have commits."""


def make_plan(folder: Path, rows: int) -> None:
    """A manifest with ids, its plan, and the commits of a few of its shards."""
    place = folder / f"rows-{rows}"
    place.mkdir()
    make_manifest(place / "manifest.parquet", rows, 1 << 17, ids=True, pictures=False)
    spec = spec_of(place)
    store, layout = Store(spec.url), check(spec, MODEL, BATCH_SIZE)
    for _ in write_plan(spec, MODEL, layout, store):
        pass
    store.create(RUN_FILE, new_record(spec, MODEL, "cpu", BATCH_SIZE, layout).to_json())
    for shard in some_shards(layout):
        commit_shard(store, shard, committed_rows(read_shard(store, layout, shard)))


def make_commits(folder: Path, shards: int, rows: int) -> None:
    """A run with so many commits, of a plan that is not written.

    Args:
        rows: of the plan whose first shard all of them are.
    """
    planned, url = run_of(folder, rows), str(folder / f"shards-{shards}")
    record = with_layout(planned.record, shards * SHARD_SIZE)
    record = replace(record, spec=record.spec.model_copy(update={"output": url}))
    store = Store(record.spec.url)
    store.create(RUN_FILE, record.to_json())
    commit_shard(store, 0, committed_rows(read_shard(planned.store, planned.record.layout, 0)))
    source = Path(store.url, shard_path(0))
    for shard in range(1, shards):
        target = Path(store.url, shard_path(shard))
        try:
            os.link(source, target)
        except OSError:  # a file has as many links as it may have
            target.write_bytes(source.read_bytes())
            source = target


def run_of(folder: Path, rows: int) -> Run:
    """The run that `make_plan` made."""
    return open_run(str(folder / f"rows-{rows}" / "run"))


def commits_of(folder: Path, shards: int) -> Run:
    """The run that `make_commits` made."""
    return open_run(str(folder / f"shards-{shards}" / "run"))


def whole_record(folder: Path) -> RunRecord:
    """The record of the whole run, of which nothing is written."""
    url = next(folder.glob("rows-*")) / "run"
    return with_layout(require_record(Store(str(url))), NUM_IMAGES)


def some_shards(layout: PlanLayout) -> list[int]:
    """Shards that `make_plan` commits, evenly spaced."""
    return [number * layout.num_shards // SAMPLE for number in range(SAMPLE)]


def spec_of(place: Path) -> RunSpec:
    """The job of the manifest in a folder."""
    return RunSpec.from_dict(
        {
            "name": "run",
            "manifest": str(place / "manifest.parquet"),
            "output": str(place),
            "inputs": {"check": "none"},
            "batch": {"size": BATCH_SIZE, "shard_size": SHARD_SIZE},
        }
    )


def with_layout(record: RunRecord, num_images: int) -> RunRecord:
    """A record with the layout of so many images, in parts as large as they may be."""
    parts = []
    for number, start in enumerate(range(0, num_images, PART_IMAGES)):
        size = min(PART_IMAGES, num_images - start)
        path = f"plan/part-{number:05d}.parquet"
        parts.append(PlanPart(path, number, start, size, size, start // SHARD_SIZE, 0))
    layout = replace(record.layout, parts=tuple(parts)).in_shards(SHARD_SIZE, BATCH_SIZE)
    return replace(record, layout=layout)


def records_of(planned: pa.Table) -> list[ImageRecord]:
    """The records of a shard's images, as the actor has them that made these rows of the plan."""
    return [_record(row) for row in metadata_of(planned).to_pylist()]


def _record(row: Mapping[str, Any]) -> ImageRecord:
    error_type = row["error_type"]
    return ImageRecord(
        facts=replace(FACTS, **{name: row[name] for name in PLANNED_FACTS}),
        error_type=None if error_type is None else FailureType(error_type),
        scores=None if row["scores"] is None else dict(row["scores"]),
        started_at=row["started_at"].timestamp(),
        **{name: row[name] for name in MADE_FACTS},
    )


def committed_rows(planned: pa.Table) -> pa.Table:
    """The metadata of rows of a plan, with the column that the manifest carries."""
    field = planned.schema.field("category")
    return metadata_of(planned).append_column(field, planned.column("category"))
