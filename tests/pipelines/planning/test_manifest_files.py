"""Manifest files of every format: intact, malformed and changed."""

from pathlib import Path

import pytest
from support.plans import MODEL, job, planned, problems_of, write

from nightpress.pipelines.errors import ManifestError, StoreMissing
from nightpress.pipelines.planning import check, manifest_changes


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        (
            "m.csv",
            b"",
            "cannot be read as CSV: the file is empty, but its first line must name the columns",
        ),
        ("m.csv", b"prompt\n", "the manifest has no rows"),
        ("m.csv", b"prompt,n\ra,b\r", "its lines end in CR alone"),
        ("m.csv", "prompt\na\n".encode("utf-16"), "not UTF-8 text: byte 0xff"),
        ("m.jsonl", b'{"prompt": "\\ud800"}\n', "row 0: its text has half a character"),
        ("m.jsonl", b'[{"prompt": "a"}]', "row 0: not a JSON object"),
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
        "m.csv, row 1: it has 1 field, but the header names 2",
        "m.csv, row 2: it has 3 fields, but the header names 2",
    ]


def test_a_malformed_line_of_json_is_reported(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text('{"prompt": "a"}\n{"prompt": \n')
    (problem,) = problems_of(job(tmp_path, tmp_path / "m.jsonl"))
    assert problem.startswith("m.jsonl, row 1: not JSON: ")


def test_each_line_of_a_text_file_is_a_prompt(tmp_path: Path) -> None:
    (tmp_path / "m.txt").write_bytes('\ufeffa "cat", asleep\r\n # not a comment\nlast'.encode())
    _, plan = planned(job(tmp_path, tmp_path / "m.txt"))
    assert plan["prompt"].to_pylist() == ['a "cat", asleep', " # not a comment", "last"]


def test_an_empty_line_of_text_is_reported(tmp_path: Path) -> None:
    (tmp_path / "m.txt").write_bytes(b"a\n\nb\n")
    assert problems_of(job(tmp_path, tmp_path / "m.txt")) == [
        "m.txt, row 1, column prompt: the prompt is empty"
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
