"""Parquet manifests that disagree, are damaged, or hold what is no text: refused in words."""

import io
import random
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.plans import MODEL, job, planned, problems_of

from nightpress.pipelines.errors import ManifestError
from nightpress.pipelines.planning import check, select_images

SECOND = "row 1 (counted from 0)"


def refused(folder: Path, data: bytes) -> str:
    (folder / "m.parquet").write_bytes(data)
    (problem,) = problems_of(job(folder, folder / "m.parquet"))
    assert "\n" not in problem
    return problem


def encoded(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def two_files(folder: Path, one: pa.Array, two: pa.Array) -> list[Path]:
    for name, column in (("a", one), ("b", two)):
        table = pa.table({"prompt": [f"{name}{n}" for n in range(len(column))], "c": column})
        pq.write_table(table, folder / f"{name}.parquet")
    return [folder / "a.parquet", folder / "b.parquet"]


STRUCTS = [{"a": 1, "b": 2.0}, {"a": 1, "b": 0.5}]


@pytest.mark.parametrize(
    ("one", "two", "together"),
    [
        (pa.array([1]), pa.array([0.5]), [1.0, 0.5]),
        (pa.array([2**53]), pa.array([0.5], pa.float32()), [2.0**53, 0.5]),
        (pa.array([-1]), pa.array([2**63 - 1], pa.uint64()), [-1, 2**63 - 1]),
        (pa.array([1], pa.timestamp("us")), pa.array([1], pa.timestamp("ns")), None),
        (pa.array(["x"]).dictionary_encode(), pa.array(["y"], pa.large_string()), ["x", "y"]),
        (pa.array(["x"]), pa.array([2**63 - 1]), ["x", "9223372036854775807"]),
        (pa.array(["x"]), pa.array([1.0, 0.5]), ["x", "1.0", "0.5"]),
        (pa.array([{"a": 1, "b": 2}]), pa.array([{"b": 0.5, "a": 1}]), STRUCTS),
    ],
)
def test_types_of_two_files_that_go_together_keep_every_value(
    tmp_path: Path, one: pa.Array, two: pa.Array, together: list[Any] | None
) -> None:
    _, plan = planned(job(tmp_path, two_files(tmp_path, one, two)))
    if pa.types.is_timestamp(one.type):
        assert plan["c"].cast(pa.int64()).to_pylist() == [1000, 1]
    else:
        assert plan["c"].to_pylist() == together


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (pa.array([True]), pa.array([1])),
        (pa.array([1], pa.timestamp("us", "UTC")), pa.array([1], pa.timestamp("us"))),
        (pa.array([b"x"]), pa.array(["x"])),
        (pa.array([[1]]), pa.array(["x"])),
        (pa.array([{"k": 1}]), pa.array([{"j": 1}])),
        (pa.array([1], pa.date32()), pa.array([1], pa.timestamp("us"))),
    ],
)
def test_types_of_two_files_that_do_not_go_together_are_refused(
    tmp_path: Path, one: pa.Array, two: pa.Array
) -> None:
    (problem,) = problems_of(job(tmp_path, two_files(tmp_path, one, two)))
    assert problem.startswith(f"b.parquet, column c: its type is {two.type}, but ")
    assert problem.endswith(
        " in a.parquet, and no type holds the values of both exactly; give it the same type in "
        "every file"
    )


def test_a_value_that_the_common_type_cannot_hold_is_refused_with_its_row(tmp_path: Path) -> None:
    files = two_files(tmp_path, pa.array([0.5, 1.5]), pa.array([1, 2**53 + 1, 3]))
    (problem,) = problems_of(job(tmp_path, files))
    assert problem.startswith(f"b.parquet, {SECOND}, column c: a value cannot become double")
    assert "9007199254740993" in problem
    files = two_files(tmp_path, pa.array([-1]), pa.array([0, 2**63], pa.uint64()))
    (problem,) = problems_of(job(tmp_path, files))
    assert problem.startswith(f"b.parquet, {SECOND}, column c: a value cannot become int64")


def not_utf8() -> pa.Array:
    data = pa.array([b"good", b"caf\xe9"])
    return pa.Array.from_buffers(pa.string(), 2, data.buffers())


@pytest.mark.parametrize("column", ["prompt", "id", "negative_prompt", "carried"])
@pytest.mark.parametrize("template", ["{image_id}.png", "{carried}-{image_id}.png"])
def test_text_that_is_not_utf8_is_refused_with_row_and_column(
    tmp_path: Path, column: str, template: str
) -> None:
    good = pa.array(["a", "b"])
    table = pa.table({"prompt": good, "id": good, "carried": good} | {column: not_utf8()})
    pq.write_table(table, tmp_path / "m.parquet")
    spec = job(tmp_path, tmp_path / "m.parquet", images={"file_name": template})
    assert problems_of(spec) == [
        f"m.parquet, {SECOND}, column {column}: not UTF-8 text: byte 0xe9 at position 3; write "
        "UTF-8, or a binary column"
    ]


