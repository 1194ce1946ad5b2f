"""Manifest files of every format: intact, malformed and changed."""

import gzip
from pathlib import Path

import pytest
from support.plans import MODEL, job, manifest_changes, planned, problems_of, write

from nightpress.pipelines.errors import ManifestError, StoreMissing
from nightpress.pipelines.manifest import text
from nightpress.pipelines.planning import check


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        (
            "m.csv",
            b"",
            "line 1: the file is empty, but its first line must name the columns",
        ),
        ("m.csv", b"prompt\n", "the manifest has no rows"),
        ("m.csv", b"prompt,n\ra,b\r", "line 1: a line ends in CR alone"),
        (
            "m.csv",
            "prompt\na\n".encode("utf-16"),
            "it is UTF-16 text; save the file as UTF-8",
        ),
        ("m.jsonl", b'{"prompt": "\\ud800"}\n', "line 1: its text has half a character"),
        ("m.jsonl", b'"a"', "line 1: not a JSON object"),
        ("m.jsonl", b'[{"prompt": "a"}]', "line 1: it is one JSON value, but JSON Lines has one"),
        ("m.jsonl", b'\n{\n "prompt": "a"\n}', "line 2: it is one JSON value, but JSON Lines has"),
        ("m.jsonl", b'[{"prompt": "a"}]\n\n', "it is one JSON value, but JSON Lines has one"),
        ("m.jsonl", b'[\n{"prompt": "a"}\n]', "it is one JSON value, but JSON Lines has one"),
        ("m.csv", b"prompt,,unnamed_1\na,b,c\n", "column number 2 has no name, and 'unnamed_1', w"),
        ("m.csv", b"unnamed_1,,prompt\na,b,c\n", "column number 2 has no name, and 'unnamed_1', w"),
        ("m.csv", b"unnamed_1,unnamed_1,prompt\na,b,c\n", "column 'unnamed_1' appears twice"),
        ("m.txt", b"", "the manifest has no rows"),
        ("m.txt", b"caf\xe9\n", "not UTF-8 text: byte 0xe9"),
        ("m.csv", b"prompt,prompt\na,b\n", "column 'prompt' appears twice"),
        ("m.parquet", b"PAR1nonsense", "cannot be read as Parquet: "),
        ("m.csv.gz", b"not gzip at all", "cannot be read as CSV: "),
    ],
)
def test_a_file_that_cannot_be_read_is_reported(
    tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(data)
    (problem,) = problems_of(job(tmp_path, tmp_path / name))
    assert problem.startswith(name)
    assert message in problem


def test_records_that_do_not_match_the_header_are_reported(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_bytes(b"prompt,note\na,b\nc\nd,e,f\n")
    assert problems_of(job(tmp_path, tmp_path / "m.csv")) == [
        "m.csv, line 3: it has 1 field, but the header names 2",
        "m.csv, line 4: it has 3 fields, but the header names 2; a field that contains a comma "
        "must be in quotes",
    ]


@pytest.mark.parametrize("first", ['["a", 1]', "[]", '[{"prompt": "a"}]', "[1"])
def test_lines_that_are_lists_are_reported_line_by_line(tmp_path: Path, first: str) -> None:
    (tmp_path / "m.jsonl").write_text(f'{first}\n["b", 2]\n{{"prompt": "c"}}\n')
    problems = problems_of(job(tmp_path, tmp_path / "m.jsonl"))
    if first == "[1":
        assert problems[0].startswith("m.jsonl, line 1: it is one JSON value")
    else:
        why = 'not a JSON object, such as {"prompt": "a cat"}'
        assert problems == [f"m.jsonl, line 1: {why}", f"m.jsonl, line 2: {why}"]


def test_a_malformed_line_of_json_is_reported(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text('{"prompt": "a"}\n{"prompt": \n')
    (problem,) = problems_of(job(tmp_path, tmp_path / "m.jsonl"))
    assert problem.startswith("m.jsonl, line 2: not JSON: ")


def test_each_line_of_a_text_file_is_a_prompt(tmp_path: Path) -> None:
    (tmp_path / "m.txt").write_bytes('\ufeffa "cat", asleep\r\n # not a comment\nlast'.encode())
    _, plan = planned(job(tmp_path, tmp_path / "m.txt"))
    assert plan["prompt"].to_pylist() == ['a "cat", asleep', " # not a comment", "last"]


@pytest.mark.parametrize(
    ("name", "data", "lines"),
    [
        ("m.csv", b'prompt,width\n"two\nlines",64\n\na,7\n"b\n\nc",64\nd,9\n', [5, 9]),
        ("m.tsv", b"\xef\xbb\xbfprompt\twidth\r\na\t64\r\n\r\nb\t7\r\nc\t9\r\n", [4, 5]),
        ("m.jsonl", b'\n{"prompt": "a", "width": 7}\n\n{"prompt": "b", "width": 9}', [2, 4]),
    ],
)
@pytest.mark.parametrize("block_bytes", [1, 1 << 20])
def test_a_bad_row_is_reported_with_its_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    data: bytes,
    lines: list[int],
    block_bytes: int,
) -> None:
    monkeypatch.setattr(text, "BLOCK_BYTES", block_bytes)
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(data))
    assert problems_of(job(tmp_path, tmp_path / f"{name}.gz")) == [
        f"{name}.gz, line {line}, column width: {value} is not a multiple of 8 between 8 and 16,384"
        for line, value in zip(lines, (7, 9), strict=True)
    ]


def test_equal_ids_are_reported_with_the_lines_of_both(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text('prompt,id\n"a\nb",1\n\nc,2\nd,1\n')
    assert problems_of(job(tmp_path, tmp_path / "m.csv")) == [
        "m.csv, line 6, column id: id '1' is already used by m.csv, line 2"
    ]


def test_one_cause_in_many_rows_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("prompt\n" + "a cat, asleep\n" * 16 + "a dog\n" + "a, b, c\n")
    with pytest.raises(ManifestError) as caught:
        check(job(tmp_path, path), MODEL)
    hint = "but the header names 1; a field that contains a comma must be in quotes"
    assert str(caught.value).splitlines() == [
        f"{path}, lines 2, 3, 4, 5, 6 and 11 more: it has 2 fields, {hint}",
        f"{path}, line 19: it has 3 fields, {hint}",
    ]
    assert len(caught.value.problems) == 17


def test_a_semicolon_file_is_refused_once_and_its_decimals_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("prompt;guidance_scale\n" + "a cat;7,5\n" * 16)
    (problem,) = problems_of(job(tmp_path, tmp_path / "m.csv"))
    assert problem.startswith("m.csv, line 1: it looks like semicolons separate its columns; save")


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("7,5", "'7,5' is not a number; write a decimal point, not a comma"),
        ("1,024", "'1,024' is not a number; write it without commas between the thousands"),
        (
            "-1,234,567",
            "'-1,234,567' is not a number; write it without commas between the thousands",
        ),
        ("1,024.0", "'1,024.0' is not a number; write it without commas between the thousands"),
        ("7,50", "'7,50' is not a number; write a decimal point, not a comma"),
        ("1024,512", "'1024,512' is not a number; write a decimal point, not a comma"),
        ("0x1F", "'0x1F' is not a number"),
        ("1_000", "'1_000' is not a number"),
        ("7.0000000000000000000001", "'7.0000000000000000000001' is not a whole number"),
        ("NaN", "'NaN' is not a number"),
        ("\u0663", "'\u0663' is not a number"),
    ],
)
def test_text_that_only_some_readers_take_for_a_number_is_reported(
    tmp_path: Path, value: str, problem: str
) -> None:
    path = write(
        tmp_path / "m.csv", [{"prompt": "a", "seed": "0123"}, {"prompt": "b", "seed": value}]
    )
    assert problems_of(job(tmp_path, path)) == [f"m.csv, line 3, column seed: {problem}"]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("column", ["prompt", "negative_prompt"])
