"""Columns whose type differs between files."""

from decimal import Decimal
from itertools import permutations
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from nightpress.pipelines.manifest.types import (
    ValueLost,
    as_type,
    common_type,
    first_bad_text,
    plain_type,
)

NS = pa.timestamp("ns")
SAME = [
    ([pa.null(), pa.string()], pa.string()),
    ([pa.null(), pa.list_(pa.int8())], pa.list_(pa.int8())),
    ([pa.int8(), pa.int64()], pa.int64()),
    ([pa.uint8(), pa.uint32()], pa.uint32()),
    ([pa.uint8(), pa.int8()], pa.int16()),
    ([pa.uint32(), pa.int8()], pa.int64()),
    ([pa.uint64(), pa.int8()], pa.int64()),
    ([pa.int64(), pa.float64()], pa.float64()),
    ([pa.int8(), pa.float32()], pa.float64()),
    ([pa.float16(), pa.float32()], pa.float32()),
    ([pa.decimal128(5, 2), pa.decimal128(5, 4)], pa.decimal128(7, 4)),
    ([pa.decimal128(38, 0), pa.decimal128(5, 4)], pa.decimal256(42, 4)),
    ([pa.decimal128(5, 2), pa.int64()], pa.decimal128(22, 2)),
    ([pa.timestamp("s"), pa.timestamp("us"), NS], NS),
    ([pa.timestamp("us", "UTC"), pa.timestamp("ms", "UTC")], pa.timestamp("us", "UTC")),
    ([pa.time32("s"), pa.time64("us")], pa.time64("us")),
    ([pa.duration("s"), pa.duration("ms")], pa.duration("ms")),
    ([pa.binary(2), pa.binary(3)], pa.binary()),
    ([pa.list_(pa.int8()), pa.list_(pa.int16(), 2)], pa.list_(pa.int16())),
    (
        [pa.map_(pa.string(), pa.int8()), pa.map_(pa.string(), pa.int64())],
        pa.map_(pa.string(), pa.int64()),
    ),
    (
        [
            pa.struct([("a", pa.int8()), ("b", pa.null())]),
            pa.struct([("a", pa.int64()), ("b", NS)]),
        ],
        pa.struct([("a", pa.int64()), ("b", NS)]),
    ),
    ([pa.int64(), pa.string(), pa.bool_()], pa.string()),
    ([pa.date32(), pa.string()], pa.string()),
    ([pa.decimal128(5, 2), pa.string()], pa.string()),
]

NONE = [
    [pa.bool_(), pa.int8()],
    [pa.bool_(), pa.float64()],
    [pa.int64(), NS],
    [pa.date32(), NS],
    [pa.date32(), pa.int32()],
    [NS, pa.timestamp("ns", "UTC")],
    [pa.timestamp("ns", "Europe/Berlin"), pa.timestamp("ns", "UTC")],
    [NS, pa.duration("ns")],
    [pa.decimal128(5, 2), pa.float64()],
    [pa.decimal256(76, 0), pa.decimal256(76, 76)],
    [pa.string(), pa.binary()],
    [pa.string(), pa.duration("s")],
    [pa.string(), pa.list_(pa.int8())],
    [pa.string(), pa.struct([("a", pa.int8())])],
    [pa.string(), pa.uuid()],
    [pa.uuid(), pa.binary(16)],
    [pa.json_(), pa.string()],
    [pa.list_(pa.int8()), pa.list_(pa.string())],
    [pa.struct([("a", pa.int8())]), pa.struct([("a", pa.bool_())])],
    [pa.struct([("a", pa.int8())]), pa.struct([("b", pa.int8())])],
    [pa.struct([("a", pa.int8())]), pa.struct([("a", pa.int8()), ("b", pa.int8())])],
    [pa.list_(pa.struct([("a", pa.int8())])), pa.list_(pa.struct([("b", pa.int8())]))],
    [
        pa.struct([("x", pa.struct([("a", pa.int8())]))]),
        pa.struct([("x", pa.struct([("a", pa.int8()), ("b", pa.int8())]))]),
    ],
    [pa.struct([("a", pa.int8())]), pa.map_(pa.string(), pa.int8())],
    [pa.map_(pa.int8(), pa.int8()), pa.map_(pa.string(), pa.int8())],
]


@pytest.mark.parametrize(("types", "common"), SAME, ids=str)
def test_the_common_type_holds_every_value_in_any_order(
    types: list[pa.DataType], common: pa.DataType
) -> None:
    for order in permutations(types):
        assert common_type(order) == common


