"""The commit: one metadata part a shard, written last and only once.

Its presence says that every image of the shard is finished. Losing the race for it means that
somebody else finished the shard, and then theirs is the truth.
"""

import re
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.errors import Damaged
from pipelines.records import METADATA_SCHEMA, PLAN_SCHEMA, ImageRecord
from pipelines.storage import Store

METADATA_FOLDER = "metadata"

_SHARD_FILE = re.compile(r"metadata/shard-(\d{5,})\.parquet")


def shard_path(shard: int) -> str:
    """`metadata/shard-00012.parquet`."""
    return f"{METADATA_FOLDER}/shard-{shard:05d}.parquet"


def commit_shard(store: Store, shard: int, part: pa.Table) -> pa.Table:
    """Commit a shard; returns the part that stands, ours or that of whoever came first."""
    if store.create(shard_path(shard), _encoded(part)):
        return part
    return read_commit(store, shard)


def read_commit(store: Store, shard: int) -> pa.Table:
    """The metadata part of a committed shard.

    Raises:
        Damaged: it is not what was written.
    """
    data = store.read(shard_path(shard))
    try:
        return pq.read_table(pa.BufferReader(data), page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise Damaged(
            f"{store.url}/{shard_path(shard)} is damaged ({reason}); nightpress verify --repair "
            "makes it again",
            shard,
        ) from error


def amend_commit(store: Store, shard: int, changed: Mapping[int, ImageRecord]) -> pa.Table:
    """Put new records in place of some rows of a committed shard; returns the part as it is then.

    This replaces an object, so only the holder of the run's lease may do it. Rows whose file is
    what the part says already stay as they are, to the last bit.

    Args:
        store: of the run.
        shard: it is committed.
        changed: row in the shard -> its new record.
    """
    part = read_commit(store, shard)
    rows = part.select(METADATA_SCHEMA.names).cast(METADATA_SCHEMA).to_pylist()
    new = {
        row: record
        for row, record in changed.items()
        if record.sha256 is None or record.sha256 != rows[row]["sha256"]
    }
    if not new:
        return part
    for row, values in zip(new, _table(list(new.values())).to_pylist(), strict=True):
        rows[row] = {**values, "attempts": values["attempts"] + rows[row]["attempts"]}
    amended = pa.Table.from_pylist(rows, schema=METADATA_SCHEMA)
    for name in part.column_names[len(METADATA_SCHEMA) :]:
        amended = amended.append_column(part.schema.field(name), part.column(name))
    store.put(shard_path(shard), _encoded(amended))
    return amended


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
    part = _table(records)
    for name in rows.column_names:
        if name not in PLAN_SCHEMA.names:
            part = part.append_column(rows.schema.field(name), rows.column(name))
    return part


def _table(records: Sequence[ImageRecord]) -> pa.Table:
    values = [_metadata_row(record) for record in records]
    return pa.Table.from_pylist(values, schema=METADATA_SCHEMA)


def _encoded(part: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(part, sink, compression="zstd", write_page_checksum=True)
    data: bytes = sink.getvalue().to_pybytes()
    return data


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
