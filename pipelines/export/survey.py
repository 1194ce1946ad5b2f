"""`survey/`: which image of a source shard would be in which split, and hashes to compare it by.

An object of it is created once for each commit, like those of `index/`, so that only the shards
that have changed are looked at again.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nightpress.diffusion_core.errors import one_line
from nightpress.pipelines.errors import Damaged
from nightpress.pipelines.export.commits import read_rows
from nightpress.pipelines.export.decisions import decide
from nightpress.pipelines.export.images import LOCATION, ShardImages
from nightpress.pipelines.export.plan import ExportPlan, ShardTask
from nightpress.pipelines.export.shard import write_object
from nightpress.pipelines.export.tables import parquet_bytes
from nightpress.pipelines.image_files.encoding import decoded
from nightpress.pipelines.scoring.perceptual_hash import perceptual_hash
from nightpress.pipelines.storage import READ_THREADS, Store

SURVEY_FOLDER = "survey"

SURVEY = pa.schema(
    [
        pa.field("row", pa.int32(), nullable=False),
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("perceptual_hash", pa.string()),
    ]
)
"""One row for each image that would be exported if no other image were like it."""


@dataclass(frozen=True)
class Surveyed:
    """The survey of one shard."""

    source: int
    shard: int
    path: str
    """Path of the survey's object."""


def survey_shard(plan: ExportPlan, task: ShardTask) -> Surveyed:
    """Look at one shard, and write what is found.

    Raises:
        Damaged: its commit is not what was written.
        StoreError: a store failed.
    """
    commit = read_rows(plan, task)
    path = task.key.path(commit.sha256, SURVEY_FOLDER)
    write_object(plan.store, path, parquet_bytes(_survey(plan, task, commit.rows)))
    return Surveyed(task.source, task.shard, path)


def _survey(plan: ExportPlan, task: ShardTask, part: pa.Table) -> pa.Table:
    decisions = decide(part, plan.spec, task.wanted, {})
    rows = [row for row, each in enumerate(decisions) if each.split is not None]
    taken = part.take(pa.array(rows, pa.int64()))
    hashes = _hashes(plan, task, taken) if plan.spec.compares_looks else [None] * len(rows)
    columns = [
        pa.array(rows, pa.int32()),
        taken.column("image_id").combine_chunks(),
        pa.array([decisions[row].split for row in rows], pa.string()),
        taken.column("sha256").combine_chunks(),
        pa.array(hashes, pa.string()),
    ]
    return pa.table(columns, schema=SURVEY)


def _hashes(plan: ExportPlan, task: ShardTask, rows: pa.Table) -> list[str]:
    """The perceptual hash of each image: as its metadata has it, or from its pixels."""
    images = ShardImages(plan.stores[task.source], task.shard)
    names = [*LOCATION, "perceptual_hash"]

    def of(row: Mapping[str, Any]) -> str:
        known = row["perceptual_hash"]
        if known is not None:
            return str(known)
        with decoded(images.read(row, with_facts=True)) as picture:
            return perceptual_hash(np.asarray(picture.convert("RGB")))

    with ThreadPoolExecutor(READ_THREADS) as pool:
        return list(pool.map(of, rows.select(names).to_pylist()))


def read_survey(store: Store, path: str) -> pa.Table:
    """Read the survey of a shard.

    Raises:
        Damaged: it is not what was written.
    """
    try:
        data = pa.BufferReader(store.read(path))
        return pq.read_table(data, schema=SURVEY, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise Damaged(
            f"{store.url}/{path}: damaged ({one_line(error, 200)}); delete it, and nightpress "
            "export writes it again"
        ) from error
