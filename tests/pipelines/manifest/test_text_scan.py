"""Text files of every format: what is no text, endless records, and the lines of problems."""

import gzip
import io
from pathlib import Path
from typing import BinaryIO, cast

import pytest
from support.fuzzed_text import FORMATS, fuzz
from support.manifest_files import problem_of, rows_of, scanned

from nightpress.pipelines.errors import ManifestError
from nightpress.pipelines.job.text_bytes import BadText
from nightpress.pipelines.manifest import text
from nightpress.pipelines.manifest.delimited import Delimited
from nightpress.pipelines.manifest.files import lines_of_rows
from nightpress.pipelines.manifest.jsonl import JsonLines
from nightpress.pipelines.manifest.text import PlainLines, TextFormat

ROWS = {"csv": "prompt,n\na,1\n", "jsonl": '{"prompt": "a"}\n', "txt": "a\n", "tsv": "prompt\na\n"}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
def test_other_encodings_are_named(tmp_path: Path, name: str, encoding: str) -> None:
    (tmp_path / f"m.{name}").write_bytes((ROWS[name] * 50).encode(encoding))
    message = problem_of(tmp_path / f"m.{name}").message
    assert encoding[:6].upper() in message
    assert "UTF-8" in message


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (b"\x00", "it has a NUL byte, which no text has; save the file as UTF-8"),
        (b"\x1b", "it has the control character U+001B, which is not text"),
        (b"\x0c", "it has the control character U+000C, which is not text"),
        (b"\x7f", "it has the control character U+007F, which is not text"),
        ("\x93".encode(), "it has the control character U+0093, which is what becomes of Windows"),
        (b"caf\xe9", "not UTF-8 text: byte 0xe9, 'é' in Windows-1252; save the file as UTF-8"),
        (b"\xed\xa0\x80", "not UTF-8 text: byte 0xed"),
        (b"\xc3", "not UTF-8 text: byte 0xc3"),
    ],
)
@pytest.mark.parametrize("block_bytes", [1, 1 << 20])
def test_what_is_no_text_is_refused_with_its_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    bad: bytes,
    message: str,
    block_bytes: int,
) -> None:
    monkeypatch.setattr(text, "BLOCK_BYTES", block_bytes)
    line = ROWS[name].splitlines()[-1].encode()
    good = ROWS[name].encode() + (line + b"\n") * 40
    path = tmp_path / f"m.{name}"
    path.write_bytes(good + line.replace(b"a", bad, 1) + b"\n" + line)
    problem = problem_of(path)
    assert problem.line == good.count(b"\n") + 1
    assert problem.message.startswith(message)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"\x89PNG\r\n\x1a\n", "a PNG image"),
        (b"PK\x03\x04\x14\x00", "a ZIP archive, such as an Excel workbook"),
        (b"PAR1\x15\x04", "a Parquet file"),
        (b"\x1f\x8b\x08\x00", "a gzip file"),
    ],
)
def test_other_files_under_a_texts_name_are_named(
    tmp_path: Path, name: str, start: bytes, kind: str
) -> None:
    (tmp_path / f"m.{name}").write_bytes(start + b"\x00\xff\n" * 9)
    assert problem_of(tmp_path / f"m.{name}").message.startswith(f"it is {kind}, not ")


def test_a_second_byte_order_mark_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffa\n\ufeffb\n".encode())
    assert problem_of(tmp_path / "a.txt").line == 2
    (tmp_path / "b.csv").write_bytes("\ufeff\ufeffprompt\na\n".encode())
    assert problem_of(tmp_path / "b.csv").line == 1
    (tmp_path / "c.txt").write_bytes("a\ufeffb\n".encode())
    assert rows_of(tmp_path / "c.txt") == [{"prompt": "a\ufeffb"}]


