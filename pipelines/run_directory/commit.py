"""Commits: one metadata part per shard, created last and only once.

A shard is finished when its metadata part exists. When two workers commit the same shard, the
first part wins and the other worker adopts it. Only the holder of the run's lease replaces a part
afterwards: to record rows that were made again, or because the part is damaged.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nightpress.diffusion_core.errors import one_line
from nightpress.pipelines.errors import Damaged, StoreMissing
from nightpress.pipelines.planning.later_names import (
    carried_under_later_names,
    with_carried_renamed,
)
from nightpress.pipelines.records import (
    ADDED_TO_METADATA,
    METADATA_SCHEMA,
    NOT_IN_OLDER_COMMITS,
    PLAN_SCHEMA,
    FailureType,
    ImageRecord,
)
from nightpress.pipelines.run_directory.lease import FencingToken
from nightpress.pipelines.run_directory.rewriting import rewrite
from nightpress.pipelines.run_directory.summary import SUMMARY_COLUMNS, Summary
from nightpress.pipelines.storage import Store, open_source

METADATA_FOLDER = "metadata"

SEAL = b"nightpress.sealed_by"
"""Key in a part's Parquet footer: the number of the lease that sealed it; see `seal_commit`."""

SUMMARY = b"nightpress.summary"
"""Key in a part's Parquet footer: the `Summary` of its rows, as JSON."""

PADDING = b"nightpress.padding"
"""Key in a part's Parquet footer: blanks that make the part longer than the one it replaces."""

SMALL_PART_BYTES = 4 << 20
"""A part up to this size is read whole, even if only some of its columns are needed."""

FOOTER_BYTES = 16 << 10
"""Enough for the footer of a part, unless its texts are very long."""

_SHARD_FILE = re.compile(r"metadata/shard-(\d{5,})\.parquet")


def shard_path(shard: int) -> str:
    """`metadata/shard-00012.parquet`."""
    return f"{METADATA_FOLDER}/shard-{shard:05d}.parquet"


def commit_shard(store: Store, shard: int, part: pa.Table) -> pa.Table:
    """Commit a shard. The first commit wins; returns the winning part."""
    if store.create(shard_path(shard), _encoded(part)):
        return part
    return read_commit(store, shard)


def recommit_shard(
    store: Store, shard: int, part: pa.Table, fence: FencingToken | None = None
) -> pa.Table:
    """Replace a damaged commit; returns the new part.

    Raises:
        LeaseLost: another process has taken over the run.
    """
    rewrite(store, shard_path(shard), lambda seen: _encoded(part, replaces=seen), fence)
    return part


def read_commit(store: Store, shard: int, columns: Sequence[str] | None = None) -> pa.Table:
    """Read the metadata part of a committed shard, or some of its columns.

    Raises:
        Damaged: the part is not what was written.
    """
    return decode_commit(store, shard, store.read(shard_path(shard)), columns)


def read_commit_if_any(store: Store, shard: int) -> pa.Table | None:
    """Read the metadata part of a shard; None if the shard is not committed yet."""
    data = store.read_if_any(shard_path(shard))
    return None if data is None else decode_commit(store, shard, data)


def decode_commit(
    store: Store, shard: int, data: bytes, columns: Sequence[str] | None = None
) -> pa.Table:
    """Decode a metadata part that has been read, or some of its columns.

    Raises:
        Damaged: the part is not what was written.
    """
    with (
        _as_damaged(store, shard),
        # Threads and reading ahead cost a small part in memory more than they save.
        pq.ParquetFile(
            pa.BufferReader(data), page_checksum_verification=True, pre_buffer=False
        ) as file,
    ):
        names = None if columns is None else _present(file, columns)
        part = file.read(names, use_threads=len(data) > SMALL_PART_BYTES)
    return part.select(names) if names else with_carried_renamed(part, ADDED_TO_METADATA)


def _present(file: pq.ParquetFile, columns: Sequence[str]) -> list[str]:
    """The columns as a list; the file must have them all."""
    if missing := set(columns).difference(file.schema_arrow.names):
        raise pa.ArrowInvalid(f"it has no column {', '.join(sorted(missing))}")
    return list(columns)


