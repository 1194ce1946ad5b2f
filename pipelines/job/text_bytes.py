"""Whether bytes are text: UTF-8 without control characters. If not, says what they seem to be."""

import codecs
import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

BYTE_ORDER_MARK = b"\xef\xbb\xbf"

OTHER_MARKS = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
"""The byte order marks of other encodings; the longer ones first."""

FILE_KINDS = {
    b"PAR1": "a Parquet file",
    b"ARROW1": "an Arrow file",
    b"PK\x03\x04": "a ZIP archive, such as an Excel workbook",
    b"\xd0\xcf\x11\xe0": "an old Excel or Word file",
    b"\x1f\x8b": "a gzip file",
    b"\x28\xb5\x2f\xfd": "a Zstandard file",
    b"BZh": "a bzip2 file",
    b"SQLite format 3": "an SQLite database",
    b"%PDF": "a PDF file",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
}
"""The first bytes of files that are often named as text by mistake."""

SLICE_BYTES = 1 << 18
"""Small enough that what is computed for a slice stays in the processor's cache."""

CONTROL_CHARACTERS = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x{80}-\x{9f}]"
"""Matches them in Arrow's regular expressions: Unicode's Cc without tab, LF and CR."""

_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_LATER_CONTROL = re.compile(rb"\xc2([\x80-\x9f])")
"""U+0080 to U+009F in UTF-8."""
_MARK_IN_LINE = re.compile(rb"(?:^|[\r\n])\xef\xbb\xbf")

_LONE_CR = re.compile(rb"\r(?!\n|\Z)")

_SAMPLE_BYTES = 4_096


class BadText(ValueError):
    """A text is wrong at `offset`, in bytes from the beginning of the data that was read."""

    def __init__(self, offset: int, message: str) -> None:
        self.offset = offset
        self.message = message
        super().__init__(message)


class NotText(BadText):
    """The bytes are not text at all, rather than text that breaks the rules of its format."""


def check_characters(data: bytes, cut: bool = False) -> None:
    """Refuse bytes that are not UTF-8, and control characters other than tab, LF and CR.

    Args:
        data: begins at the beginning of a line.
        cut: whether the last character may be cut short.

    Raises:
        NotText: with the offset of the first such byte.
    """
    _raise_first([_control_character(data), *_later_problems(data, cut)])


def check_later_characters(data: bytes) -> None:
    """The same for bytes without control characters below the blank.

    Raises:
        NotText: with the offset of the first other character that is not allowed.
    """
    deleted = _control_character(data) if b"\x7f" in data else None
    _raise_first([deleted, *_later_problems(data, cut=False)])


def _later_problems(data: bytes, cut: bool) -> list[NotText | None]:
    if data.isascii():
        return []
    return [_not_utf8(data, cut), _later_control(data), _byte_order_mark(data)]


def _raise_first(found: Sequence[NotText | None]) -> None:
    problems = [problem for problem in found if problem is not None]
    if problems:
        raise min(problems, key=lambda problem: problem.offset)


def check_line_ends(data: bytes) -> None:
    """Refuse a CR that stands alone: some programs end a line there and others do not.

    Raises:
        BadText: with its offset. A CR at the very end is left alone, as more may follow.
    """
    if b"\r" in data and data.count(b"\r") != data.count(b"\r\n"):
        match = _LONE_CR.search(data)
        if match:
            raise lone_cr(match.start())


def lone_cr(offset: int) -> BadText:
    """The error for a CR without LF."""
    return BadText(offset, "a line ends in CR alone; save the file with LF or CRLF line ends")


def has_control_characters(column: pa.StringArray) -> bool:
    """Whether texts of a column may have control characters; if False, none has."""
    _, offsets, values = column.buffers()
    if values is None:
        return False
    ends = np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1]
    data = memoryview(values)[ends[0] : ends[-1]].tobytes()
    return _has_low_bytes(data) or b"\xc2" in data


def kind_of(start: bytes) -> str | None:
    """What kind of file these first bytes belong to, in words; None if they say nothing."""
    for mark, encoding in OTHER_MARKS.items():
        if start.startswith(mark):
            return f"{encoding} text"
    return next((kind for magic, kind in FILE_KINDS.items() if start.startswith(magic)), None)


def _has_low_bytes(data: bytes) -> bool:
    """Whether there is a control character of ASCII."""
    values = np.frombuffer(data, np.uint8)
    slices = (values[start : start + SLICE_BYTES] for start in range(0, len(data), SLICE_BYTES))
    low = np.concatenate([part[part < ord(" ")] for part in slices] or [values])
    allowed = (low == ord("\n")) | (low == ord("\r")) | (low == ord("\t"))
    return not allowed.all() or b"\x7f" in data


def _control_character(data: bytes) -> NotText | None:
    match = _CONTROL.search(data) if _has_low_bytes(data) else None
    if match is None:
        return None
    at, code = match.start(), data[match.start()]
    if code:
        return NotText(
            at, f"it has the control character U+{code:04X}, which is not text; remove it"
        )
    return NotText(at, f"it has a NUL byte{_guessed_encoding(data)}; save the file as UTF-8")


def _guessed_encoding(data: bytes) -> str:
    """UTF-16 or UTF-32 where many of the first bytes are NUL."""
    sample = data[:_SAMPLE_BYTES]
    share = sample.count(0) / len(sample)
    if share < 0.2:
        return ", which no text has"
    return f" and looks like {'UTF-32' if share > 0.6 else 'UTF-16'} text"


def _not_utf8(data: bytes, cut: bool) -> NotText | None:
    try:
        codecs.utf_8_decode(data, "strict", not cut)
    except UnicodeDecodeError as error:
        byte = data[error.start : error.start + 1]
        shown = byte.decode("cp1252", "ignore")
        meaning = f", {shown!r} in Windows-1252" if shown.isprintable() and shown else ""
        what = f"not UTF-8 text: byte 0x{byte.hex()}{meaning}; save the file as UTF-8"
        return NotText(error.start, what)
    return None


def _later_control(data: bytes) -> NotText | None:
    match = _LATER_CONTROL.search(data) if b"\xc2" in data else None
    if match is None:
        return None
    code = match[1][0]
    return NotText(
        match.start(),
        f"it has the control character U+{code:04X}, which is what becomes of "
        "Windows-1252 text that was converted as Latin-1; save the original as UTF-8",
    )


def _byte_order_mark(data: bytes) -> NotText | None:
    match = _MARK_IN_LINE.search(data) if b"\xef" in data else None
    if match is None:
        return None
    return NotText(
        match.end() - len(BYTE_ORDER_MARK),
        "this line begins with a second byte order mark (U+FEFF), as when files are joined; "
        "remove it",
    )
