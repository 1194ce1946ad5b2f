"""JSON Lines, well-formed and not."""

import json

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from nightpress.pipelines.manifest.jsonl import JsonLines

ANY = pa.schema([])


def infer(*lines: str) -> tuple[pa.Table, list[tuple[int, str]]]:
    found: list[tuple[int, str]] = []
    data = "".join(f"{line}\n" for line in lines).encode()
    return JsonLines().parse(data, ANY, lambda *what: found.append(what)), found


def test_keys_are_columns_in_order_of_appearance() -> None:
    table, _ = infer('{"prompt": "a", "n": 1}', "", '{"z": [1], "n": 2.5}')
    assert table.to_pylist() == [
        {"prompt": "a", "n": 1.0, "z": None},
        {"prompt": None, "n": 2.5, "z": [1]},
    ]


def test_text_that_looks_like_a_date_stays_text() -> None:
    table, _ = infer('{"day": "2024-01-01", "prompt": "a"}', '{"day": "2024-01-02"}')
    assert table.column_names == ["day", "prompt"]
    assert table["day"].to_pylist() == ["2024-01-01", "2024-01-02"]


def test_columns_of_mixed_types_are_text() -> None:
    table, found = infer('{"a": 1}', '{"a": "x"}', '{"a": true}', '{"a": null}', '{"a": [1, "é"]}')
    assert table["a"].to_pylist() == ["1", "x", "true", None, '[1, "é"]']
    assert found == []


def test_lines_that_are_not_objects_are_reported_by_number() -> None:
    table, found = infer('{"prompt": "a"}', "[1]", "{oops", '"text"')
    assert table["prompt"].to_pylist() == ["a"]
    assert [row for row, _ in found] == [1, 2, 3]
    assert found[0][1].startswith("not a JSON object")
    assert found[1][1].startswith("not JSON: ")


def test_a_schema_chooses_columns_and_types() -> None:
    schema = pa.schema([("a", pa.string()), ("b", pa.float64())])
    table = JsonLines().parse(b'{"a": 1, "b": 2, "c": 3}\n{"c": 4}\n', schema, print)
    assert table.to_pylist() == [{"a": "1", "b": 2.0}, {"a": None, "b": None}]


@given(
    st.lists(
        st.fixed_dictionaries({"prompt": st.text(), "note": st.none() | st.text()}), min_size=1
    )
)
def test_text_round_trips(rows: list[dict[str, str | None]]) -> None:
    table, found = infer(*(json.dumps(row) for row in rows))
    assert found == []
    assert [
        {name: row.get(name) for name in ("prompt", "note")} for row in table.to_pylist()
    ] == rows
