"""JSON Lines: values arrive exactly, or the file is refused."""

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.manifest_files import problem_of, rows_of, scanned

from nightpress.pipelines.errors import ManifestError
from nightpress.pipelines.manifest import text


def write(folder: Path, *lines: str) -> Path:
    path = folder / "m.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="")
    return path


def column(folder: Path, *values: str) -> list[Any]:
    """The column of these JSON values, one a row, in blocks of any size."""
    path = write(folder, *(f'{{"x": {value}}}' for value in values))
    columns = []
    for block_bytes in (1, 30, 1 << 20):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(text, "BLOCK_BYTES", block_bytes)
            columns.append([row["x"] for row in rows_of(path)])
    assert repr(columns[1:]) == repr(columns[:1] * 2)
    return columns[0]


def test_keys_are_columns_in_order_of_appearance(tmp_path: Path) -> None:
    path = write(tmp_path, '{"prompt": "a", "n": 1}', "", '{"z": [1], "n": 2.5}')
    assert rows_of(path) == [
        {"prompt": "a", "n": 1.0, "z": None},
        {"prompt": None, "n": 2.5, "z": [1]},
    ]
    assert scanned(path).schema.names == ["prompt", "n", "z"]


@pytest.mark.parametrize(
    "values",
    [
        ["9007199254740993", "-9007199254740993", "9223372036854775807"],
        ["1", "2.5", "null"],
        ["-0.0", "0.0", "1e5", "1E-5", "5e-324"],
        ['"2024-01-01"', '"2024-01-02"'],
        ['"2024-01-01T10:00:00Z"', '"10:00"'],
        ['["2024-01-01"]', '["2024-01-01 10:00:00"]'],
        ['{"day": "2024-01-01"}'],
        ["true", "false", "null"],
        ['{"a": 1, "b": [1, 2.5]}', '{"b": [], "a": 2}', "null"],
        ['{"a": null}', '{"a": 1}'],
        ["[null, null]", "[]", "null"],
        ["[[null, null]]", "[[]]"],
        ['""', "null", '"\\u0041\\ud83d\\ude00\\/"'],
        ['"\\u0000"'],
        ["null", "null"],
    ],
)
def test_values_arrive_with_their_types(tmp_path: Path, values: list[str]) -> None:
    assert repr(column(tmp_path, *values)) == repr(_plain([json.loads(v) for v in values]))


def _plain(values: list[Any]) -> list[Any]:
    """Integers beside floats are floats, and the keys of objects are in their first order."""
    if {type(value) for value in values} >= {int, float}:
        return [float(value) if isinstance(value, int) else value for value in values]
    if values and isinstance(values[0], dict) and "b" in values[0]:
        first = {"a": 1, "b": [1.0, 2.5]}
        return [first, {"a": 2, "b": []}, None]
    return values


@pytest.mark.parametrize(
    "values",
    [
        ["1", '"x"', "true", "null", '[1, "é"]'],
        ["true", "1"],
        ["1.50", "true"],
        ["9223372036854775808", "1"],
        ["1" * 400],
        ["9007199254740993", "0.5"],
        ["[9007199254740993, 0.5]"],
        ['{"n": 9007199254740993}', '{"n": 0.5}'],
        ['{"a": 1}', '{"a": 1, "b": null}'],
        ['{"a": 1}', '{"b": 2}'],
        ["{}", '{"a": 1e5}'],
        ["[{}]"],
        ["[1, true]"],
        ["[" * 40 + "1.0" + "]" * 40],
        ["[" * 600 + "]" * 600],
        ['{"a":' * 130 + "1" + "}" * 130],
        ['{"a":' * 390 + '"\\u0041"' + "}" * 390],
    ],
)
def test_values_without_a_common_type_are_text_as_the_file_has_it(
    tmp_path: Path, values: list[str]
) -> None:
    expected = [None if v == "null" else v.strip('"') for v in values]
    assert column(tmp_path, *values) == expected


def test_nan_and_infinity_are_read_as_python_writes_them(tmp_path: Path) -> None:
    first, *others = column(tmp_path, "NaN", "Infinity", "-Infinity", "1")
    assert math.isnan(first)
    assert others == [math.inf, -math.inf, 1]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "a", "prompt": "b"}', "it has the key 'prompt' twice"),
        ('{"x": {"a": 1, "a": 1}}', "it has the key 'a' twice"),
        ('{"x": [[{"a": {"b": 1, "\\u0062": 2}}]]}', "it has the key 'b' twice"),
        ('{"x": 1, "x": "mixed"}', "it has the key 'x' twice"),
        ("[1]", 'not a JSON object, such as {"prompt": "a cat"}'),
        ("null", "not a JSON object"),
        ('"text"', "not a JSON object"),
        ("{oops", "not JSON: "),
        ('{"a": 1}{"a": 2}', "not JSON: Extra data"),
        ('{"a": 1} // note', "not JSON: "),
        ('{"a": 007}', "not JSON: "),
        ('{"a": 1_000}', "not JSON: "),
        ('{"a": +1}', "not JSON: "),
        ('{"a": Inf}', "not JSON: "),
        ('{"a": True}', "not JSON: "),
        ("{'a': 1}", "not JSON: "),
        ('{"a": 1e400}', "the number 1e400 is larger than any float"),
        ('{"a": "\\ud800"}', "its text has half a character"),
        ('{"a": ["\\udc00"]}', "its text has half a character"),
        ("\u00a0", "not JSON: "),
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "its lists and objects are nested too"),
    ],
)
def test_a_line_that_does_not_say_one_thing_is_refused(
    tmp_path: Path, line: str, message: str
) -> None:
    path = write(tmp_path, '{"prompt": "a"}', "", "\t", line, '{"prompt": "b"}')
    problem = problem_of(path)
    assert (problem.line, problem.row) == (4, 1)
    assert problem.message.startswith(message)


def test_an_object_on_several_lines_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, '{"a": 1}', '{"a":', "2}", '{"a": 3}{"a": 4}')
    with pytest.raises(ManifestError) as caught:
        scanned(path)
    assert [problem.line for problem in caught.value.problems] == [2, 3, 4]


def test_blanks_around_objects_and_blank_lines_are_skipped(tmp_path: Path) -> None:
    path = write(tmp_path, ' {"a": 1}\t\r', " \r", '{"a": 2}\r')
    assert rows_of(path) == [{"a": 1}, {"a": 2}]


def test_only_the_wanted_columns_are_parsed(tmp_path: Path) -> None:
    file = scanned(write(tmp_path, '{"a": 1, "b": "x"}', '{"c": true}'))
    assert file.schema == pa.schema([("a", pa.int64()), ("b", pa.string()), ("c", pa.bool_())])


@given(
    st.lists(
        st.fixed_dictionaries({"prompt": st.text(), "note": st.none() | st.text()}), min_size=1
    )
)
def test_text_round_trips(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, str | None]]
) -> None:
    path = write(tmp_path_factory.mktemp("jsonl"), *map(json.dumps, rows))
    assert rows_of(path) == rows
