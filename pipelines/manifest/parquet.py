"""Parquet manifests: their columns and row groups, and reading some of the rows again.

What Arrow would not be able to write again or give to Python is refused here: unknown time zones,
names that occur twice or are not UTF-8.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nightpress.pipelines.manifest.null_lists import cast_with
from nightpress.pipelines.manifest.types import holds, plain_type, repeated

BATCH_ROWS, BATCH_BYTES = 32_768, 16 << 20
"""How much of a file is in memory at once."""

BUFFER_BYTES = 1 << 20
"""The read buffer of each column; without one, a whole row group of it is read at once."""


@dataclass(frozen=True)
class RowGroup:
    """The size of one row group."""

    num_bytes: int
    """Uncompressed."""
    num_rows: int


def scan_parquet(stream: BinaryIO) -> tuple[pa.Schema, list[RowGroup]]:
    """The columns of a file in plain types, and its row groups.

    Raises:
        ArrowException, OSError, UnicodeDecodeError: this is not a sound Parquet file.
    """
    with pq.ParquetFile(stream) as parquet:
        schema = parquet.schema_arrow
        repeated_name = repeated(schema.names)
        if repeated_name is not None:
            raise pa.ArrowInvalid(f"column {repeated_name!r} appears twice")
        for field in schema:
            _refuse_unusable(field)
        fields = [pa.field(field.name, plain_type(field.type)) for field in schema]
        groups = [parquet.metadata.row_group(i) for i in range(parquet.num_row_groups)]
        sizes = [RowGroup(group.total_byte_size, group.num_rows) for group in groups]
    return pa.schema(fields), sizes


def read_parquet(
    stream: BinaryIO, groups: Sequence[int], row_bytes: float, schema: pa.Schema
) -> Iterator[pa.Table]:
    """The rows of some row groups, with the columns of `schema`, a few at a time.

    Args:
        stream: the file.
        groups: numbers of row groups.
        row_bytes: the average size of a row, uncompressed.
        schema: columns and types from `scan_parquet`.
    """
    num_rows = max(1, min(BATCH_ROWS, int(BATCH_BYTES / max(row_bytes, 1))))
    with pq.ParquetFile(
        stream, buffer_size=BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True
    ) as parquet:
        # Arrow cannot read categories inside lists and structs across row groups.
        alone = any(holds(field.type, pa.types.is_dictionary) for field in parquet.schema_arrow)
        together = [[group] for group in groups] if alone else [list(groups)]
        try:
            for each in together:
                for batch in parquet.iter_batches(
                    num_rows, each, columns=schema.names, use_threads=False
                ):
                    yield conformed(pa.Table.from_batches([batch]), schema)
        except (pa.ArrowInvalid, OSError) as error:
            is_of_the_file = getattr(error, "errno", None) is None  # else of the file system
            column = _damaged_column(parquet, groups, schema.names) if is_of_the_file else None
            if column is None:
                raise
            raise pa.ArrowInvalid(f"column {column!r}: {error}") from error


def _damaged_column(
    parquet: pq.ParquetFile, groups: Sequence[int], names: Sequence[str]
) -> str | None:
    """The first column that cannot be read by itself."""
    for name in names:
        try:
            for group in groups:
                parquet.read_row_group(group, columns=[name], use_threads=False)
        except (pa.ArrowInvalid, OSError):
            return name
    return None


def conformed(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The columns of `schema`, in its types."""
    columns = [_in_plain_type(table[field.name], field) for field in schema]
    if not columns:
        return table.select([])
    return pa.table(columns, schema=schema)


def _in_plain_type(column: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    if pa.types.is_dictionary(column.type):  # unlike a cast, this leaves text unexamined
        chunks = [chunk.dictionary_decode() for chunk in column.chunks]
        column = pa.chunked_array(chunks, column.type.value_type)
    if column.type == field.type:
        return column
    try:
        return cast_with(pc.cast, column, field.type)
    except pa.ArrowInvalid as error:
        raise pa.ArrowInvalid(f"column {field.name!r}: {error}") from error


def kept_in_part(column: pa.Field) -> str | None:
    """What is wrong with a column of pandas' periods or intervals, whose values Arrow has in part.

    It stores a period as a number of days or months since 1970, and of an interval only the ends.
    """
    marked = (column.metadata or {}).get(b"ARROW:extension:name", b"").decode("utf-8", "replace")
    name = getattr(column.type, "extension_name", marked)
    if name not in ("pandas.period", "pandas.interval"):
        return None
    kind = name.removeprefix("pandas.")
    return f"it holds {kind}s of pandas, which Arrow does not store as text; use .astype(str)"


def _refuse_unusable(column: pa.Field) -> None:
    """Refuse a column whose values Python or another Parquet file could not hold."""
    problem = kept_in_part(column)
    if problem is not None:
        raise pa.ArrowInvalid(f"column {column.name!r}: {problem}")

    def is_unusable(type_: pa.DataType) -> bool:
        if pa.types.is_struct(type_):
            name = repeated([field.name for field in type_])
            if name is not None:
                raise pa.ArrowInvalid(f"column {column.name!r} has a field {name!r} twice")
        if pa.types.is_timestamp(type_) and type_.tz is not None:
            _refuse_unknown_zone(column.name, type_)
        return False

    holds(column.type, is_unusable)
    try:
        pc.cast(pa.array([], column.type), plain_type(column.type))
    except pa.ArrowNotImplementedError as error:
        message = f"column {column.name!r} has a type that is not supported, {column.type}"
        raise pa.ArrowInvalid(message) from error


def _refuse_unknown_zone(column: str, type_: pa.DataType) -> None:
    try:
        pa.scalar(0, type_).as_py()
        pc.cast(pa.scalar(0, type_), pa.string())
    except (ValueError, LookupError, OSError) as error:
        message = f"column {column!r} has times in an unknown time zone, {type_.tz!r}"
        raise pa.ArrowInvalid(message) from error
