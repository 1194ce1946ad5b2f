"""The commit: one metadata part a shard, written last and only once.

Its presence says that every image of the shard is finished. Losing the race for it means that
somebody else finished the shard, and then theirs is the truth.
"""

import re
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.records import METADATA_SCHEMA, PLAN_SCHEMA, ImageRecord
from pipelines.storage import Store

METADATA_FOLDER = "metadata"

_SHARD_FILE = re.compile(r"metadata/shard-(\d{5,})\.parquet")


def shard_path(shard: int) -> str:
    """`metadata/shard-00012.parquet`."""
    return f"{METADATA_FOLDER}/shard-{shard:05d}.parquet"


def commit_shard(store: Store, shard: int, part: pa.Table) -> pa.Table:
    """Commit a shard; returns the part that stands, ours or that of whoever came first."""
    sink = pa.BufferOutputStream()
    pq.write_table(part, sink, compression="zstd")
    if store.create(shard_path(shard), sink.getvalue().to_pybytes()):
        return part
    return read_commit(store, shard)


def read_commit(store: Store, shard: int) -> pa.Table:
    """The metadata part of a committed shard."""
    return pq.read_table(pa.BufferReader(store.read(shard_path(shard))))


def read_commit_if_any(store: Store, shard: int) -> pa.Table | None:
    """The metadata part of a shard that may not be committed yet."""
    return None if store.size(shard_path(shard)) is None else read_commit(store, shard)


def committed_shards(store: Store) -> set[int]:
    """The shards that are finished, by one listing."""
    names = (_SHARD_FILE.fullmatch(name) for name in store.list(METADATA_FOLDER))
    return {int(match.group(1)) for match in names if match}


def metadata_part(records: Sequence[ImageRecord], rows: pa.Table) -> pa.Table:
    """The metadata of a shard: its records in plan order, then the carried columns.

    Args:
        records: one for each of `rows`, in the same order.
        rows: the shard's rows of the plan.
    """
    values = [_metadata_row(record) for record in records]
    part = pa.Table.from_pylist(values, schema=METADATA_SCHEMA)
    for name in rows.column_names:
        if name not in PLAN_SCHEMA.names:
            part = part.append_column(rows.schema.field(name), rows.column(name))
    return part


def _metadata_row(record: ImageRecord) -> dict[str, object]:
    return {
        **record.facts.as_dict(),
        "status": record.status,
        "error_type": record.error_type,
        "error": record.error,
        "attempts": record.attempts,
        "file": record.file,
        "sha256": record.sha256,
        "num_bytes": record.num_bytes,
        "worker": record.worker,
        "started_at": int(record.started_at * 1_000_000),
        "sampling_s": record.sampling_s,
    }
