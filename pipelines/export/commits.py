"""The rows of a source shard, as an export reads them."""

from dataclasses import dataclass
from hashlib import sha256

import pyarrow as pa

from nightpress.pipelines.export.plan import ExportPlan, ShardTask
from nightpress.pipelines.run_directory.commit import decode_commit, shard_path
from nightpress.pipelines.run_directory.late_scores import with_scores_of
from nightpress.pipelines.run_directory.metadata_schema import with_carried


@dataclass(frozen=True)
class CommitRows:
    """The rows of one commit."""

    rows: pa.Table
    """With every column of the run, and with late scores."""
    sha256: str
    """SHA-256 of the commit, hexadecimal."""


def read_rows(plan: ExportPlan, task: ShardTask) -> CommitRows:
    """Read the rows of a shard.

    Raises:
        Damaged: its commit, or the part with its late scores, is not what was written.
        StoreError: the store failed.
    """
    store = plan.stores[task.source]
    data = store.read(shard_path(task.shard))
    part = decode_commit(store, task.shard, data)
    part = with_scores_of(store, part, task.late)
    return CommitRows(with_carried(part, plan.schemas[task.source]), sha256(data).hexdigest())
