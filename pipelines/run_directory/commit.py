"""The commit: one metadata part a shard, written last and only once.

Its presence says that every image of the shard is finished. Losing the race for it means that
somebody else finished the shard, and then theirs is the truth. Only the holder of the run's lease
changes it afterwards: a row that was made again, or a part that is damaged.
"""

import re
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from nightpress.diffusion_core.errors import one_line
from nightpress.pipelines.errors import Damaged, StoreMissing
from nightpress.pipelines.records import LATER_COLUMNS, METADATA_SCHEMA, PLAN_SCHEMA, ImageRecord
from nightpress.pipelines.run_directory.lease import FencingToken
from nightpress.pipelines.run_directory.rewriting import rewrite
from nightpress.pipelines.storage import Store

METADATA_FOLDER = "metadata"

SEAL = b"nightpress.sealed_by"
"""Key of a part's own metadata: the number of the lease under which it was written again."""

_SHARD_FILE = re.compile(r"metadata/shard-(\d{5,})\.parquet")


def shard_path(shard: int) -> str:
    """`metadata/shard-00012.parquet`."""
    return f"{METADATA_FOLDER}/shard-{shard:05d}.parquet"


def commit_shard(store: Store, shard: int, part: pa.Table) -> pa.Table:
    """Commit a shard; returns the part that stands, ours or that of whoever came first."""
    if store.create(shard_path(shard), _encoded(part)):
        return part
    return read_commit(store, shard)


def recommit_shard(
    store: Store, shard: int, part: pa.Table, fence: FencingToken | None = None
) -> pa.Table:
    """Commit a shard again, in place of a commit that is damaged; returns the part.

    Raises:
        LeaseLost: another start has taken the run over.
    """
    data = _encoded(part)
    rewrite(store, shard_path(shard), lambda seen: data, fence)
    return part


def read_commit(store: Store, shard: int, columns: Sequence[str] | None = None) -> pa.Table:
    """The metadata part of a committed shard, or some columns of it.

    Raises:
        Damaged: it is not what was written.
    """
    return _decoded(store, shard, store.read(shard_path(shard)), columns)


def amend_commit(
    store: Store, shard: int, changed: Mapping[int, ImageRecord], fence: FencingToken | None = None
) -> pa.Table:
    """Put new records in place of some rows of a committed shard; returns the part as it is then.

    Only the holder of the run's lease may do it. Rows whose file is what the part says already
    stay as they are, to the last bit.

    Args:
        store: of the run.
        shard: it is committed.
        changed: row in the shard -> its new record.
        fence: of the lease.

    Raises:
        Damaged: the commit is not what was written.
        LeaseLost: another start has taken the run over.
    """
    part: pa.Table = None

    def amended(seen: bytes | None) -> bytes | None:
        nonlocal part
        standing = _standing(store, shard, seen)
        part = _amended(standing, changed)
        return None if part is standing else _encoded(part)

    rewrite(store, shard_path(shard), amended, fence)
    return part


def seal_commit(store: Store, shard: int, fence: FencingToken) -> None:
    """Write a commit again as it is, under the number of a lease.

    From then on no start that was taken over before can amend it: it does not find what it read.

    Raises:
        Damaged: the commit is not what was written.
        LeaseLost: another start has taken the run over.
    """
    mark = {SEAL: str(fence.number).encode()}
    rewrite(
        store,
        shard_path(shard),
        lambda seen: _encoded(_standing(store, shard, seen).replace_schema_metadata(mark)),
        fence,
    )


def read_commit_if_any(store: Store, shard: int) -> pa.Table | None:
    """The metadata part of a shard that may not be committed yet."""
    data = store.read_if_any(shard_path(shard))
    return None if data is None else _decoded(store, shard, data)


def failed_rows(store: Store, shard: int) -> tuple[int, ...]:
    """The rows of a committed shard that failed.

    Raises:
        Damaged: the commit is not what was written.
    """
    statuses = read_commit(store, shard, ["status"]).column("status").to_pylist()
    return tuple(row for row, status in enumerate(statuses) if status == "failed")


def committed_shards(store: Store) -> set[int]:
    """The shards that are finished, by one listing."""
    names = (_SHARD_FILE.fullmatch(name) for name in store.list(METADATA_FOLDER))
    return {int(match.group(1)) for match in names if match}


def as_recorded(part: pa.Table) -> pa.Table:
    """The metadata columns of a part, without the carried ones.

    Those that an older part lacks are null, even where it carries a column of such a name.
    """
    if part.column_names[: len(METADATA_SCHEMA)] != METADATA_SCHEMA.names:
        part = part.drop_columns([n for n in part.column_names if n in LATER_COLUMNS])
    for name in LATER_COLUMNS - set(part.column_names):
        field = METADATA_SCHEMA.field(name)
        part = part.append_column(field, pa.nulls(len(part), field.type))
    return part.select(METADATA_SCHEMA.names).cast(METADATA_SCHEMA)


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


def _standing(store: Store, shard: int, seen: bytes | None) -> pa.Table:
    if seen is None:
        raise StoreMissing(f"{store.url}/{shard_path(shard)}: not there")
    return _decoded(store, shard, seen)


def _decoded(
    store: Store, shard: int, data: bytes, columns: Sequence[str] | None = None
) -> pa.Table:
    names = None if columns is None else list(columns)
    try:
        return pq.read_table(pa.BufferReader(data), columns=names, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        reason = one_line(error, 200)
        raise Damaged(
            f"{store.url}/{shard_path(shard)} is damaged ({reason}); nightpress verify --repair "
            "makes it again",
            shard,
        ) from error


def _amended(part: pa.Table, changed: Mapping[int, ImageRecord]) -> pa.Table:
    """A part with new records in some rows; itself where that changes nothing."""
    rows = as_recorded(part).to_pylist()
    new = {row: record for row, record in changed.items() if not _is_told(record, rows[row])}
    if not new:
        return part
    for row, values in zip(new, _table(list(new.values())).to_pylist(), strict=True):
        rows[row] = {**values, "attempts": values["attempts"] + rows[row]["attempts"]}
    amended = pa.Table.from_pylist(rows, schema=METADATA_SCHEMA)
    for name in part.column_names:
        if name not in METADATA_SCHEMA.names:
            amended = amended.append_column(part.schema.field(name), part.column(name))
    return amended


def _is_told(record: ImageRecord, row: Mapping[str, object]) -> bool:
    """Whether a row says already where an image is, and with which bytes."""
    if record.sha256 is None:
        return False
    where = (record.file, record.member_offset, record.sha256)
    return where == (row["file"], row["member_offset"], row["sha256"])


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
        "member": record.member,
        "member_offset": record.member_offset,
        "sha256": record.sha256,
        "num_bytes": record.num_bytes,
        "worker": record.worker,
        "started_at": int(record.started_at * 1_000_000),
        "sampling_s": record.sampling_s,
    }
