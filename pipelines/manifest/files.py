"""Manifest files: detect their format, scan them once, and read any range of rows again.

Turns a URL into Arrow tables of the file's own columns. A file is read block by block, so memory
stays bounded.
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import PurePosixPath
from typing import BinaryIO, cast

import pyarrow as pa

from nightpress.diffusion_core.errors import one_line
from nightpress.pipelines.errors import MAX_PROBLEMS, ManifestError, Problem
from nightpress.pipelines.manifest.delimited import Delimited
from nightpress.pipelines.manifest.jsonl import JsonLines
from nightpress.pipelines.manifest.parquet import conformed, read_parquet, scan_parquet
from nightpress.pipelines.manifest.same_bytes import (
    Content,
    ScannedStream,
    changed_error,
    open_unchanged,
)
from nightpress.pipelines.manifest.text import (
    BYTE_ORDER_MARK,
    PlainLines,
    TextFormat,
    read_up_to,
    split_into_blocks,
)
from nightpress.pipelines.manifest.types import (
    BlockTypes,
    first_bad_text,
    repeated,
    what_is_not_utf8,
)
from nightpress.pipelines.storage import Options, Source, open_source, parsing

SUFFIXES = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".txt": "text",
}

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
"""Compressions of whole files, for text formats only; Parquet compresses inside."""

MALFORMED = (pa.ArrowException, UnicodeDecodeError, EOFError)
"""What parsers raise about a file's bytes: malformed, an unsupported kind, not UTF-8, truncated."""

HEADER_BYTES = 1 << 20
"""How much of a text file is looked at to find its header."""


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a file that can be read by themselves."""

    start: int
    """A row group's number in Parquet; in a text file the first byte, after decompression."""
    num_bytes: int
    num_rows: int


@dataclass(frozen=True)
class ManifestFile:
    """One file of a manifest, as it was scanned."""

    url: str
    version: str
    num_bytes: int
    sha256: str
    format: str
    compression: str | None
    schema: pa.Schema
    blocks: tuple[Block, ...]
    checksums: bytes = b""
    """Of the stored bytes, see `Content`; empty if an older version scanned the file."""

    @property
    def identity(self) -> tuple[str, ...]:
        """What makes two files the same part of a manifest, wherever they are stored."""
        return identity_of(self.url, self.sha256)

    @property
    def content(self) -> Content:
        """The stored bytes that were scanned."""
        return Content(self.num_bytes, self.sha256, self.checksums)

    @cached_property
    def num_rows(self) -> int:
        """The number of rows in the file."""
        return sum(block.num_rows for block in self.blocks)


@dataclass(frozen=True)
class RowRange:
    """Consecutive rows of one file."""

    file: ManifestFile
    first_row: int
    num_rows: int


def format_of(url: str) -> tuple[str, str | None] | None:
    """Format and compression by the suffixes of a name; None if it is not a manifest's name."""
    path = PurePosixPath(url.partition("?")[0].lower())
    compression = COMPRESSIONS.get(path.suffix)
    if compression is not None:
        path = path.with_suffix("")
    known = SUFFIXES.get(path.suffix)
    if known is None or (known == "parquet" and compression is not None):
        return None
    return known, compression


def identity_of(url: str, sha256: str) -> tuple[str, ...]:
    """What makes a file the same part of a manifest as another: its bytes and how they are read."""
    format_name, compression = format_of(url) or ("", None)
    return (sha256, format_name, compression or "uncompressed")


def scan(source: Source, options: Options) -> ManifestFile:
    """Read a file once to find its columns, the positions of its rows, and its SHA-256.

    Raises:
        ManifestError: the file or some of its records cannot be read.
        StoreError: the store fails.
    """
    kind = format_of(source.url)
    if kind is None:
        raise ValueError(f"{source.url} is not a manifest")
    with _parsing(source.url, kind[0]):
        if kind[0] == "parquet":
            content = Content.of(source.url, options)
            schema, blocks = _scan_parquet(source.url, content, options)
        else:
            with open_source(source.url, options) as raw:
                stream = ScannedStream(raw)
                schema, blocks = _scan_text(source.url, cast("BinaryIO", stream), *kind)
                content = stream.finish()
    return ManifestFile(
        source.url,
        source.version,
        content.num_bytes,
        content.sha256,
        *kind,
        schema,
        tuple(blocks),
        content.checksums,
    )