@pytest.mark.parametrize(
    ("bad", "what"),
    [
        ("a\0b", "a NUL character"),
        ("\x1b[0m", "the control character U+001B"),
        ("caf\x7f", "the control character U+007F"),
        ("caf\x92", "the control character U+0092"),
    ],
)
def test_control_characters_in_prompts_are_reported(
    tmp_path: Path, suffix: str, column: str, bad: str, what: str
) -> None:
    rows = [{"prompt": "two\n\tlines é", "negative_prompt": ""}] * 2
    path = write(tmp_path / f"m{suffix}", [*rows, rows[0] | {column: bad}])
    (problem,) = problems_of(job(tmp_path, path))
    assert problem.endswith(f"column {column}: it has {what}, which is not text")


def test_an_empty_line_of_text_is_reported(tmp_path: Path) -> None:
    (tmp_path / "m.txt").write_bytes(b"a\n\nb\n")
    assert problems_of(job(tmp_path, tmp_path / "m.txt")) == [
        "m.txt, line 2, column prompt: the prompt is empty"
    ]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_a_byte_order_mark_is_not_part_of_the_first_column(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"m{suffix}", [{"prompt": "a", "n": "1"}])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    _, plan = planned(job(tmp_path, path))
    assert plan["prompt"].to_pylist() == ["a"]


def test_other_files_are_skipped_in_a_folder_but_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path / "set" / "a.csv", [{"prompt": "a"}])
    (tmp_path / "set" / "README.md").write_text("about")
    assert check(job(tmp_path, tmp_path / "set"), MODEL).num_rows == 1
    (problem,) = problems_of(job(tmp_path, tmp_path / "set" / "README.md"))
    assert "not a manifest file; its name must end in one of: .parquet" in problem
    with pytest.raises(StoreMissing):
        check(job(tmp_path, tmp_path / "nowhere.csv"), MODEL)


def test_a_manifest_has_changed_if_its_bytes_have(tmp_path: Path) -> None:
    rows = [{"prompt": "a"}]
    one, two = (write(tmp_path / "set" / f"{name}.csv", rows) for name in "ab")
    spec = job(tmp_path, tmp_path / "set")
    layout = check(spec, MODEL)
    assert manifest_changes(layout, spec) == []
    one.touch()
    assert manifest_changes(layout, spec) == []
    write(one, [{"prompt": "b"}])
    (change,) = manifest_changes(layout, spec)
    assert change.field == f"manifest {one}"
    assert change.old == layout.files[0].sha256
    two.rename(tmp_path / "set" / "c.csv")
    assert [(c.old is None, c.new is None) for c in manifest_changes(layout, spec)] == [
        (False, False),
        (False, True),
        (True, False),
    ]


def test_the_same_bytes_at_another_url_are_the_same_manifest(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", [{"prompt": "a"}])
    layout = check(job(tmp_path, path), MODEL)
    moved = job(tmp_path, path.rename(tmp_path / "b.csv"))
    assert manifest_changes(layout, moved) == []


def test_bad_records_of_all_files_are_counted(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.csv").write_text("prompt,note\n" + "x\n" * 30)
    with pytest.raises(ManifestError) as caught:
        check(job(tmp_path, [tmp_path / "a.csv", tmp_path / "b.csv"]), MODEL)
    assert caught.value.total == 60
    assert len(caught.value.problems) == 20
