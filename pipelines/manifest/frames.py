"""A manifest that is a table in memory, such as a pyarrow Table or a pandas or polars frame.

Turns the table into the Parquet file that a run keeps. Neither pandas nor polars is imported.
"""

import io
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nightpress.diffusion_core.errors import one_line
from nightpress.pipelines.errors import ManifestError, Problem
from nightpress.pipelines.manifest.null_lists import cast_with
from nightpress.pipelines.manifest.parquet import kept_in_part
from nightpress.pipelines.manifest.types import plain_type

TABLE = "table"
"""What error messages call a manifest that is not a file."""

ROW_GROUP_ROWS = 32_768
"""Small enough that the rows of a large table are checked in parallel."""


class Frame(Protocol):
    """A table in memory with the Arrow PyCapsule interface, as in pyarrow, pandas and polars."""

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        """The table's rows as an Arrow stream."""
        ...


def table_of(frame: Frame) -> pa.Table:
    """The rows and columns of a frame, in plain types and without metadata.

    The index of a pandas frame is not a column. An unnamed index (the row numbers that are left
    after filtering or sorting) is dropped; a named one, which somebody set on purpose, is refused.

    Raises:
        TypeError: this is not a table.
        ManifestError: the pandas index has a name, or a column has no Arrow type that holds all of
            its values.
    """
    if not hasattr(frame, "__arrow_c_stream__"):
        raise TypeError(
            f"manifest: expected a pyarrow Table, or a pandas or polars frame, not a "
            f"{type(frame).__name__}; to read files, name them in the job's `manifest`"
        )
    rows = _without_index(frame)
    try:
        table = pa.table(rows)
        columns = [_plain(*each) for each in zip(table.schema, table.columns, strict=True)]
        return pa.table(columns, names=table.column_names).combine_chunks()
    except CONVERSION_ERRORS as error:
        if isinstance(error, ManifestError):
            raise
        message = f"cannot be read as an Arrow table: {_reason(error)}"
        raise _refusal(_column_at_fault(rows), message) from error


CONVERSION_ERRORS = (pa.ArrowException, ValueError, TypeError, OverflowError)
"""What Arrow raises for values that it has no type for."""


def _plain(field: pa.Field, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column in its plain type.

    Raises:
        ManifestError: Arrow holds its values only in part.
    """
    problem = kept_in_part(field)
    if problem is not None:
        raise _refusal(field.name, problem)
    type_ = plain_type(field.type)
    try:
        return column if column.type == type_ else cast_with(pc.cast, column, type_)
    except pa.ArrowException as error:
        raise _refusal(field.name, f"cannot be read as {type_}: {_reason(error)}") from error


def _column_at_fault(frame: Any) -> str | None:
    """The first column of a pandas frame that cannot be converted by itself."""
    if not hasattr(frame, "iloc") or not hasattr(frame, "columns"):
        return None
    for number, name in enumerate(frame.columns):
        try:
            pa.table(frame.iloc[:, [number]])
        except CONVERSION_ERRORS:
            return str(name)
    return None


def _reason(error: Exception) -> str:
    """What was wrong, in one line."""
    if isinstance(error, UnicodeEncodeError):
        return "its text has half a character: a lone surrogate such as \\ud800"
    reason = " ".join("; ".join(map(str, error.args)).split())
    if isinstance(error, OverflowError):
        return f"a number is too large for a column of numbers, but text can hold it ({reason})"
    return reason


def to_parquet(table: pa.Table) -> bytes:
    """A table from `table_of` as a Parquet file.

    Raises:
        ManifestError: Parquet has no such column type.
    """
    sink = io.BytesIO()
    try:
        pq.write_table(table, sink, row_group_size=ROW_GROUP_ROWS, write_page_checksum=True)
    except pa.ArrowException as error:
        reason = one_line(error, None)
        raise _refusal(None, f"cannot be written as Parquet: {reason}") from error
    return sink.getvalue()


def rewritten(data: bytes) -> bytes:
    """A file from `to_parquet` as this version of Arrow writes it: equal tables, equal bytes.

    Raises:
        ArrowException, OSError: the file is damaged.
    """
    return to_parquet(table_of(pq.read_table(io.BytesIO(data), page_checksum_verification=True)))


def _without_index(frame: Any) -> Any:
    """A pandas frame with plain row numbers as its index; any other frame as it is."""
    if not hasattr(frame, "reset_index"):
        return frame
    named = [str(name) for name in frame.index.names if name is not None]
    if named:
        raise _refusal(
            named[0],
            "is the index of the pandas frame, which is not read; make it a column with "
            "reset_index(), or drop it with reset_index(drop=True)",
        )
    return frame.reset_index(drop=True)


def _refusal(column: str | None, message: str) -> ManifestError:
    return ManifestError([Problem(TABLE, None, column, message)])