@pytest.mark.parametrize(
    ("name", "start", "endless", "message"),
    [
        ("m.jsonl", b'{"prompt": "a"}\n', b'{"prompt": "a"} ', "this record does not end within"),
        ("m.csv", b"prompt\na\n", b"word ", "this record does not end within 1 MiB, the most"),
        ("m.csv", b'prompt\na\n"open', b"\nword", "a quote opens here and is not closed: "),
        ("m.tsv", b"prompt\na\n", b"word ", "this record does not end within 1 MiB, the most"),
        ("m.txt", b"a\n\n", b"word ", "this record does not end within 1 MiB, the most"),
    ],
)
@pytest.mark.parametrize("compressed", [False, True])
def test_a_record_without_an_end_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    start: bytes,
    endless: bytes,
    message: str,
    compressed: bool,
) -> None:
    monkeypatch.setattr(text, "MAX_RECORD_BYTES", 1 << 20)
    monkeypatch.setattr(text, "BLOCK_BYTES", 1 << 17)
    data = start + endless * ((3 << 20) // len(endless))
    path = tmp_path / (f"{name}.gz" if compressed else name)
    path.write_bytes(gzip.compress(data, 1) if compressed else data)
    problem = problem_of(path)
    assert problem.message.startswith(message)
    assert problem.line == start.count(b"\n") + 1


class Endless(io.RawIOBase):
    """A stream of one line that never ends."""

    def read(self, size: int = -1) -> bytes:
        return b"a" * size


@pytest.mark.parametrize("form", [Delimited(","), JsonLines(), PlainLines()])
def test_no_more_of_an_endless_line_is_read_than_a_record_may_have(form: TextFormat) -> None:
    with pytest.raises(BadText, match="does not end within 16 MiB"):
        list(text.split_into_blocks(cast("BinaryIO", Endless()), form, 0))


@pytest.mark.parametrize("name", ["m.csv", "m.tsv"])
@pytest.mark.parametrize("start", [b"prompt", b'"prompt'])
def test_a_header_without_an_end_is_refused(tmp_path: Path, name: str, start: bytes) -> None:
    (tmp_path / name).write_bytes(start + b" word" * 300_000)
    assert problem_of(tmp_path / name).message == "the header does not end within 1 MiB"


LINES = {
    "m.csv": (b'"prompt",n\r\n\r\na,1\r\n"b\nb\rb\r\n""b",2\r\n\n\nc,3', [3, 4, 10]),
    "m.tsv": (b"\xef\xbb\xbfprompt\n\n\na\nb\n\nc", [4, 5, 7]),
    "m.jsonl": (b'\n{"a": 1}\n \n\t\r\n{"a": 2}\r\n{"a": 3}', [2, 5, 6]),
    "m.txt": (b"a\r\n\r\nc", [1, 2, 3]),
}


@pytest.mark.parametrize("name", LINES)
@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("block_bytes", [1, 7, 1 << 20])
def test_the_line_of_a_row_is_the_one_that_an_editor_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, compress: bool, block_bytes: int
) -> None:
    monkeypatch.setattr(text, "BLOCK_BYTES", block_bytes)
    data, expected = LINES[name]
    path = tmp_path / (f"{name}.gz" if compress else name)
    path.write_bytes(gzip.compress(data) if compress else data)
    file = scanned(path)
    assert file.num_rows == 3
    assert lines_of_rows(file, [0, 1, 2], {}) == dict(enumerate(expected))
    assert lines_of_rows(file, [2], {}) == {2: expected[2]}


def test_bad_records_are_given_with_their_lines(tmp_path: Path) -> None:
    data = b'prompt,n\n\n"a\n\na",1\nb\n\nc,2\nd,3,4\n'
    (tmp_path / "m.csv").write_bytes(data)
    with pytest.raises(ManifestError) as caught:
        scanned(tmp_path / "m.csv")
    assert [(p.row, p.line) for p in caught.value.problems] == [(1, 6), (3, 9)]


@pytest.mark.parametrize("name", FORMATS)
def test_random_files_are_read_as_other_readers_read_them_or_refused(name: str) -> None:
    tally = fuzz(name, 300, seed=1)
    assert tally.different == []
    assert tally.equal > 75


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_ten_thousand_random_files_are_read_as_other_readers_read_them(name: str) -> None:
    assert fuzz(name, 10_000).different == []