@contextmanager
def open_commit(store: Store, shard: int, num_bytes: int) -> Iterator[pq.ParquetFile]:
    """Open the metadata part of a committed shard, for some columns or repeated reads.

    A small part is read in one request; of a large one, only the requested columns are read.

    Args:
        num_bytes: size of the part, as listed.

    Raises:
        Damaged: the part is not what was written.
    """
    path = shard_path(shard)
    small = num_bytes <= SMALL_PART_BYTES
    with (
        _as_damaged(store, shard),
        pa.BufferReader(store.read(path))
        if small
        else open_source(f"{store.url}/{path}", store.options) as source,
        pq.ParquetFile(source, page_checksum_verification=True) as file,
    ):
        yield file


def read_summary(store: Store, shard: int, num_bytes: int) -> Summary:
    """Read the totals of a committed shard, normally with one small request for its footer.

    Args:
        num_bytes: size of the part, as listed.

    Raises:
        Damaged: the part is not what was written.
    """
    try:
        summary = _summary_in(_footer(store, shard_path(shard), num_bytes))
    except (pa.ArrowException, OSError):  # it was replaced since it was listed, or is damaged
        summary = None
    return summary or Summary.of(read_commit(store, shard, SUMMARY_COLUMNS))


def summary_of(file: pq.ParquetFile) -> Summary:
    """The totals of an open metadata part."""
    return _summary_in(file.metadata) or Summary.of(file.read(list(SUMMARY_COLUMNS)))


def amend_commit(
    store: Store, shard: int, changed: Mapping[int, ImageRecord], fence: FencingToken | None = None
) -> pa.Table:
    """Replace some rows of a committed shard with new records; returns the resulting part.

    Only the holder of the run's lease may call this. A row whose file and bytes are already
    recorded stays as it is, to the last bit.

    Args:
        store: the run directory.
        shard: a committed shard.
        changed: row in the shard -> its new record.
        fence: the token of the lease.

    Raises:
        Damaged: the part is not what was written.
        LeaseLost: another process has taken over the run.
    """
    part: pa.Table = None

    def amended(seen: bytes | None) -> bytes | None:
        nonlocal part
        current = _current_part(store, shard, seen)
        part = _amended(current, changed)
        return None if part is current else _encoded(part, replaces=seen)

    rewrite(store, shard_path(shard), amended, fence)
    return part


def seal_commit(store: Store, shard: int, fence: FencingToken) -> None:
    """Rewrite a commit with the same rows and the number of our lease.

    A process that lost the lease earlier can then no longer amend the commit, because the bytes
    that it read are gone.

    Raises:
        Damaged: the part is not what was written.
        LeaseLost: another process has taken over the run.
    """
    number = str(fence.number).encode()

    def sealed(seen: bytes | None) -> bytes | None:
        part = _current_part(store, shard, seen)
        if (part.schema.metadata or {}).get(SEAL) == number:
            return None
        return _encoded(part.replace_schema_metadata({SEAL: number}), replaces=seen)

    rewrite(store, shard_path(shard), sealed, fence)


def failed_rows(store: Store, shard: int) -> tuple[int, ...]:
    """The rows of a committed shard that failed and may be made again.

    Not those that the job's gates rejected: the same draws would end in the same way.

    Raises:
        Damaged: the part is not what was written.
    """
    part = read_commit(store, shard, ["status", "error_type"])
    ends = zip(*(column.to_pylist() for column in part.columns), strict=True)
    return tuple(
        row
        for row, (status, error_type) in enumerate(ends)
        if status == "failed" and error_type != FailureType.REJECTED
    )


def committed_shards(store: Store) -> set[int]:
    """The shards that are committed, from one listing."""
    return set(commit_sizes(store))


def commit_sizes(store: Store) -> dict[int, int]:
    """Shard -> bytes of its metadata part, for every committed shard, from one listing."""
    return {
        int(match.group(1)): num_bytes
        for path, num_bytes in store.list(METADATA_FOLDER).items()
        if (match := _SHARD_FILE.fullmatch(path))
    }


def metadata_columns(part: pa.Table, names: Sequence[str] = METADATA_SCHEMA.names) -> pa.Table:
    """The columns of the metadata schema, or some of them, without the carried ones.

    Columns that older versions did not write have the value for none; see `NOT_IN_OLDER_COMMITS`.
    """
    for name in NOT_IN_OLDER_COMMITS:
        if name in names and name not in part.column_names:
            field, none = METADATA_SCHEMA.field(name), NOT_IN_OLDER_COMMITS[name]
            part = part.append_column(field, pa.array([none] * len(part), field.type))
    return part.select(names).cast(pa.schema([METADATA_SCHEMA.field(name) for name in names]))


