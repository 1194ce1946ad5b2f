"""CSV and TSV: the dialects that are read, and what is refused."""

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.manifest_files import problem_of, rows_of

from nightpress.pipelines.manifest import text
from nightpress.pipelines.manifest.delimited import Delimited

CHARACTERS = st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufeff")
FIELD = st.text(CHARACTERS | st.sampled_from("\t\n\r\",'"), max_size=20)
FIELDS = st.lists(st.tuples(FIELD, FIELD, FIELD), max_size=12)


class Trickle(io.BytesIO):
    """A stream that returns a few bytes at a time, like a network."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(min(size or 0, 3))


@pytest.mark.parametrize("separator", [",", "\t"])
@pytest.mark.parametrize(
    "field",
    [
        'a sign that says "STOP" in red',
        '5" nails',
        ' "a"',
        'a""b',
        '"""a"""',
        '""""',
        '""""""',
        '"a frisbee that says ""Cheese Shop"" on it."',
        '"one,two\tthree\nfour\r\nfive\rsix"',
        '"\n"',
        '""',
        "\\",
        '\\"a\\"',
        "\u2028",
        "'a'",
        "007",
        "NA",
    ],
)
def test_a_field_is_what_pythons_csv_makes_of_it(
    tmp_path: Path, field: str, separator: str
) -> None:
    data = f"prompt{separator}note\r\n{field}{separator}x\r\ny{separator}{field}"
    path = tmp_path / ("m.csv" if separator == "," else "m.tsv")
    path.write_text(data, newline="")
    lines = io.StringIO(data, newline="")
    expected = list(csv.DictReader(lines, delimiter=separator, strict=True))
    assert rows_of(path) == expected


@pytest.mark.parametrize(
    ("data", "line", "message"),
    [
        ('"WOMBAT" painted on a wall,x\n', 2, 'text follows a closing quote: "WOMBAT" painted on'),
        ('a,x\n"b" ,x\n', 3, "text follows a closing quote"),
        ('a,x\n"b\nc"d,x\n', 3, "text follows a closing quote"),
        ('a,x\n\n"b""",x\nc,"""\n', 5, "a quote opens here and is not closed"),
        ('a,"b\nc,d\ne,f\n', 2, "a quote opens here and is not closed"),
        ("a,x\nb\rc,x\n", 3, "a line ends in CR alone; save the file with LF or CRLF line ends"),
        ("a,x\nb,x\r\r\n", 3, "a line ends in CR alone"),
        ('a,x\n"b"\rc,x\n', 3, "a line ends in CR alone"),
        ('"b""c"d"\n",x\n', 2, "text follows a closing quote"),
    ],
)
@pytest.mark.parametrize("block_bytes", [1, 5, 1 << 20])
def test_quotes_and_line_ends_that_readers_disagree_on_are_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    data: str,
    line: int,
    message: str,
    block_bytes: int,
) -> None:
    monkeypatch.setattr(text, "BLOCK_BYTES", block_bytes)
    (tmp_path / "m.csv").write_text(f"prompt,note\n{data}", newline="")
    problem = problem_of(tmp_path / "m.csv")
    assert problem.line == line
    assert problem.message.startswith(message)


