"""Text manifests: split a file into blocks of whole records; plain text with one prompt a line.

Each block can be read again by itself from its position, so a large file is neither held in memory
nor read from its start for every part of the plan.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from nightpress.pipelines.job.text_bytes import BadText, check_characters, check_line_ends

BLOCK_BYTES = 4 << 20

MAX_RECORD_BYTES = 16 << 20
"""The longest record that is read. It bounds memory where a file has no line ends."""

OnBadRecord = Callable[[int, str], None]
"""Called with the number of a record in its block and what is wrong with it."""


@dataclass(frozen=True)
class ScannedBlock:
    """What is in a block of whole records."""

    num_rows: int
    """Includes the records that cannot be read."""
    types: dict[str, pa.DataType]
    """The columns that it has."""


class TextFormat(Protocol):
    """How one text format is split into records and parsed.

    Data begins with a record, after a byte order mark, and holds whole records unless said
    otherwise.
    """

    has_header: bool

    def whole_records(self, data: bytes, last: bool) -> int:
        """How many leading bytes of `data` form whole records; all of them if it is the `last`.

        Raises:
            BadText: what follows can be no record, whatever comes next. `data` may be any bytes.
        """

    def record_starts(self, data: bytes) -> list[int]:
        """The offset of each record in whole records, those that cannot be read included."""

    def header(self, data: bytes, last: bool) -> tuple[pa.Schema, int]:
        """The columns named at the beginning of `data`, and how many bytes the header takes.

        Raises:
            BadText: the header is malformed, or longer than `data` though more follows.
        """

    def scan(self, data: bytes, header: pa.Schema, on_bad_record: OnBadRecord) -> ScannedBlock:
        """Count whole records and find the type of each column.

        Args:
            header: the columns that the header names.
            on_bad_record: called for each record that cannot be read.

        Raises:
            NotText: a character is not allowed.
        """

    def common_type(self, one: pa.DataType, other: pa.DataType) -> pa.DataType:
        """The type of a column that has these types in two blocks."""

    def final_type(self, type_: pa.DataType) -> pa.DataType:
        """The type to read a column as whose blocks have this `common_type`."""

    def parse(self, data: bytes, schema: pa.Schema) -> pa.Table:
        """Parse whole records that were scanned before into columns of these final types.

        Args:
            schema: all columns of the header, if there is one; otherwise those wanted.
        """


class PlainLines:
    """Plain text: every line is a prompt."""

    has_header = False

    def whole_records(self, data: bytes, last: bool) -> int:
        """Up to the last line end."""
        return whole_lines(data, last)

    def record_starts(self, data: bytes) -> list[int]:
        """Every line is a record, even an empty one."""
        return line_starts(data)

    def header(self, data: bytes, last: bool) -> tuple[pa.Schema, int]:
        """The one column, `prompt`; the file has no header."""
        return pa.schema([("prompt", pa.string())]), 0

    def scan(self, data: bytes, header: pa.Schema, on_bad_record: OnBadRecord) -> ScannedBlock:
        """One row a line."""
        check_characters(data)
        num_rows = data.count(b"\n") + (not data.endswith(b"\n"))
        return ScannedBlock(num_rows, {"prompt": pa.string()})

    def common_type(self, one: pa.DataType, other: pa.DataType) -> pa.DataType:
        """Text."""
        return pa.string()

    def final_type(self, type_: pa.DataType) -> pa.DataType:
        """Text."""
        return type_

    def parse(self, data: bytes, schema: pa.Schema) -> pa.Table:
        """The lines without their line ends; an empty line is an empty prompt."""
        lines = pa.array([data.removesuffix(b"\n").decode()])
        prompts = pc.list_flatten(pc.split_pattern(lines, "\n"))
        return pa.table({"prompt": pc.utf8_rtrim(prompts, "\r")})


def whole_lines(data: bytes, last: bool) -> int:
    """How many bytes of `data` form whole lines, which end in LF or CRLF.

    Raises:
        BadText: a CR stands alone. Some programs end a line there and others do not.
    """
    check_line_ends(data)
    return len(data) if last else data.rfind(b"\n") + 1


def line_starts(data: bytes) -> list[int]:
    """The offset of each line."""
    starts = [0, *(match.end() for match in re.finditer(rb"\n", data))]
    return starts[:-1] if starts[-1] == len(data) else starts


def split_into_blocks(
    stream: BinaryIO, form: TextFormat, start: int
) -> Iterator[tuple[int, bytes]]:
    """Blocks of whole records, each with the position in bytes where it begins.

    Args:
        stream: positioned at the first record.
        start: that position in bytes.

    Raises:
        BadText: a record has no end, or is too long; the offset counts from the beginning of the
            stream.
    """
    rest = b""
    while chunk := read_up_to(stream, BLOCK_BYTES):
        data = rest + chunk
        end = _whole_records(form, data, start, last=False)
        if end:
            yield start, data[:end]
        start += end
        rest = data[end:]
        if len(rest) > MAX_RECORD_BYTES:
            _check_characters(rest, start, cut=True)
            _whole_records(form, rest, start, last=True)  # says so if a quote is not closed
            size = f"{MAX_RECORD_BYTES >> 20} MiB"
            raise BadText(start, f"this record does not end within {size}, the most that is read")
    if rest:
        _whole_records(form, rest, start, last=True)
        yield start, rest


def _whole_records(form: TextFormat, data: bytes, start: int, last: bool) -> int:
    try:
        return form.whole_records(data, last)
    except BadText as error:
        _check_characters(data, start, cut=not last)
        error.offset += start
        raise


def _check_characters(data: bytes, start: int, cut: bool) -> None:
    try:
        check_characters(data, cut)
    except BadText as error:
        error.offset += start
        raise


def read_up_to(stream: BinaryIO, num_bytes: int) -> bytes:
    """Read `num_bytes` unless the stream ends, so that blocks do not depend on the store."""
    chunks = []
    while num_bytes and (chunk := stream.read(num_bytes)):
        chunks.append(bytes(chunk))
        num_bytes -= len(chunk)
    return b"".join(chunks)