@pytest.mark.parametrize("types", NONE, ids=str)
def test_types_without_an_exact_common_type_have_none(types: list[pa.DataType]) -> None:
    assert common_type(types) is None
    assert common_type(reversed(types)) is None


def test_the_fields_of_structs_may_have_any_order() -> None:
    one, two = (pa.struct([(name, pa.int8()) for name in names]) for names in ("ab", "ba"))
    common = common_type([one, two])
    assert common == one
    column = pa.chunked_array([pa.array([{"b": 1, "a": 2}, None], two)])
    assert as_type(column, common).to_pylist() == [{"a": 2, "b": 1}, None]


@pytest.mark.parametrize(
    ("values", "type_", "target", "row"),
    [
        ([1, 2**53 + 1], pa.int64(), pa.float64(), 1),
        ([0, 2**63], pa.uint64(), pa.int64(), 1),
        ([[1], [2, 2**53 + 1], []], pa.list_(pa.int64()), pa.list_(pa.float64()), 1),
        ([None, 2**62], pa.timestamp("us"), NS, 1),
        ([None, 2**62], pa.timestamp("us"), pa.string(), 1),
    ],
)
def test_a_value_that_would_change_is_refused_with_its_row(
    values: list[Any], type_: pa.DataType, target: pa.DataType, row: int
) -> None:
    column = pa.chunked_array([pa.array(values[:1], type_), pa.array(values[1:], type_)])
    with pytest.raises(ValueLost) as caught:
        as_type(column, target)
    assert caught.value.row == row


@pytest.mark.parametrize(
    ("array", "texts"),
    [
        (pa.array([2**63 - 1, -1]), ["9223372036854775807", "-1"]),
        (pa.array([0.1, 1e300, float("nan")]), ["0.1", "1e+300", "nan"]),
        (pa.array([1.0, None, -0.0, 1e2, 1e15]), ["1.0", None, "-0.0", "100.0", repr(1e15)]),
        (pa.array([1e16, 1e-5, 5e-324]), ["1e+16", "1e-05", "5e-324"]),
        (pa.array([], pa.float64()), []),
        (pa.array([None], pa.float64()), [None]),
        (pa.array([0.1, 2**24], pa.float32()), ["0.1", "16777216.0"]),
        (pa.array([0.5, 1], pa.float16()), ["0.5", "1.0"]),
        (pa.array([True, None]), ["true", None]),
        (pa.array([Decimal("1.10")]), ["1.10"]),
        (pa.array([1], pa.timestamp("us", "UTC")), ["1970-01-01 00:00:00.000001Z"]),
    ],
)
def test_text_beside_text_keeps_every_digit(array: pa.Array, texts: list[str]) -> None:
    assert as_type(pa.chunked_array([array]), pa.string()).to_pylist() == texts


def test_text_in_other_arrow_encodings_is_read_as_text_at_any_depth() -> None:
    others = (pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string()))
    for type_ in others:
        assert plain_type(type_) == pa.string()
        assert plain_type(pa.large_list(type_)) == pa.list_(pa.string())
        assert plain_type(pa.struct([("a", type_)])) == pa.struct([("a", pa.string())])


def not_utf8(row: int) -> pa.Array:
    """Three texts, of which one is no text."""
    data = pa.array([b"\xff" if number == row else b"ok" for number in range(3)])
    return pa.Array.from_buffers(pa.string(), 3, data.buffers())


def test_text_that_is_not_utf8_is_found_at_any_depth() -> None:
    for row in range(3):
        bad = not_utf8(row)
        for column in (
            bad,
            pa.ListArray.from_arrays([0, 1, 2, 3], bad),
            pa.StructArray.from_arrays([bad], ["a"]),
            pa.MapArray.from_arrays([0, 1, 2, 3], pa.array(["k"] * 3), bad),
        ):
            assert first_bad_text(pa.chunked_array([column])) == row
    assert first_bad_text(pa.chunked_array([pa.array(["é", None])])) is None
    assert first_bad_text(pa.chunked_array([pa.array([b"\xff"])])) is None


def test_a_float_beside_text_is_written_as_python_writes_it() -> None:
    random = np.random.default_rng(0)
    values = np.concatenate(
        [
            random.integers(0, 1 << 64, 1000, np.uint64).view(np.float64),
            random.integers(0, 10**17, 100).astype(float),
            random.uniform(-1e6, 1e6, 100),
        ]
    )
    assert as_type(pa.chunked_array([values]), pa.string()).to_pylist() == list(
        map(repr, values.tolist())
    )
