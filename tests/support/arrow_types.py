"""A column of every Arrow type that Parquet can hold, with values that are easily damaged."""

import decimal
import uuid
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import pyarrow as pa

DAY = date(2024, 2, 29)
MOMENT = datetime(2024, 2, 29, 23, 59, 59, 123456)
NESTED = pa.struct([("a", pa.list_(pa.int64())), ("b", pa.dictionary(pa.int8(), pa.string()))])


def _decimals(*texts: str) -> list[decimal.Decimal]:
    return [decimal.Decimal(text) for text in texts]


def arrow_columns() -> dict[str, pa.Array]:
    """Name -> three values, the last of which is null."""
    values = {
        "null": (pa.null(), [None, None]),
        "bool": (pa.bool_(), [True, False]),
        "int8": (pa.int8(), [-128, 127]),
        "int64": (pa.int64(), [2**53 + 1, -(2**63)]),
        "uint8": (pa.uint8(), [0, 255]),
        "uint32": (pa.uint32(), [0, 2**32 - 1]),
        "uint64": (pa.uint64(), [0, 2**64 - 1]),
        "half": (pa.float16(), [0.5, -2.0]),
        "float": (pa.float32(), [0.1, float("inf")]),
        "double": (pa.float64(), [0.1, 1e308]),
        "decimal32": (pa.decimal32(5, 2), _decimals("1.10", "-999.99")),
        "decimal128": (pa.decimal128(38, 10), _decimals("0.1000000000", "-1")),
        "decimal256": (pa.decimal256(76, 0), _decimals("9" * 76, "1")),
        "string": (pa.string(), ["", "é\U0001f600 \u0000 x"]),
        "large_string": (pa.large_string(), ["a", "b"]),
        "string_view": (pa.string_view(), ["a", "a longer text than twelve bytes"]),
        "binary": (pa.binary(), [b"\xff\x00", b""]),
        "large_binary": (pa.large_binary(), [b"\xff\x00", b""]),
        "binary_view": (pa.binary_view(), [b"\xff\x00", b""]),
        "fixed_binary": (pa.binary(2), [b"\xff\x00", b"ab"]),
        "date32": (pa.date32(), [DAY, date(1, 1, 1)]),
        "date64": (pa.date64(), [DAY, date(9999, 12, 31)]),
        "time32_s": (pa.time32("s"), [time(23, 59, 59), time(0)]),
        "time32_ms": (pa.time32("ms"), [time(23, 59, 59, 1000), time(0)]),
        "time64_us": (pa.time64("us"), [time(23, 59, 59, 1), time(0)]),
        "time64_ns": (pa.time64("ns"), [1, 86_399_999_999_999]),
        "timestamp_s": (pa.timestamp("s"), [0, -1]),
        "timestamp_ms": (pa.timestamp("ms"), [1, -1]),
        "timestamp_us": (pa.timestamp("us"), [MOMENT, datetime(1, 1, 1)]),
        "timestamp_ns": (pa.timestamp("ns"), [1, 2**62]),
        "timestamp_utc": (pa.timestamp("us", "UTC"), [MOMENT.replace(tzinfo=UTC), 0]),
        "timestamp_zone": (pa.timestamp("ms", "Europe/Berlin"), [1, -1]),
        "timestamp_offset": (pa.timestamp("ns", "+05:30"), [1, -1]),
        "duration_s": (pa.duration("s"), [1, timedelta(days=1)]),
        "duration_ns": (pa.duration("ns"), [1, -1]),
        "list": (pa.list_(pa.int64()), [[2**53 + 1, None], []]),
        "large_list": (pa.large_list(pa.string()), [["a"], [None]]),
        "list_view": (pa.list_view(pa.int8()), [[1], []]),
        "fixed_list": (pa.list_(pa.float32(), 2), [[0.1, None], [1, 2]]),
        "list_of_categories": (
            pa.list_(pa.dictionary(pa.int8(), pa.string())),
            [["x"], ["y", "x"]],
        ),
        "list_of_large": (pa.list_(pa.large_string()), [["x"], []]),
        "struct": (pa.struct([("a", pa.int64()), ("é", pa.string())]), [{"a": 1, "é": "x"}, {}]),
        "struct_of_nested": (NESTED, [{"a": [1], "b": "x"}, {"a": None, "b": "y"}]),
        "map": (pa.map_(pa.string(), pa.int64()), [[("k", 2**53 + 1)], []]),
        "map_of_large": (pa.map_(pa.large_string(), pa.list_(pa.int8())), [[("k", [1])], []]),
        "category": (pa.dictionary(pa.int8(), pa.string()), ["x", "y"]),
        "category_of_ints": (pa.dictionary(pa.int8(), pa.int64()), [2**53 + 1, 1]),
        "uuid": (pa.uuid(), [uuid.UUID(int=1).bytes, uuid.UUID(int=2**128 - 1).bytes]),
        "json": (pa.json_(), ['{"a": 1}', "[]"]),
        "bool8": (pa.bool8(), [1, 0]),
    }
    return {name: _array(type_, two) for name, (type_, two) in values.items()}


def _array(type_: pa.DataType, two: list[Any]) -> pa.Array:
    if isinstance(type_, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(type_, _array(type_.storage_type, two))
    return pa.array([*two, None], type_)
