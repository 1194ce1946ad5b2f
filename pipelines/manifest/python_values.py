"""Arrow values as Python has them, and types changed at any depth."""

from collections.abc import Callable
from typing import Any

import pyarrow as pa


def python_rows(table: pa.Table) -> list[dict[str, Any]]:
    """The rows as Python values; a column that has no such values has its times as text.

    Python has no time beyond the year 9999, and without pandas none with nanoseconds.
    """
    columns = [python_values(column) for column in table.columns]
    names = table.column_names
    rows = zip(*columns, strict=True) if columns else [()] * table.num_rows
    return [dict(zip(names, row, strict=True)) for row in rows]


def nanoseconds_as_text(table: pa.Table) -> pa.Table:
    """The table with text in place of times in nanoseconds, whether pandas is there or not."""
    for index, column in enumerate(table.schema):
        type_ = with_types(column.type, lambda inner: pa.string() if _is_in_ns(inner) else inner)
        if type_ != column.type:
            texts = table.column(index).cast(type_)
            table = table.set_column(index, column.with_type(type_), texts)
    return table


def with_types(type_: pa.DataType, change: Callable[[pa.DataType], pa.DataType]) -> pa.DataType:
    """A type with other types in the lists, structs and maps inside it, at any depth."""

    def changed(inner: pa.Field) -> pa.Field:
        return inner.with_type(with_types(inner.type, change))

    if pa.types.is_fixed_size_list(type_):
        return pa.list_(changed(type_.value_field), type_.list_size)
    if pa.types.is_list(type_):
        return pa.list_(changed(type_.value_field))
    if pa.types.is_struct(type_):
        return pa.struct([changed(field) for field in type_])
    if pa.types.is_map(type_):
        return pa.map_(changed(type_.key_field), changed(type_.item_field))
    return change(type_)


def python_values(column: pa.ChunkedArray) -> list[Any]:
    """The values of one column; see `python_rows`."""
    try:
        values: list[Any] = column.to_pylist()
    except (ValueError, OverflowError):
        texts = with_types(column.type, lambda t: pa.string() if pa.types.is_temporal(t) else t)
        values = column.cast(texts).to_pylist()
    return values


def _is_in_ns(type_: pa.DataType) -> bool:
    return bool(pa.types.is_temporal(type_) and getattr(type_, "unit", "") == "ns")
