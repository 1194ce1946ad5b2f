"""Scan a text file once for its columns and the positions of its rows; find the lines of rows.

Positions are bytes after decompression. Lines count from 1, as an editor shows them: a line ends in
LF, CRLF or CR, even in a quoted field, and empty lines count.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import accumulate
from typing import BinaryIO

import pyarrow as pa

from nightpress.pipelines.errors import MAX_PROBLEMS, ManifestError, Problem
from nightpress.pipelines.job.text_bytes import (
    BYTE_ORDER_MARK,
    BadText,
    NotText,
    check_characters,
    kind_of,
)
from nightpress.pipelines.manifest.delimited import Delimited, QuotesAreText, TextAfterQuote
from nightpress.pipelines.manifest.file_records import Block
from nightpress.pipelines.manifest.jsonl import JsonLines
from nightpress.pipelines.manifest.text import (
    PlainLines,
    ScannedBlock,
    TextFormat,
    read_up_to,
    split_into_blocks,
)
from nightpress.pipelines.manifest.types import repeated

HEADER_BYTES = 1 << 20
"""The longest header that is read."""

COUNT_BYTES = 1 << 20
"""Lines are counted in so many bytes at a time."""

MIXED = {b"values": b"mixed"}
"""The metadata of a column that is text because its values have no common type."""

OpenText = Callable[[], AbstractContextManager[BinaryIO]]
"""Opens a file's text, decompressed."""


@dataclass(frozen=True)
class FileScan:
    """What scanning a file found."""

    schema: pa.Schema
    blocks: tuple[Block, ...]
    quotes_are_text: bool = False
    """Whether the file is TSV without quoting; see `delimited`."""


def text_format(name: str, quotes_are_text: bool = False) -> TextFormat:
    """How a format is read: `csv`, `tsv`, `jsonl` or `text`."""
    match name:
        case "csv":
            return Delimited(",")
        case "tsv":
            return QuotesAreText("\t") if quotes_are_text else Delimited("\t")
        case "jsonl":
            return JsonLines()
        case _:
            return PlainLines()


def scan_text(url: str, format_name: str, open_text: OpenText) -> FileScan:
    """Read a whole text file, keeping only counts and types.

    TSV is read without quoting if a field begins with a quoted text and goes on after it, as no
    writer of quoted fields makes it, and no field is wholly in quotes.

    Raises:
        ManifestError: the file or some of its records cannot be read.
    """
    try:
        return _scan(url, text_format(format_name), open_text)
    except TextAfterQuote as error:
        if format_name == "tsv":
            try:
                return _scan(url, text_format(format_name, True), open_text, quotes_are_text=True)
            except BadText:
                pass  # the file has no dialect; the first mistake is the one to show
        raise _file_error(url, format_name, open_text, error) from error
    except BadText as error:
        raise _file_error(url, format_name, open_text, error) from error


def _scan(
    url: str, form: TextFormat, open_text: OpenText, quotes_are_text: bool = False
) -> FileScan:
    types: dict[str, pa.DataType | None] = {}
    blocks: list[Block] = []
    bad: list[tuple[int, int, str]] = []
    num_rows = num_bad = 0
    with open_text() as stream:
        header, start = _header(stream, form)
        types |= {field.name: field.type for field in header}
    with open_text() as stream:
        read_up_to(stream, start)
        for position, data in split_into_blocks(stream, form, start):
            found: dict[int, str] = {}
            block = _scan_block(form, position, data, header, found)
            for name, type_ in block.types.items():
                types[name] = form.common_type(types.get(name, pa.null()), type_)
            if found and len(bad) < MAX_PROBLEMS:
                starts = form.record_starts(data)
                bad += [(num_rows + row, position + starts[row], found[row]) for row in found]
            num_bad += len(found)
            blocks.append(Block(position, len(data), block.num_rows))
            num_rows += block.num_rows
    if bad:
        raise _record_errors(url, open_text, bad[:MAX_PROBLEMS], num_bad)
    fields = [_field(name, type_, form) for name, type_ in types.items()]
    return FileScan(pa.schema(fields), tuple(blocks), quotes_are_text)


def _scan_block(
    form: TextFormat, position: int, data: bytes, header: pa.Schema, found: dict[int, str]
) -> ScannedBlock:
    try:
        return form.scan(data, header, found.__setitem__)
    except BadText as error:
        error.offset += position
        raise