def test_text_inside_lists_and_structs_is_looked_at_too(tmp_path: Path) -> None:
    for column in (
        pa.ListArray.from_arrays([0, 1, 2], not_utf8()),
        pa.StructArray.from_arrays([not_utf8()], ["a"]),
    ):
        table = pa.table({"prompt": ["a", "b"], "c": column})
        assert refused(tmp_path, encoded(table)) == (
            f"m.parquet, {SECOND}, column c: it holds text that is not UTF-8; write UTF-8, "
            "or a binary column"
        )


def test_a_category_that_is_not_utf8_is_refused_by_column(tmp_path: Path) -> None:
    column = pa.DictionaryArray.from_arrays(pa.array([0, 1], pa.int8()), not_utf8())
    problem = refused(tmp_path, encoded(pa.table({"prompt": ["a", "b"], "c": column})))
    assert problem == "m.parquet: cannot be read as Parquet: column 'c': Invalid UTF8 payload"


def test_a_column_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    data = encoded(pa.table({"prompt": ["a"], "xyzzy": [1]}), store_schema=False)
    problem = refused(tmp_path, data.replace(b"xyzzy", b"xyz\xe9y"))
    assert problem == "m.parquet: the name of a column is not UTF-8 text: b'xyz\\xe9y'"


def test_files_that_are_cut_short_empty_or_not_whole_are_refused(tmp_path: Path) -> None:
    whole = encoded(pa.table({"prompt": ["a", "b"]}))
    for data in (b"", b"PAR1", whole[:-4], whole[: len(whole) // 2], whole[4:]):
        assert refused(tmp_path, data).startswith("m.parquet: cannot be read as Parquet: ")
    assert "no columns" in refused(tmp_path, encoded(pa.table({})))
    assert "has no rows" in refused(tmp_path, encoded(pa.table({"prompt": pa.nulls(0)})))


@pytest.mark.parametrize(
    ("type_", "why"),
    [
        (pa.timestamp("us", "Nowhere/Town"), "an unknown time zone, 'Nowhere/Town'"),
        (pa.struct([("a", pa.int8()), ("a", pa.int8())]), "has a field 'a' twice"),
    ],
)
def test_columns_that_python_could_not_show_are_refused(
    tmp_path: Path, type_: pa.DataType, why: str
) -> None:
    data = encoded(pa.table({"prompt": ["a"], "c": pa.nulls(1, type_)}))
    assert why in refused(tmp_path, data)


def test_a_damaged_page_of_a_carried_column_is_found_before_the_run(tmp_path: Path) -> None:
    table = pa.table({"prompt": ["a", "b"], "c": [2**40, 2**50]})
    plain = {"use_dictionary": False, "compression": "none", "write_statistics": False}
    data = encoded(table, write_page_checksum=True, **plain)
    place = data.index((2**50).to_bytes(8, "little"))
    problem = refused(tmp_path, data[:place] + b"\x01" + data[place + 1 :])
    assert "column 'c': " in problem
    assert "CRC checksum" in problem


def test_damaged_bytes_anywhere_are_refused_or_do_not_matter(tmp_path: Path) -> None:
    lists = [[n, None] for n in range(60)]
    table = pa.table({"prompt": [f"p{n}" for n in range(60)], "c": lists})
    dice = random.Random(7)
    spec = job(tmp_path, tmp_path / "m.parquet")
    for compression in ("snappy", "none", "zstd"):
        whole = encoded(table, row_group_size=20, compression=compression)
        for _ in range(60):
            data = bytearray(whole)
            data[dice.randrange(len(data))] = dice.randrange(256)
            (tmp_path / "m.parquet").write_bytes(data)
            with suppress(ManifestError):
                check(spec, MODEL)


def test_names_with_dots_beside_structs_are_columns_of_their_own(tmp_path: Path) -> None:
    table = pa.table({"a.b": [1], "a": [{"b": 2, "c": 3}], "prompt": ["x"], "A": [4], "": [5]})
    pq.write_table(table, tmp_path / "m.parquet")
    _, plan = planned(job(tmp_path, tmp_path / "m.parquet"))
    (row,) = plan.to_pylist()
    assert [row[name] for name in ("a.b", "a", "A", "unnamed")] == [1, {"b": 2, "c": 3}, 4, 5]


@pytest.mark.parametrize(
    ("column", "seed"),
    [
        (pa.array([7.0]), 7),
        (pa.array([7], pa.uint64()), 7),
        (pa.array([2**53 - 1]).cast(pa.decimal128(21, 2)), 2**53 - 1),
        (pa.array([7.0], pa.float16()), 7),
    ],
)
def test_whole_numbers_of_any_type_are_seeds(tmp_path: Path, column: pa.Array, seed: int) -> None:
    pq.write_table(pa.table({"prompt": ["a"], "seed": column}), tmp_path / "m.parquet")
    assert planned(job(tmp_path, tmp_path / "m.parquet"))[1]["seed"].to_pylist() == [seed]


@pytest.mark.parametrize(
    ("column", "why"),
    [
        (pa.array([2**64 - 1], pa.uint64()), "is out of range"),
        (pa.array([2**53]), "is not between 0 and 2^53 - 1"),
        (pa.array([0.5]), "is not a whole number"),
        (pa.array([float("nan")]), "nan is not a number"),
        (pa.array([float("inf")]), "inf is out of range"),
        (pa.array([Decimal("7.01")]), "is not a whole number"),
        (pa.array([Decimal(2**64)]), "is out of range"),
        (pa.array([[7]]), "seed must be a number"),
        (pa.array([True]), "seed must be a number"),
        (pa.array([7], pa.timestamp("us")), "seed must be a number"),
    ],
)
def test_other_values_are_no_seeds(tmp_path: Path, column: pa.Array, why: str) -> None:
    pq.write_table(pa.table({"prompt": ["a"], "seed": column}), tmp_path / "m.parquet")
    (problem,) = problems_of(job(tmp_path, tmp_path / "m.parquet"))
    assert why in problem


def test_a_large_decimal_id_keeps_every_digit(tmp_path: Path) -> None:
    ids = pa.array([2**53 + 1, 2**63 - 1]).cast(pa.decimal128(20, 0))
    pq.write_table(pa.table({"prompt": ["a", "b"], "id": ids}), tmp_path / "m.parquet")
    _, plan = planned(job(tmp_path, tmp_path / "m.parquet"))
    assert plan["id"].to_pylist() == ["9007199254740993", "9223372036854775807"]


def test_a_large_unsigned_id_keeps_every_digit(tmp_path: Path) -> None:
    ids = [2**53 + 1, 2**60 + 1, 2**63 + 1]
    table = pa.table({"prompt": ["a", "b", "c"], "id": pa.array(ids, pa.uint64())})
    pq.write_table(table, tmp_path / "m.parquet")
    _, plan = planned(job(tmp_path, tmp_path / "m.parquet"))
    assert sorted(plan["id"].to_pylist(), key=int) == [str(each) for each in ids]


NULLS = [[None], [None, None]]


@pytest.mark.parametrize(
    ("type_", "values"),
    [
        (pa.list_(pa.null()), NULLS),
        (pa.large_list(pa.null()), NULLS),
        (pa.list_(pa.null(), 2), [[None, None]] * 2),
        (pa.list_(pa.list_(pa.null())), [[each] for each in NULLS]),
        (pa.large_list(pa.large_list(pa.null())), [[each] for each in NULLS]),
        (pa.struct({"k": pa.list_(pa.null())}), [{"k": each} for each in NULLS]),
        (pa.struct({"k": pa.large_list(pa.null())}), [{"k": each} for each in NULLS]),
    ],
    ids=str,
)
def test_lists_that_hold_only_null_are_carried_and_shown(
    tmp_path: Path, type_: pa.DataType, values: list[Any]
) -> None:
    table = pa.table({"prompt": ["a", "b"], "c": pa.array(values, type_)})
    pq.write_table(table, tmp_path / "m.parquet")
    spec = job(tmp_path, tmp_path / "m.parquet")
    layout, plan = planned(spec)
    assert plan["c"].to_pylist() == values
    assert select_images(spec, MODEL, layout, 2)["c"].to_pylist() == values


PAIRS = [{"k": each, "n": 1} for each in (*NULLS, None)]


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (pa.array(PAIRS), pa.array([{"k": [None], "n": 0.5}])),
        (pa.array([[each] for each in PAIRS]), pa.array([[{"k": [None], "n": 0.5}], None])),
        (
            pa.array([{"k": [None, None], "t": "x"}, None]).cast(
                pa.struct({"k": pa.list_(pa.null()), "t": pa.large_string()})
            ),
            pa.array([{"k": [None], "t": "y"}]),
        ),
        (pa.array([[[None, None]]], pa.large_list(pa.list_(pa.null()))), pa.array([[[None]]])),
        (pa.array(NULLS), pa.array([[1], None])),
    ],
)
def test_lists_of_null_stay_what_they_are_where_other_parts_change(
    tmp_path: Path, one: pa.Array, two: pa.Array
) -> None:
    _, plan = planned(job(tmp_path, two_files(tmp_path, one, two)))
    plan["c"].validate(full=True)
    values = dict(zip(plan["prompt"].to_pylist(), plan["c"].to_pylist(), strict=True))
    assert list(map(values.get, sorted(values))) == one.to_pylist() + two.to_pylist()