def sha256_of(url: str, options: Options) -> str:
    """The SHA-256 of the stored file, in hexadecimal."""
    return Content.of(url, options).sha256


def read_rows(rows: RowRange, columns: Sequence[str], options: Options) -> Iterator[pa.Table]:
    """Read a range of rows as a few tables, with those of `columns` that the file has.

    Raises:
        ManifestError: the file cannot be read, or it has changed since it was scanned.
    """
    file = rows.file
    schema = pa.schema([field for field in file.schema if field.name in set(columns)])
    blocks, skip = _covering_blocks(rows)
    read = _read_parquet if file.format == "parquet" else _read_text
    row, end = rows.first_row, rows.first_row + rows.num_rows
    with _parsing(file.url, file.format):
        for table in read(file, blocks, schema, options):
            wanted = table.slice(skip, end - row)
            skip = max(0, skip - table.num_rows)
            if wanted.num_rows:
                yield wanted
            row += wanted.num_rows
            if row == end:
                return
        raise changed_error(file.url)


def read_checked_rows(
    rows: RowRange, columns: Sequence[str], options: Options
) -> Iterator[pa.Table]:
    """Read rows for the first time: as `read_rows`, after making sure that all text is UTF-8.

    In a text file scanning has done so already; Arrow reads any bytes of a Parquet file as text.
    """
    row = rows.first_row
    for table in read_rows(rows, columns, options):
        for name in table.schema.names if rows.file.format == "parquet" else ():
            bad = first_bad_text(table[name])
            if bad is not None:
                message = f"{what_is_not_utf8(table[name], bad)}; write UTF-8, or a binary column"
                raise ManifestError([Problem(rows.file.url, row + bad, name, message)])
        row += table.num_rows
        yield table


def _covering_blocks(rows: RowRange) -> tuple[list[Block], int]:
    """The blocks that hold a range of rows, and how many of their rows come before the range."""
    blocks: list[Block] = []
    start = skip = 0
    for block in rows.file.blocks:
        end = start + block.num_rows
        if start < rows.first_row + rows.num_rows and end > rows.first_row:
            skip = skip if blocks else rows.first_row - start
            blocks.append(block)
        start = end
    return blocks, skip


def _scan_parquet(url: str, content: Content, options: Options) -> tuple[pa.Schema, list[Block]]:
    with open_unchanged(url, content, options) as stream:
        schema, groups = scan_parquet(stream)
    return schema, [Block(i, each.num_bytes, each.num_rows) for i, each in enumerate(groups)]


def _read_parquet(
    file: ManifestFile, blocks: Sequence[Block], schema: pa.Schema, options: Options
) -> Iterator[pa.Table]:
    num_bytes, num_rows = (sum(each) for each in zip(*map(_size, blocks), strict=True))
    with open_unchanged(file.url, file.content, options) as stream:
        groups = [block.start for block in blocks]
        yield from read_parquet(stream, groups, num_bytes / num_rows, schema)


def _size(block: Block) -> tuple[int, int]:
    return block.num_bytes, block.num_rows


def _text_format(name: str) -> TextFormat:
    match name:
        case "csv":
            return Delimited(",")
        case "tsv":
            return Delimited("\t")
        case "jsonl":
            return JsonLines()
        case _:
            return PlainLines()


def _decompressed(stored: BinaryIO, compression: str | None) -> AbstractContextManager[BinaryIO]:
    if compression is None:
        return nullcontext(stored)
    stream: AbstractContextManager[BinaryIO] = pa.input_stream(stored, compression=compression)
    return stream


