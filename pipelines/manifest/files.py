"""Manifest files: detect their format, scan them once, and read any range of rows again.

Turns a URL into Arrow tables of the file's own columns. A file is read block by block, so memory
stays bounded.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from nightpress.diffusion_core.errors import one_line
from nightpress.pipelines.errors import ManifestError, Problem
from nightpress.pipelines.manifest.text import read_up_to
from nightpress.pipelines.manifest.text_scan import (
    Block,
    FileScan,
    OpenText,
    line_numbers_of_rows,
    scan_text,
    skip,
    text_format,
)
from nightpress.pipelines.manifest.types import as_type, plain_type
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

HASH_BYTES = 1 << 20

BATCH_ROWS, BATCH_BYTES = 32_768, 16 << 20
"""How much of a Parquet file is in memory at once."""

MALFORMED = (pa.ArrowInvalid, pa.ArrowNotImplementedError, UnicodeDecodeError, EOFError)
"""What parsers raise about a file's bytes: malformed, an unsupported kind, not UTF-8, truncated."""

BUFFER_BYTES = 1 << 20
"""The read buffer of each Parquet column; without one, a whole row group of it is read at once."""


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
    quotes_are_text: bool = False
    """Whether this is TSV without quoting; see `delimited`."""

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
            found = _scan_parquet(source.url, options)
        else:
            found = scan_text(source.url, kind[0], _opener(source.url, kind[1], options))
    return ManifestFile(
        source.url,
        source.version,
        source.num_bytes,
        sha256_of(source.url, options),
        *kind,
        found.schema,
        found.blocks,
        found.quotes_are_text,
    )


def sha256_of(url: str, options: Options) -> str:
    """The SHA-256 of the stored file, in hexadecimal."""
    digest = hashlib.sha256()
    with open_source(url, options) as stream:
        while data := stream.read(HASH_BYTES):
            digest.update(data)
    return digest.hexdigest()


def read_rows(rows: RowRange, columns: Sequence[str], options: Options) -> Iterator[pa.Table]:
    """Read a range of rows as a few tables, with those of `columns` that the file has.

    Raises:
        ManifestError: the file cannot be read, or it has changed since it was scanned.
    """
    file = rows.file
    schema = pa.schema([field for field in file.schema if field.name in set(columns)])
    blocks, skip = _covering_blocks(rows)
    read = _read_parquet if file.format == "parquet" else _read_text
    remaining = rows.num_rows
    with _parsing(file.url, file.format):
        for table in read(file, blocks, schema, options):
            wanted = table.slice(skip, remaining)
            skip = max(0, skip - table.num_rows)
            remaining -= wanted.num_rows
            if wanted.num_rows:
                yield wanted
            if not remaining:
                return
        raise _changed(file)


def lines_of_rows(file: ManifestFile, rows: Iterable[int], options: Options) -> dict[int, int]:
    """The line that each of these rows of a text file begins on; empty for Parquet.

    Raises:
        ManifestError: the file cannot be read.
    """
    if file.format == "parquet":
        return {}
    form = text_format(file.format, file.quotes_are_text)
    opener = _opener(file.url, file.compression, options)
    with _parsing(file.url, file.format):
        return line_numbers_of_rows(opener, form, file.blocks, rows)


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


def _scan_parquet(url: str, options: Options) -> FileScan:
    with open_source(url, options) as stream, pq.ParquetFile(stream) as parquet:
        _refuse_repeated(parquet.schema_arrow)
        fields = [pa.field(f.name, plain_type(f.type)) for f in parquet.schema_arrow]
        groups = [parquet.metadata.row_group(i) for i in range(parquet.num_row_groups)]
        blocks = [Block(i, g.total_byte_size, g.num_rows) for i, g in enumerate(groups)]
    return FileScan(pa.schema(fields), tuple(blocks))


def _read_parquet(
    file: ManifestFile, blocks: Sequence[Block], schema: pa.Schema, options: Options
) -> Iterator[pa.Table]:
    groups = [block.start for block in blocks]
    row_bytes = sum(block.num_bytes for block in blocks) / sum(block.num_rows for block in blocks)
    num_rows = max(1, min(BATCH_ROWS, int(BATCH_BYTES / max(row_bytes, 1))))
    with (
        open_source(file.url, options) as stream,
        pq.ParquetFile(stream, buffer_size=BUFFER_BYTES, pre_buffer=False) as parquet,
    ):
        for batch in parquet.iter_batches(
            num_rows, groups, columns=schema.names, use_threads=False
        ):
            yield _conformed(pa.Table.from_batches([batch]), schema)


@contextmanager
def _open_text(url: str, compression: str | None, options: Options) -> Iterator[BinaryIO]:
    with open_source(url, options) as raw:
        if compression is None:
            yield raw
        else:
            with pa.input_stream(raw, compression=compression) as stream:
                yield stream


def _opener(url: str, compression: str | None, options: Options) -> OpenText:
    return lambda: _open_text(url, compression, options)


def _refuse_repeated(schema: pa.Schema) -> None:
    repeated = [name for name, count in Counter(schema.names).items() if count > 1]
    if repeated:
        raise pa.ArrowInvalid(f"column {repeated[0]!r} appears twice")


def _read_text(
    file: ManifestFile, blocks: Sequence[Block], schema: pa.Schema, options: Options
) -> Iterator[pa.Table]:
    form = text_format(file.format, file.quotes_are_text)
    parsed = schema if file.format == "jsonl" else file.schema
    with _open_text(file.url, file.compression, options) as stream:
        position = 0
        for block in blocks:
            if file.compression is None:
                stream.seek(block.start)
            else:
                skip(stream, block.start - position)
            data = read_up_to(stream, block.num_bytes)
            position = block.start + block.num_bytes
            table = form.parse(data, parsed)
            if table.num_rows != block.num_rows:
                raise _changed(file)
            yield _conformed(table, schema)


def _conformed(table: pa.Table, schema: pa.Schema) -> pa.Table:
    columns = [as_type(table[field.name], field.type) for field in schema]
    if not columns:
        return table.select([])
    return pa.table(columns, schema=schema)


def _parsing(url: str, format_name: str) -> AbstractContextManager[None]:
    """Report malformed files as problems of the manifest, other failures as those of the store."""

    def error_for(error: Exception) -> ManifestError:
        return _file_error(url, _malformed(format_name, error))

    return parsing(url, MALFORMED, error_for)


def _malformed(format_name: str, error: Exception) -> str:
    kind = "Parquet" if format_name == "parquet" else format_name.upper()
    return f"cannot be read as {kind}: {one_line(error, None)}"


def _changed(file: ManifestFile) -> ManifestError:
    return _file_error(file.url, "the file has changed since it was checked")


def _file_error(url: str, message: str) -> ManifestError:
    return ManifestError([Problem(url, None, None, message)])