def read_columns(file: pq.ParquetFile, names: Sequence[str]) -> pa.Table:
    """Some columns of the metadata schema of an open metadata part, of any version."""
    stored = file.schema_arrow
    carried = carried_under_later_names(stored, ADDED_TO_METADATA)
    present = [name for name in names if name in stored.names and name not in carried]
    return metadata_columns(file.read(present, use_threads=False), names)


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


def _summary_in(footer: pq.FileMetaData) -> Summary | None:
    """The summary in a footer; None if another program wrote the part."""
    try:
        return Summary.from_dict(json.loads(footer.metadata[SUMMARY]))
    except (ValueError, TypeError, KeyError):
        return None


@contextmanager
def _as_damaged(store: Store, shard: int) -> Iterator[None]:
    """Turn what pyarrow raises for a part that is damaged into `Damaged`."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise Damaged(
            f"{store.url}/{shard_path(shard)} is damaged ({one_line(error, 200)}); nightpress "
            "verify --repair makes it again",
            shard,
        ) from error


def _footer(store: Store, path: str, num_bytes: int) -> pq.FileMetaData:
    """Read the footer of a Parquet file of a known size."""
    tail = store.read_part(path, max(0, num_bytes - FOOTER_BYTES), FOOTER_BYTES)
    footer_bytes = int.from_bytes(tail[-8:-4], "little") + 8
    if len(tail) < footer_bytes <= num_bytes:
        tail = store.read_part(path, num_bytes - footer_bytes, footer_bytes)
    return pq.read_metadata(pa.BufferReader(tail))


def _current_part(store: Store, shard: int, seen: bytes | None) -> pa.Table:
    if seen is None:
        raise StoreMissing(f"{store.url}/{shard_path(shard)}: not found")
    return decode_commit(store, shard, seen)


def _amended(part: pa.Table, changed: Mapping[int, ImageRecord]) -> pa.Table:
    """A part with new records in some rows; the same object if no row changes."""
    rows = metadata_columns(part).to_pylist()
    new = {row: record for row, record in changed.items() if not _is_recorded(record, rows[row])}
    if not new:
        return part
    for row, values in zip(new, _table(list(new.values())).to_pylist(), strict=True):
        rows[row] = {**values, "attempts": values["attempts"] + rows[row]["attempts"]}
    amended = pa.Table.from_pylist(rows, schema=METADATA_SCHEMA)
    for name in part.column_names:
        if name not in METADATA_SCHEMA.names:
            amended = amended.append_column(part.schema.field(name), part.column(name))
    return amended


def _is_recorded(record: ImageRecord, row: Mapping[str, object]) -> bool:
    """Whether a metadata row already has the image's location and SHA-256."""
    if record.sha256 is None:
        return False
    location = (record.file, record.member_offset, record.sha256)
    return location == (row["file"], row["member_offset"], row["sha256"])


def _table(records: Sequence[ImageRecord]) -> pa.Table:
    values = [_metadata_row(record) for record in records]
    return pa.Table.from_pylist(values, schema=METADATA_SCHEMA)


def _encoded(part: pa.Table, replaces: bytes | None = None) -> bytes:
    """A part as Parquet, with the summary of its rows in the footer.

    It is longer than the part that it replaces. A listing then shows that a commit has changed.
    """
    metadata = {**(part.schema.metadata or {}), SUMMARY: _json(Summary.of(part).as_dict())}
    metadata.pop(PADDING, None)
    data = _parquet(part.replace_schema_metadata(metadata))
    missing = len(replaces) + 1 - len(data) if replaces is not None else 0
    if missing > 0:
        data = _parquet(part.replace_schema_metadata({**metadata, PADDING: b" " * missing}))
    return data


def _json(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, separators=(",", ":")).encode()


def _parquet(part: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(part, sink, compression="zstd", write_page_checksum=True)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _metadata_row(record: ImageRecord) -> dict[str, object]:
    return {
        **record.facts.as_row(),
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
        "scores": record.scores,
        "perceptual_hash": record.perceptual_hash,
        "draw": record.draw,
        "draws": record.draws,
        "gate": record.gate,
        "scoring_s": record.scoring_s,
        "first_frame": record.first_frame,
    }
