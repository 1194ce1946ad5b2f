"""CSV and TSV with the quoting found in real files."""

import csv
import io

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightpress.pipelines.manifest import delimited, text
from nightpress.pipelines.manifest.delimited import Delimited


class Trickle(io.BytesIO):
    """A stream that returns a few bytes at a time, like a network."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(min(size or 0, 3))


def read(data: bytes, separator: str = "\t") -> list[dict[str, str | None]]:
    form = Delimited(separator)
    schema, start = form.header(data)
    stream = io.BytesIO(data)
    stream.seek(start)
    tables = [
        form.parse(block, schema, lambda row, why: pytest.fail(f"{row}: {why}"))
        for _, block in text.split_into_blocks(stream, form, start)
    ]
    return pa.concat_tables(tables).to_pylist() if tables else []


def prompts(data: bytes) -> list[str | None]:
    return [row["prompt"] for row in read(data)]


def test_quotes_inside_an_unquoted_field_are_text() -> None:
    assert prompts(b'prompt\tnote\na sign that says "STOP" in red\tx\n5" nails\ty\n') == [
        'a sign that says "STOP" in red',
        '5" nails',
    ]


def test_a_field_that_only_begins_with_a_quote_is_text() -> None:
    data = b'prompt\tnote\n"WOMBAT" painted on a wall\tx\n"a" and "b"\ty\n"open\tz\n'
    assert prompts(data) == ['"WOMBAT" painted on a wall', '"a" and "b"', '"open']


def test_a_quoted_field_loses_its_quotes_and_unescapes_those_inside() -> None:
    data = b'prompt\tnote\n"a frisbee that says ""Cheese Shop"" on it."\tx\n'
    assert prompts(data) == ['a frisbee that says "Cheese Shop" on it.']


def test_a_quoted_field_may_hold_separators_and_newlines() -> None:
    data = b'prompt\tnote\n"one\ttwo\nthree\r\nfour"\tx\nnext\ty\n'
    assert prompts(data) == ["one\ttwo\nthree\r\nfour", "next"]


def test_an_empty_field_is_null_and_a_quoted_empty_field_is_empty() -> None:
    assert read(b'prompt\tnote\na\t\nb\t""\n') == [
        {"prompt": "a", "note": None},
        {"prompt": "b", "note": ""},
    ]


def test_values_stay_text_whatever_they_look_like() -> None:
    assert read(b"prompt,zip,flag,gone\n2024-01-01,007,true,NA\n", ",") == [
        {"prompt": "2024-01-01", "zip": "007", "flag": "true", "gone": "NA"}
    ]


def test_the_last_line_may_lack_its_newline() -> None:
    assert prompts(b"prompt\tnote\na\tb\nc\td") == ["a", "c"]


def test_a_header_may_be_quoted_and_may_leave_names_out() -> None:
    assert read(b',"prompt"\n0,a cat\n', ",") == [{"unnamed_0": "0", "prompt": "a cat"}]


def test_records_with_a_wrong_number_of_fields_are_reported() -> None:
    form, found = Delimited(","), []
    schema = pa.schema([("a", pa.string()), ("b", pa.string())])
    table = form.parse(b"1,2\n3\n4,5,6\n7,8\n", schema, lambda *what: found.append(what))
    assert table.num_rows == 2
    assert found == [
        (1, "it has 1 field, but the header names 2"),
        (2, "it has 3 fields, but the header names 2"),
    ]


FIELDS = st.lists(st.tuples(*[st.text(max_size=20)] * 3), max_size=12)


@given(FIELDS, st.sampled_from(["\t", ","]))
def test_what_the_csv_module_writes_is_read_back(
    rows: list[tuple[str, ...]], separator: str
) -> None:
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=separator)
    writer.writerows([("prompt", "x", "y"), *rows])
    found = [
        tuple(value or "" for value in row.values())
        for row in read(out.getvalue().encode(), separator)
    ]
    assert found == rows


@given(FIELDS, st.integers(1, 40))
def test_the_block_size_does_not_change_what_is_read(
    rows: list[tuple[str, ...]], block_bytes: int
) -> None:
    out = io.StringIO(newline="")
    csv.writer(out, delimiter="\t").writerows(rows)
    data, form = out.getvalue().encode(), Delimited("\t")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "BLOCK_BYTES", block_bytes)
        blocks = list(text.split_into_blocks(Trickle(data), form, 0))
    assert b"".join(block for _, block in blocks) == data
    schema = pa.schema([("a", pa.string()), ("b", pa.string()), ("c", pa.string())])
    for place, block in blocks:
        assert data[place : place + len(block)] == block
        assert form.parse(block, schema, lambda row, why: pytest.fail(why)).num_rows


def test_an_unclosed_quote_does_not_load_the_whole_file_into_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(delimited, "MAX_FIELD_BYTES", 100)
    monkeypatch.setattr(text, "BLOCK_BYTES", 64)
    data = b'"open\tx\n' + b"closed\ty\n" * 50
    blocks = [block for _, block in text.split_into_blocks(io.BytesIO(data), Delimited("\t"), 0)]
    assert b"".join(blocks) == data
    assert max(len(block) for block in blocks) < 300
