"""Random Parquet files: types, nesting, nulls, row groups, encodings and compressions."""

import io
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

SIMPLE: dict[pa.DataType, Callable[[random.Random], Any]] = {
    pa.bool_(): lambda dice: dice.random() < 0.5,
    pa.int8(): lambda dice: dice.randint(-(2**7), 2**7 - 1),
    pa.int32(): lambda dice: dice.choice([0, -(2**31), 2**31 - 1, dice.randint(-9, 9)]),
    pa.int64(): lambda dice: dice.choice([2**53 + 1, -(2**63), dice.randint(-(2**62), 2**62)]),
    pa.uint16(): lambda dice: dice.randrange(2**16),
    pa.uint64(): lambda dice: dice.choice([2**64 - 1, dice.randrange(2**64)]),
    pa.float32(): lambda dice: dice.choice([0.1, -0.0, float("nan"), dice.gauss(0, 1e9)]),
    pa.float64(): lambda dice: dice.choice([0.1, float("inf"), 5e-324, dice.gauss(0, 1e99)]),
    pa.string(): lambda dice: dice.choice(["", "é😀\x00", "a,b\n", '"', str(dice.random())]),
    pa.large_string(): lambda dice: "x" * dice.randrange(20),
    pa.binary(): lambda dice: dice.randbytes(dice.randrange(5)),
    pa.binary(3): lambda dice: dice.randbytes(3),
    pa.date32(): lambda dice: dice.randint(-700_000, 2_900_000),
    pa.time64("us"): lambda dice: dice.randrange(86_400_000_000),
    pa.timestamp("ms"): lambda dice: dice.randint(-(2**44), 2**44),
    pa.timestamp("ns", "Europe/Berlin"): lambda dice: dice.randint(-(2**60), 2**60),
    pa.timestamp("us", "UTC"): lambda dice: dice.randint(-(2**50), 2**50),
    pa.duration("ms"): lambda dice: dice.randint(-(2**40), 2**40),
}

CATEGORY = pa.dictionary(pa.int8(), pa.string())

NAMES = ["c", "a.b", "a", "", "Prompt", "file", "seed ", "é", "with space", "x" * 100, "sha256"]

COMPRESSIONS = ["none", "snappy", "gzip", "zstd", "brotli", "lz4"]


@dataclass(frozen=True)
class FuzzedFile:
    """A Parquet file and what was written into it."""

    data: bytes
    table: pa.Table


def fuzzed_parquet(seed: int) -> FuzzedFile:
    """A file that depends on a number alone."""
    dice = random.Random(seed)
    num_rows = dice.choice([1, 2, 3, 10, 40])
    columns: dict[str, pa.Array] = {"prompt": pa.array([f"p{n}" for n in range(num_rows)])}
    for name in dice.sample(NAMES, dice.randint(1, 4)):
        type_ = fuzzed_type(dice, depth=3)
        columns[name] = fuzzed_array(dice, type_, num_rows)
    table = pa.table(dict(dice.sample(list(columns.items()), len(columns))))
    sink = io.BytesIO()
    pq.write_table(table, sink, **_options(dice, table))
    return FuzzedFile(sink.getvalue(), table)


def fuzzed_type(dice: random.Random, depth: int) -> pa.DataType:
    """A simple type, or one inside lists, structs and maps."""
    kind = dice.choice(["simple"] * 4 + ["list", "fixed", "struct", "map"]) if depth else "simple"
    if kind == "simple":
        return CATEGORY if depth == 3 and dice.random() < 0.1 else dice.choice(list(SIMPLE))
    inner = fuzzed_type(dice, depth - 1)
    if kind == "list":
        return dice.choice([pa.list_, pa.large_list])(inner)
    if kind == "fixed":
        return pa.list_(inner, 2)
    if kind == "map":
        return pa.map_(pa.string(), inner)
    return pa.struct([("a", inner), ("b.c", fuzzed_type(dice, depth - 1))])


def fuzzed_array(dice: random.Random, type_: pa.DataType, num_rows: int) -> pa.Array:
    """Random values; some columns have no nulls, others hardly anything else."""
    nulls = dice.choice([0.0, 0.3, 0.95])
    if type_ == CATEGORY:
        texts = [None if dice.random() < nulls else dice.choice("xyz") for _ in range(num_rows)]
        return pa.array(texts, pa.string()).dictionary_encode().cast(type_)
    return pa.array([_value(dice, type_, nulls) for _ in range(num_rows)], type_)


def _value(dice: random.Random, type_: pa.DataType, nulls: float) -> Any:
    if dice.random() < nulls:
        return None
    if type_ in SIMPLE:
        return SIMPLE[type_](dice)
    if pa.types.is_struct(type_):
        return {field.name: _value(dice, field.type, nulls) for field in type_}
    if pa.types.is_map(type_):
        count = dice.randrange(3)
        return [(f"k{n}", _value(dice, type_.item_type, nulls)) for n in range(count)]
    count = 2 if pa.types.is_fixed_size_list(type_) else dice.randrange(4)
    return [_value(dice, type_.value_type, nulls) for _ in range(count)]


def _options(dice: random.Random, table: pa.Table) -> dict[str, Any]:
    options: dict[str, Any] = {
        "row_group_size": dice.choice([1, 3, 1000]),
        "compression": dice.choice(COMPRESSIONS),
        "data_page_version": dice.choice(["1.0", "2.0"]),
        "version": "2.6",
        "store_schema": dice.random() < 0.7,
        "write_statistics": dice.random() < 0.5,
        "write_page_checksum": dice.random() < 0.5,
        "data_page_size": dice.choice([64, 1024, None]),
        "use_dictionary": dice.random() < 0.5,
    }
    if not options["use_dictionary"] and dice.random() < 0.5:
        options["column_encoding"] = {
            field.name: encoding
            for field in table.schema
            if "." not in field.name and (encoding := _encoding(dice, field.type)) is not None
        }
    return options


def _encoding(dice: random.Random, type_: pa.DataType) -> str | None:
    if type_ in (pa.int32(), pa.int64()):
        return dice.choice(["DELTA_BINARY_PACKED", "BYTE_STREAM_SPLIT"])
    if type_ in (pa.string(), pa.binary()):
        return dice.choice(["DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY"])
    return "BYTE_STREAM_SPLIT" if type_ in (pa.float32(), pa.float64()) else None
