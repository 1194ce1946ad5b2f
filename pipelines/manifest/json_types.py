"""The types of JSON values: exactly what a column can be read as without changing a value.

A type stands for all values of a column: `common_type` joins those of two values or of two blocks
of a file. None means that no type holds them all as they are; the column is then read as text, in
which a string is itself and any other value is its JSON as the file has it.

Objects with different keys have no common type, because Arrow would add the missing keys as null.
Integers beyond 2^53 and floats have none, because a float would round them.
"""

from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

LARGE_INT = pa.decimal128(19)
"""Integers of which some are beyond 2^53, and so differ from every float, but fit into an int64."""

MAX_EXACT_FLOAT = 1 << 53

MAX_INT64 = (1 << 63) - 1

MAX_DEPTH = 32
"""Columns with deeper lists and objects are read as text."""


def common_type(one: pa.DataType | None, other: pa.DataType | None) -> pa.DataType | None:
    """The type of values of both types; None if a value of one would change."""
    if one is None or other is None:
        return None
    if one == other or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    kinds = {one, other}
    if kinds == {pa.int64(), LARGE_INT}:
        return LARGE_INT
    if kinds == {pa.int64(), pa.float64()}:
        return pa.float64()
    if pa.types.is_list(one) and pa.types.is_list(other):
        item = common_type(one.value_type, other.value_type)
        return None if item is None else pa.list_(item)
    if pa.types.is_struct(one) and pa.types.is_struct(other):
        return _common_struct(one, other)
    return None


def _common_struct(one: pa.StructType, other: pa.StructType) -> pa.DataType | None:
    names = one.names
    if set(names) != set(other.names):
        return None
    types = [common_type(one.field(name).type, other.field(name).type) for name in names]
    return _struct(names, types)


def final_type(type_: pa.DataType | None) -> pa.DataType:
    """The type that a column is read as; text where values have no common type.

    Text also stands for objects without keys, which Parquet cannot hold.
    """
    final = None if type_ is None else _final(type_)
    return pa.string() if final is None else final


def _final(type_: pa.DataType) -> pa.DataType | None:
    if type_ == LARGE_INT:
        return pa.int64()
    if pa.types.is_list(type_):
        item = _final(type_.value_type)
        return None if item is None else pa.list_(item)
    if pa.types.is_struct(type_):
        types = [_final(field.type) for field in type_]
        return _struct(type_.names, types) if types else None
    return type_


def type_of_values(values: Iterable[Any], depth: int = 0) -> pa.DataType | None:
    """The common type of values from Python's `json`; None if there is none."""
    values = list(values)
    classes = set(map(type, values)) - {type(None)}
    if not classes:
        return pa.null()
    if classes <= {int, float}:
        return _type_of_numbers(values, classes)
    if len(classes) > 1:
        return None
    (only,) = classes
    if only is bool or only is str:
        return pa.bool_() if only is bool else pa.string()
    given = [value for value in values if value is not None]
    if depth >= MAX_DEPTH:
        return None
    if only is list:
        item = type_of_values([item for value in given for item in value], depth + 1)
        return None if item is None else pa.list_(item)
    return _type_of_objects(given, depth)


def _type_of_numbers(values: list[Any], classes: set[type]) -> pa.DataType | None:
    if classes == {float}:
        return pa.float64()
    ints = [value for value in values if type(value) is int]
    largest = max(max(ints), -min(ints))
    if largest <= MAX_EXACT_FLOAT:
        return pa.float64() if float in classes else pa.int64()
    return LARGE_INT if largest <= MAX_INT64 and float not in classes else None


def _type_of_objects(objects: list[dict[str, Any]], depth: int) -> pa.DataType | None:
    names = list(objects[0])
    if any(value.keys() != objects[0].keys() for value in objects):
        return None
    return _struct(
        names, [type_of_values([value[name] for value in objects], depth + 1) for name in names]
    )


def type_of_column(column: pa.ChunkedArray | pa.Array, depth: int = 0) -> pa.DataType | None:
    """The type of values that Arrow has read without a schema; text is never a time."""
    type_ = column.type
    if pa.types.is_temporal(type_):
        return pa.string()
    if pa.types.is_int64(type_):
        bounds = pc.min_max(column)
        largest = max(bounds["max"].as_py() or 0, -(bounds["min"].as_py() or 0))
        return pa.int64() if largest <= MAX_EXACT_FLOAT else LARGE_INT
    if depth >= MAX_DEPTH and type_.num_fields:
        return None
    if pa.types.is_list(type_):
        item = type_of_column(_items(column), depth + 1)
        return None if item is None else pa.list_(item)
    if pa.types.is_struct(type_):
        children = [_child(column, index) for index in range(type_.num_fields)]
        return _struct(type_.names, [type_of_column(child, depth + 1) for child in children])
    return type_


def _struct(names: list[str], types: list[pa.DataType | None]) -> pa.DataType | None:
    """An object's type; None if the values of a key have no common type."""
    if any(type_ is None for type_ in types):
        return None
    return pa.struct(list(zip(names, types, strict=True)))


def may_differ(column: pa.ChunkedArray | pa.Array, depth: int = 0) -> bool:
    """Whether Arrow may have read something else than the JSON says.

    In objects it does not tell null from a missing key. Floats beyond 2^53 may have been integers,
    and infinite ones the word `Inf`, which is no JSON. It miscounts lists of nothing but null.
    What is nested deeper than `MAX_DEPTH` is not looked at.
    """
    type_ = column.type
    if pa.types.is_floating(type_):
        bounds = pc.min_max(column)
        largest = max(abs(bounds["max"].as_py() or 0), abs(bounds["min"].as_py() or 0))
        return bool(largest >= MAX_EXACT_FLOAT)
    if depth >= MAX_DEPTH and type_.num_fields:
        return True
    if pa.types.is_list(type_):
        return pa.types.is_null(type_.value_type) or may_differ(_items(column), depth + 1)
    if not pa.types.is_struct(type_):
        return False
    children = [_child(column, index) for index in range(type_.num_fields)]
    return any(child.null_count or may_differ(child, depth + 1) for child in children)


def has_lists_of_null(type_: pa.DataType) -> bool:
    """Whether values of this type hold lists in which nothing but null was seen."""
    children = [type_.field(index).type for index in range(type_.num_fields)]
    return (pa.types.is_list(type_) and pa.types.is_null(type_.value_type)) or any(
        has_lists_of_null(child) for child in children
    )


def _items(column: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array:
    return pc.list_flatten(column)


def _child(column: pa.ChunkedArray | pa.Array, index: int) -> pa.ChunkedArray | pa.Array:
    """The values of one key in the objects that are not null."""
    return pc.struct_field(column.drop_null(), [index])
