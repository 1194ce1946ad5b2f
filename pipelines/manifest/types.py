"""The Arrow types that columns are read as, and what happens when files disagree.

Text is `string`, and categories become their values. A column whose type differs between files gets
a type that holds the values of all of them exactly, or text beside text, or is refused. Structs
must have the same fields in every file, because Arrow would add the missing ones as null.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable
from functools import reduce
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from nightpress.diffusion_core.errors import one_line
from nightpress.pipelines.manifest.python_values import with_types

INT_DIGITS = {8: 3, 16: 5, 32: 10, 64: 20}
"""The most decimal digits of an integer with so many bits."""

MAX_DECIMAL128, MAX_DECIMAL256 = 38, 76
"""The most digits of Arrow's decimal types."""

UNITS = ("s", "ms", "us", "ns")

OUT_OF_RANGE = "<value out of range"
"""What Arrow writes as the text of a moment outside its calendar."""


class ValueLost(ValueError):
    """A value cannot be converted without a loss: `row` is its index in the column."""

    def __init__(self, row: int, reason: str) -> None:
        self.row = row
        self.reason = reason
        super().__init__(reason)


def plain_type(type_: pa.DataType) -> pa.DataType:
    """The type that a column of `type_` is read as: the same values in a plain encoding."""
    if pa.types.is_dictionary(type_) or pa.types.is_run_end_encoded(type_):
        return plain_type(type_.value_type)
    if pa.types.is_large_string(type_) or pa.types.is_string_view(type_):
        return pa.string()
    if pa.types.is_large_binary(type_) or pa.types.is_binary_view(type_):
        return pa.binary()
    if pa.types.is_decimal32(type_) or pa.types.is_decimal64(type_):
        return pa.decimal128(type_.precision, type_.scale)
    if pa.types.is_large_list(type_):
        return plain_type(pa.list_(type_.value_field))
    if pa.types.is_list_view(type_):  # Arrow 26 casts list views to lists with a part missing
        return pa.list_view(plain_type(type_.value_type))
    if pa.types.is_struct(type_) or pa.types.is_map(type_) or _is_list(type_):
        return with_types(type_, plain_type)
    return type_


def common_type(types: Iterable[pa.DataType]) -> pa.DataType | None:
    """A type that holds the values of all `types`; None if there is none.

    The widest of numbers, the finest unit of times, and text beside text, where a float is written
    as JSON and Python write it, `1.0`, however its file spells it. Some conversions to it
    depend on the values: `as_type` refuses an integer that a float cannot hold exactly.
    """
    given = [type_ for type_ in dict.fromkeys(types) if not pa.types.is_null(type_)]
    if any(pa.types.is_string(type_) for type_ in given):
        return pa.string() if all(map(_has_text_form, given)) else None
    return reduce(_merged, given, pa.null())


def as_type(column: pa.ChunkedArray, type_: pa.DataType) -> pa.ChunkedArray:
    """Convert a column to `type_`, the `common_type` of its own type and others.

    Raises:
        ValueLost: a value has no exact equivalent.
    """
    if column.type.equals(type_, check_metadata=True):
        return column
    try:
        return _cast(column, type_)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:

        def is_lost(rows: pa.ChunkedArray) -> bool:
            try:
                _cast(rows, type_)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
                return True
            return False

        row = _first_row(column, is_lost) or 0
        raise ValueLost(row, one_line(error, 200)) from error


def first_bad_text(column: pa.ChunkedArray) -> int | None:
    """The first row with text that is not UTF-8, at any depth; None if there is none.

    Parquet files and other programs may hold such text: Arrow does not look when it reads.
    """
    if not _holds_text(column.type) or _is_sound(column):
        return None
    return _first_row(column, lambda rows: not _is_sound(rows))


def what_is_not_utf8(column: pa.ChunkedArray, row: int) -> str:
    """What is wrong with the text in a row that `first_bad_text` found."""
    if pa.types.is_string(column.type):
        try:
            column[row].as_buffer().to_pybytes().decode()
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            return f"not UTF-8 text: byte 0x{byte:02x} at position {error.start}"
    return "it holds text that is not UTF-8"


def to_text(values: Iterable[Any]) -> pa.Array:
    """Each value as text: strings unchanged, everything else as JSON."""
    return pa.array(
        [value if value is None or isinstance(value, str) else _json(value) for value in values],
        pa.string(),
    )