def _scan_text(
    url: str, stored: BinaryIO, format_name: str, compression: str | None
) -> tuple[pa.Schema, list[Block]]:
    """Parse the whole file once, keeping only counts and types."""
    form = _text_format(format_name)
    blocks: list[Block] = []
    problems: list[Problem] = []
    num_rows = num_problems = 0
    with _decompressed(stored, compression) as stream:
        beginning = read_up_to(stream, HEADER_BYTES)
        header, start = _header(beginning, form)
        found = BlockTypes(header)
        records = cast("BinaryIO", _Continued(beginning[start:], stream))
        for position, data in split_into_blocks(records, form, start):
            data.decode()
            bad: dict[int, str] = {}
            table = form.parse(data, header, bad.__setitem__)
            found.add(table)
            shown = islice(bad.items(), MAX_PROBLEMS - len(problems))
            problems += [Problem(url, num_rows + row, None, why) for row, why in shown]
            num_problems += len(bad)
            blocks.append(Block(position, len(data), table.num_rows + len(bad)))
            num_rows += table.num_rows + len(bad)
    if problems:
        raise ManifestError(problems, num_problems)
    return pa.schema(list(found.types.items())), blocks


class _Continued(io.RawIOBase):
    """Bytes that were already read from a stream, then the rest of the stream."""

    def __init__(self, data: bytes, rest: BinaryIO) -> None:
        super().__init__()
        self._data, self._rest = data, rest

    def read(self, size: int = -1) -> bytes:
        """The next bytes; at most `size`."""
        data, self._data = self._data[:size], self._data[size:]
        return data or self._rest.read(size)


def _header(data: bytes, form: TextFormat) -> tuple[pa.Schema, int]:
    """The columns that the header names, if there is one, and the position of the first record."""
    mark = len(BYTE_ORDER_MARK) if data.startswith(BYTE_ORDER_MARK) else 0
    if form.has_header and not data[mark:].strip():
        raise pa.ArrowInvalid("the file is empty, but its first line must name the columns")
    if form.has_header and b"\r" in data and b"\n" not in data:
        raise pa.ArrowInvalid("its lines end in CR alone; save it with LF or CRLF line endings")
    schema, num_bytes = form.header(data[mark:])
    _refuse_repeated(schema)
    return schema, mark + num_bytes


def _refuse_repeated(schema: pa.Schema) -> None:
    name = repeated(schema.names)
    if name is not None:
        raise pa.ArrowInvalid(f"column {name!r} appears twice")


def _read_text(
    file: ManifestFile, blocks: Sequence[Block], schema: pa.Schema, options: Options
) -> Iterator[pa.Table]:
    form = _text_format(file.format)
    parsed = schema if file.format == "jsonl" else file.schema
    with (
        open_unchanged(file.url, file.content, options) as stored,
        _decompressed(stored, file.compression) as stream,
    ):
        position = 0
        for block in blocks:
            if file.compression is None:
                stream.seek(block.start)
            else:
                _skip(stream, block.start - position)
            data = read_up_to(stream, block.num_bytes)
            position = block.start + block.num_bytes
            table = form.parse(data, parsed, _refuse)
            if table.num_rows != block.num_rows:
                raise changed_error(file.url)
            yield conformed(table, schema)


def _skip(stream: BinaryIO, num_bytes: int) -> None:
    """Read past `num_bytes`: a compressed stream cannot seek."""
    while num_bytes:
        num_bytes -= len(read_up_to(stream, min(num_bytes, 1 << 20))) or num_bytes


def _refuse(row: int, why: str) -> None:
    raise pa.ArrowInvalid(f"record {row}: {why}")


def _parsing(url: str, format_name: str) -> AbstractContextManager[None]:
    """Report malformed files as problems of the manifest, other failures as those of the store."""

    def error_for(error: Exception) -> ManifestError:
        return _file_error(url, _malformed(format_name, error))

    return parsing(url, MALFORMED, error_for)


def _malformed(format_name: str, error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError) and format_name == "parquet":
        return f"the name of a column is not UTF-8 text: {error.object!r}"
    if isinstance(error, UnicodeDecodeError):
        byte = error.object[error.start]
        return f"not UTF-8 text: byte 0x{byte:02x} ({error.reason}); save the file as UTF-8"
    kind = "Parquet" if format_name == "parquet" else format_name.upper()
    return f"cannot be read as {kind}: {one_line(error, None)}"


def _file_error(url: str, message: str) -> ManifestError:
    return ManifestError([Problem(url, None, None, message)])
