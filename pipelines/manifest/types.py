"""The Arrow types that columns are read as, and what happens when files disagree.

Text is `string`, categories become their values, and a column without a common type becomes text.
"""

import json
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc


def plain_type(type_: pa.DataType) -> pa.DataType:
    """The type that a column of `type_` is read as: the same values in a plain encoding."""
    if pa.types.is_dictionary(type_) or pa.types.is_run_end_encoded(type_):
        return plain_type(type_.value_type)
    if pa.types.is_large_string(type_) or pa.types.is_string_view(type_):
        return pa.string()
    if pa.types.is_large_binary(type_) or pa.types.is_binary_view(type_):
        return pa.binary()
    return type_


def common_type(types: Iterable[pa.DataType]) -> pa.DataType:
    """A type that holds the values of all `types`: the widest for numbers, text if none fits."""
    common = pa.null()
    for type_ in types:
        schemas = [pa.schema([("", each)]) for each in (common, type_)]
        try:
            common = pa.unify_schemas(schemas, promote_options="permissive").field(0).type
        except (pa.ArrowTypeError, pa.ArrowInvalid):
            return pa.string()
    return common


def as_type(column: pa.ChunkedArray, type_: pa.DataType) -> pa.ChunkedArray:
    """Convert a column to `type_`, the `common_type` of its own type and others."""
    if column.type == type_:
        return column
    if pa.types.is_string(type_) and not _has_text_form(column.type):
        return pa.chunked_array([to_text(column.to_pylist())])
    return pc.cast(column, type_)


def to_text(values: Iterable[Any]) -> pa.Array:
    """Each value as text: strings unchanged, everything else as JSON."""
    return pa.array(
        [value if value is None or isinstance(value, str) else _json(value) for value in values],
        pa.string(),
    )


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _has_text_form(type_: pa.DataType) -> bool:
    return not (pa.types.is_nested(type_) or pa.types.is_binary(type_))


def one_chunk(column: pa.ChunkedArray) -> pa.Array:
    """The column as a single array, without copying if it has one chunk."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