def one_chunk(column: pa.ChunkedArray) -> pa.Array:
    """The column as a single array, without copying if it has one chunk."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def repeated(names: Iterable[str]) -> str | None:
    """The first name that occurs twice, if any."""
    return next((name for name, count in Counter(names).items() if count > 1), None)


def holds(type_: pa.DataType, is_wanted: Callable[[pa.DataType], bool]) -> bool:
    """Whether a type, or one inside it at any depth, is wanted."""
    if is_wanted(type_):
        return True
    if isinstance(type_, pa.BaseExtensionType):
        return holds(type_.storage_type, is_wanted)
    if pa.types.is_dictionary(type_):
        return holds(type_.value_type, is_wanted)
    children = (type_.field(index).type for index in range(type_.num_fields))
    return any(holds(child, is_wanted) for child in children)


def _is_list(type_: pa.DataType) -> bool:
    kinds = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(is_kind(type_) for is_kind in kinds)


def _has_text_form(type_: pa.DataType) -> bool:
    """Whether a value can be told from its text: numbers, booleans and points in time."""
    is_scalar = pa.types.is_primitive(type_) and not pa.types.is_duration(type_)
    return bool(is_scalar or pa.types.is_string(type_) or pa.types.is_decimal(type_))


def _merged(one: pa.DataType | None, other: pa.DataType) -> pa.DataType | None:
    """The type that holds the values of two types, not both of them text; None if there is none."""
    if one is None or one == other:
        return one
    if pa.types.is_null(one):
        return other
    if pa.types.is_null(other):
        return one
    for rule in (_merged_numbers, _merged_times, _merged_bytes, _merged_nested):
        merged = rule(one, other)
        if merged is not None:
            return merged
    return None


def _merged_numbers(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    types = (one, other)
    if all(map(pa.types.is_integer, types)):
        return _merged_integers(one, other)
    if any(map(pa.types.is_decimal, types)):
        return _merged_decimals(one, other)
    if all(pa.types.is_integer(type_) or pa.types.is_floating(type_) for type_ in types):
        floats = all(map(pa.types.is_floating, types))
        return max(types, key=lambda type_: type_.bit_width) if floats else pa.float64()
    return None


def _merged_integers(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    if pa.types.is_signed_integer(one) == pa.types.is_signed_integer(other):
        return max(one, other, key=lambda type_: type_.bit_width)
    signed, unsigned = (one, other) if pa.types.is_signed_integer(one) else (other, one)
    bits = max(signed.bit_width, min(64, 2 * unsigned.bit_width))
    return {16: pa.int16(), 32: pa.int32(), 64: pa.int64()}[bits]


def _merged_decimals(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    whole, scale = 0, 0
    for type_ in (one, other):
        if pa.types.is_decimal(type_):
            whole, scale = max(whole, type_.precision - type_.scale), max(scale, type_.scale)
        elif pa.types.is_integer(type_):
            whole = max(whole, INT_DIGITS[type_.bit_width])
        else:
            return None
    if whole + scale > MAX_DECIMAL256:
        return None
    make = pa.decimal128 if whole + scale <= MAX_DECIMAL128 else pa.decimal256
    return make(whole + scale, scale)


def _merged_times(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    types = (one, other)
    if all(map(pa.types.is_timestamp, types)) and one.tz == other.tz:
        return pa.timestamp(_finest(one, other), one.tz)
    if all(map(pa.types.is_duration, types)):
        return pa.duration(_finest(one, other))
    if all(map(pa.types.is_time, types)):
        unit = _finest(one, other)
        return pa.time32(unit) if unit in ("s", "ms") else pa.time64(unit)
    return None


def _finest(one: pa.DataType, other: pa.DataType) -> str:
    return UNITS[max(UNITS.index(one.unit), UNITS.index(other.unit))]


def _merged_bytes(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    are_bytes = (
        pa.types.is_binary(type_) or pa.types.is_fixed_size_binary(type_) for type_ in (one, other)
    )
    return pa.binary() if all(are_bytes) else None


def _merged_nested(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    types = (one, other)
    if all(map(_is_list, types)):
        inner = _merged(one.value_type, other.value_type)
        return None if inner is None else pa.list_(inner)
    if all(map(pa.types.is_map, types)) and one.key_type == other.key_type:
        inner = _merged(one.item_type, other.item_type)
        return None if inner is None else pa.map_(one.key_type, inner)
    if all(map(pa.types.is_struct, types)):
        return _merged_structs(one, other)
    return None


def _merged_structs(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """Fields by name, in any order; None if a field is in one only, as it would become null."""
    if set(one.names) != set(other.names):
        return None
    fields = []
    for name in one.names:
        inner = _merged(one.field(name).type, other.field(name).type)
        if inner is None:
            return None
        fields.append(pa.field(name, inner))
    return pa.struct(fields)


def _cast(column: pa.ChunkedArray, type_: pa.DataType) -> pa.ChunkedArray:
    converted = pc.cast(column, type_)
    if pa.types.is_string(type_) and pa.types.is_floating(column.type):
        return pa.chunked_array(map(_float_texts, converted.chunks), type_)
    if pa.types.is_string(type_) and pa.types.is_temporal(column.type):
        lost = pc.any(pc.starts_with(converted, OUT_OF_RANGE)).as_py()
        if lost:
            raise pa.ArrowInvalid("it lies outside the calendar and has no text")
    return converted


def _float_texts(texts: pa.StringArray) -> pa.StringArray:
    """Arrow's texts of floats as JSON and Python write them: `1.0` and `1e-05`, never `1`."""
    values = pc.cast(texts, pa.float64()).to_numpy(zero_copy_only=False)
    return pc.if_else(texts.is_valid(), pa.array(values.astype(str)), None)


def _first_row(column: pa.ChunkedArray, is_bad: Callable[[pa.ChunkedArray], bool]) -> int | None:
    """The first row that is bad, by bisection; None if each row by itself is good."""
    low, high = 0, len(column)
    while high - low > 1:
        middle = (low + high) // 2
        if is_bad(column.take(pa.array(range(low, middle)))):
            high = middle
        else:
            low = middle
    return low if high > low and is_bad(column.take(pa.array([low]))) else None


def _holds_text(type_: pa.DataType) -> bool:
    return holds(type_, pa.types.is_string)


def _is_sound(column: pa.ChunkedArray) -> bool:
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