def test_quotes_in_a_header_follow_the_same_rules(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('"pro""mpt","x\ny"\n1,2\n')
    assert rows_of(tmp_path / "a.csv") == [{'pro"mpt': "1", "x\ny": "2"}]
    (tmp_path / "b.csv").write_text('"prompt"s,n\n1,2\n')
    assert problem_of(tmp_path / "b.csv").line == 1


def test_tsv_that_knows_nothing_of_quotes_is_read_without_quoting(tmp_path: Path) -> None:
    data = 'prompt\tnote\n"WOMBAT" painted on a wall\tx\n"a" and "b"\ty\n"open\tz\n5" nails\t\n'
    (tmp_path / "m.tsv").write_text(data)
    assert [row["prompt"] for row in rows_of(tmp_path / "m.tsv")] == [
        '"WOMBAT" painted on a wall',
        '"a" and "b"',
        '"open',
        '5" nails',
    ]


@pytest.mark.parametrize("quoted", ['"whole"\tx', 'x\t"a ""b"" c"', '"two\nlines"\tx'])
def test_tsv_with_both_kinds_of_quotes_is_refused(tmp_path: Path, quoted: str) -> None:
    (tmp_path / "m.tsv").write_text(f'prompt\tnote\n"WOMBAT" painted\tx\n{quoted}\n')
    assert problem_of(tmp_path / "m.tsv").message.startswith("text follows a closing quote")


def test_tsv_whose_quote_is_not_closed_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.tsv").write_text('prompt\n"a cat\na dog\n')
    assert "is not closed" in problem_of(tmp_path / "m.tsv").message


def test_an_empty_field_is_null_and_a_quoted_empty_field_is_empty(tmp_path: Path) -> None:
    (tmp_path / "m.tsv").write_text('prompt\tnote\na\t\nb\t""\n')
    assert rows_of(tmp_path / "m.tsv") == [
        {"prompt": "a", "note": None},
        {"prompt": "b", "note": ""},
    ]


def test_a_header_may_leave_names_out(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(',"prompt"\n0,a cat\n')
    assert rows_of(tmp_path / "m.csv") == [{"unnamed_0": "0", "prompt": "a cat"}]


@pytest.mark.parametrize(
    ("name", "data", "separators"),
    [
        ("m.csv", "prompt;guidance_scale\na cat;7,5\na dog;8\n", "semicolons"),
        ("m.csv", "sep=;\nprompt;n\na;1\n", "semicolons"),
        ("m.csv", "prompt;a,b;c\nx;y,z;1\n", "semicolons"),
        ("m.csv", "prompt\tn\na\t1\n", "tabs"),
        ("m.csv", "prompt|n\na|1\n", "vertical bars"),
        ("m.tsv", "prompt,n\na,1\n", "commas"),
        ("m.tsv", '"prompt","n"\n"a","1"\n', "commas"),
    ],
)
def test_other_separators_are_named_once(
    tmp_path: Path, name: str, data: str, separators: str
) -> None:
    (tmp_path / name).write_text(data)
    problem = problem_of(tmp_path / name)
    assert problem.line == 1
    assert problem.message.startswith(f"it looks like {separators} separate its columns")


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("m.csv", "sep=,\nprompt,n\na,1\n"),
        ("m.csv", "\ufeffSEP=,\r\nprompt,n\r\na,1\r\n"),
        ("m.csv", '"sep=,"\nprompt\na\n'),
        ("m.tsv", "sep=\t\nprompt\tn\na\t1\n"),
    ],
)
def test_the_separator_line_of_excel_is_named(tmp_path: Path, name: str, data: str) -> None:
    (tmp_path / name).write_bytes(data.encode())
    problem = problem_of(tmp_path / name)
    assert problem.line == 1
    assert problem.message.startswith("this is Excel's separator line, not the names of columns")


def test_the_separator_line_of_another_separator_is_named_too(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("sep=;\nprompt;n\na;1\n")
    assert problem_of(tmp_path / "m.csv").message == (
        "it looks like semicolons separate its columns; save it with commas, without Excel's "
        "separator line"
    )


def test_names_in_quotes_may_contain_other_separators(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text('"prompt; in English"\na; b\n')
    assert rows_of(tmp_path / "m.csv") == [{"prompt; in English": "a; b"}]


@given(FIELDS, st.sampled_from(["\t", ","]))
def test_what_the_csv_module_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, ...]], separator: str
) -> None:
    path = tmp_path_factory.mktemp("csv") / ("m.csv" if separator == "," else "m.tsv")
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, delimiter=separator).writerows([("prompt", "x", "y"), *rows])
    assert [tuple(value or "" for value in row.values()) for row in rows_of(path)] == rows


@given(FIELDS, st.integers(1, 40))
def test_blocks_hold_whole_records_at_any_size(
    rows: list[tuple[str, ...]], block_bytes: int
) -> None:
    out = io.StringIO(newline="")
    csv.writer(out, delimiter="\t").writerows(rows)
    data, form = out.getvalue().encode(), Delimited("\t")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "BLOCK_BYTES", block_bytes)
        blocks = list(text.split_into_blocks(Trickle(data), form, 0))
    assert b"".join(block for _, block in blocks) == data
    for place, block in blocks:
        assert data[place : place + len(block)] == block
        assert form.whole_records(block, last=False) == len(block)