def _field(name: str, type_: pa.DataType | None, form: TextFormat) -> pa.Field:
    """A column of the file, marked if it is text only because its values have no other type."""
    final = form.final_type(type_)
    is_mixed = pa.types.is_string(final) and final != type_
    return pa.field(name, final, metadata=MIXED if is_mixed else None)


def _header(stream: BinaryIO, form: TextFormat) -> tuple[pa.Schema, int]:
    """The columns that the header names, if there is one, and the position of the first record."""
    data = read_up_to(stream, HEADER_BYTES)
    last = len(data) < HEADER_BYTES
    mark = len(BYTE_ORDER_MARK) if data.startswith(BYTE_ORDER_MARK) else 0
    try:
        check_characters(data[mark:], cut=not last)
        if form.has_header and last and not data[mark:].strip():
            raise BadText(0, "the file is empty, but its first line must name the columns")
        schema, num_bytes = form.header(data[mark:], last)
    except BadText as error:
        error.offset += mark
        raise
    twice = repeated(schema.names)
    if twice is not None:
        raise BadText(mark, f"column {twice!r} appears twice")
    return schema, mark + num_bytes


def _record_errors(
    url: str, open_text: OpenText, bad: Sequence[tuple[int, int, str]], num_bad: int
) -> ManifestError:
    lines = line_numbers(open_text, [position for _, position, _ in bad])
    problems = [Problem(url, row, None, why, lines.get(position)) for row, position, why in bad]
    return ManifestError(problems, num_bad)


def _file_error(url: str, format_name: str, open_text: OpenText, error: BadText) -> ManifestError:
    if isinstance(error, NotText):
        with open_text() as stream:
            kind = kind_of(read_up_to(stream, 16))
        if kind is not None:
            return ManifestError([Problem(url, None, None, _wrong_kind(kind, format_name))])
    line = line_numbers(open_text, [error.offset]).get(error.offset)
    return ManifestError([Problem(url, None, None, error.message, line)])


def _wrong_kind(kind: str, format_name: str) -> str:
    if kind.endswith("text"):
        return f"it is {kind}; save the file as UTF-8"
    wanted = "plain text" if format_name == "text" else format_name.upper()
    return f"it is {kind}, not {wanted}; export it as {wanted} in UTF-8"


def line_numbers_of_rows(
    open_text: OpenText, form: TextFormat, blocks: Iterable[Block], rows: Iterable[int]
) -> dict[int, int]:
    """The line that each of these rows begins on; without those that are no longer there."""
    positions = _row_positions(open_text, form, list(blocks), sorted(set(rows)))
    lines = line_numbers(open_text, positions.values())
    return {row: lines[place] for row, place in positions.items() if place in lines}


def _row_positions(
    open_text: OpenText, form: TextFormat, blocks: Sequence[Block], rows: Sequence[int]
) -> Mapping[int, int]:
    positions: dict[int, int] = {}
    ends = list(accumulate(block.num_rows for block in blocks))
    with open_text() as stream:
        at = 0
        for block, end in zip(blocks, ends, strict=True):
            wanted = [row for row in rows if end - block.num_rows <= row < end]
            if wanted:
                skip(stream, block.start - at)
                starts = form.record_starts(read_up_to(stream, block.num_bytes))
                at = block.start + block.num_bytes
                numbers = [row - (end - block.num_rows) for row in wanted]
                positions |= {
                    row: block.start + starts[number]
                    for row, number in zip(wanted, numbers, strict=True)
                    if number < len(starts)
                }
    return positions


def line_numbers(open_text: OpenText, positions: Iterable[int]) -> dict[int, int]:
    """The line, counted from 1, that each of these bytes of a file is on."""
    lines: dict[int, int] = {}
    wanted = sorted(set(positions))
    line, start, after_cr = 1, 0, False
    with open_text() as stream:
        while wanted and (data := read_up_to(stream, COUNT_BYTES)):
            while wanted and wanted[0] < start + len(data):
                position = wanted.pop(0)
                lines[position] = line + _line_ends(data[: position - start], after_cr)
            line += _line_ends(data, after_cr)
            start += len(data)
            after_cr = data.endswith(b"\r")
    return lines | dict.fromkeys(wanted, line)


def _line_ends(data: bytes, after_cr: bool) -> int:
    joined = after_cr and data.startswith(b"\n")
    return data.count(b"\n") + data.count(b"\r") - data.count(b"\r\n") - joined


def skip(stream: BinaryIO, num_bytes: int) -> None:
    """Read past `num_bytes`: a compressed stream cannot seek."""
    while num_bytes:
        num_bytes -= len(read_up_to(stream, min(num_bytes, 1 << 20))) or num_bytes
