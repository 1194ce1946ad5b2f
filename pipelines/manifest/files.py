"""Manifest files: which format they have, what lies in them, and how to read any rows again.

Owns everything between a URL and an Arrow table of the file's own columns. Knows nothing of what
the columns mean. Memory stays bounded: a file is read piece by piece.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import PurePosixPath
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from nightpress.pipelines.errors import ManifestError, Problem, StoreError
from nightpress.pipelines.manifest.delimited import Delimited
from nightpress.pipelines.manifest.findings import MAX_SHOWN
from nightpress.pipelines.manifest.jsonl import JsonLines
from nightpress.pipelines.manifest.text import (
    BYTE_ORDER_MARK,
    PlainLines,
    TextFormat,
    blocks,
    read_up_to,
)
from nightpress.pipelines.manifest.types import as_type, common_type, plain_type
from nightpress.pipelines.storage import Source, open_source

Options = Mapping[str, Mapping[str, Any]]

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
"""Of text formats; Parquet compresses inside."""

HASH_BYTES = 1 << 20

BATCH_ROWS, BATCH_BYTES = 32_768, 16 << 20
"""What is in memory at once while a Parquet file streams."""

BROKEN_BYTES = (pa.ArrowInvalid, pa.ArrowNotImplementedError, UnicodeDecodeError, EOFError)
"""What readers raise about a file's bytes: no such format, a kind they do not know, no such text,
an end too early. Anything else is no fault of the manifest, and is not made one."""

BUFFER_BYTES = 1 << 20
"""Of each column that streams; without it a column of a whole row group is read at once."""


@dataclass(frozen=True)
class Piece:
    """Consecutive rows that can be read by themselves."""

    start: int
    """A row group's number in Parquet, the first byte in a text file (decompressed)."""
    num_bytes: int
    num_rows: int


@dataclass(frozen=True)
class ManifestFile:
    """One file as it was surveyed."""

    url: str
    version: str
    num_bytes: int
    sha256: str
    format: str
    compression: str | None
    schema: pa.Schema
    pieces: tuple[Piece, ...]

    @cached_property
    def num_rows(self) -> int:
        """Rows of the file."""
        return sum(piece.num_rows for piece in self.pieces)


@dataclass(frozen=True)
class Slice:
    """Some consecutive rows of one file."""

    file: ManifestFile
    first_row: int
    num_rows: int


def format_of(url: str) -> tuple[str, str | None] | None:
    """Format and compression by the suffix of the name; None for one that is no manifest."""
    path = PurePosixPath(url.partition("?")[0].lower())
    compression = COMPRESSIONS.get(path.suffix)
    if compression is not None:
        path = path.with_suffix("")
    known = SUFFIXES.get(path.suffix)
    if known is None or (known == "parquet" and compression is not None):
        return None
    return known, compression


def survey(source: Source, options: Options) -> ManifestFile:
    """Read a file once: its columns, where its rows lie, and its sha256.

    Raises:
        ManifestError: it cannot be read, or records of it cannot.
        StoreError: the store fails.
    """
    kind = format_of(source.url)
    if kind is None:
        raise ValueError(f"{source.url} is not a manifest")
    with _understood(source.url, kind[0]):
        if kind[0] == "parquet":
            schema, pieces = _survey_parquet(source.url, options)
        else:
            schema, pieces = _survey_text(source.url, *kind, options)
    return ManifestFile(
        source.url,
        source.version,
        source.num_bytes,
        sha256_of(source.url, options),
        *kind,
        schema,
        tuple(pieces),
    )


def sha256_of(url: str, options: Options) -> str:
    """Of the file as it lies there; hexadecimal."""
    digest = hashlib.sha256()
    with open_source(url, options) as stream:
        while data := stream.read(HASH_BYTES):
            digest.update(data)
    return digest.hexdigest()


def read(part: Slice, columns: Sequence[str], options: Options) -> Iterator[pa.Table]:
    """The rows of a slice as a few tables, with those of `columns` that the file has.

    Raises:
        ManifestError: the file cannot be read, or is not what was surveyed.
    """
    file = part.file
    schema = pa.schema([field for field in file.schema if field.name in set(columns)])
    pieces, skip = _covering(part)
    reader = _read_parquet if file.format == "parquet" else _read_text
    left = part.num_rows
    with _understood(file.url, file.format):
        for table in reader(file, pieces, schema, options):
            rows = table.slice(skip, left)
            skip = max(0, skip - table.num_rows)
            left -= rows.num_rows
            if rows.num_rows:
                yield rows
            if not left:
                return
        raise pa.ArrowInvalid("changed since it was checked")


def _covering(part: Slice) -> tuple[list[Piece], int]:
    """The pieces that hold the slice's rows, and how many rows of them come before it."""
    pieces: list[Piece] = []
    start = skip = 0
    for piece in part.file.pieces:
        end = start + piece.num_rows
        if start < part.first_row + part.num_rows and end > part.first_row:
            skip = skip if pieces else part.first_row - start
            pieces.append(piece)
        start = end
    return pieces, skip


def _survey_parquet(url: str, options: Options) -> tuple[pa.Schema, list[Piece]]:
    with open_source(url, options) as stream, pq.ParquetFile(stream) as parquet:
        _refuse_repeated(parquet.schema_arrow)
        fields = [pa.field(f.name, plain_type(f.type)) for f in parquet.schema_arrow]
        groups = [parquet.metadata.row_group(i) for i in range(parquet.num_row_groups)]
        pieces = [Piece(i, g.total_byte_size, g.num_rows) for i, g in enumerate(groups)]
    return pa.schema(fields), pieces


def _read_parquet(
    file: ManifestFile, pieces: Sequence[Piece], schema: pa.Schema, options: Options
) -> Iterator[pa.Table]:
    groups = [piece.start for piece in pieces]
    row_bytes = sum(p.num_bytes for p in pieces) / sum(p.num_rows for p in pieces)
    num_rows = max(1, min(BATCH_ROWS, int(BATCH_BYTES / max(row_bytes, 1))))
    with (
        open_source(file.url, options) as stream,
        pq.ParquetFile(stream, buffer_size=BUFFER_BYTES, pre_buffer=False) as parquet,
    ):
        for batch in parquet.iter_batches(
            num_rows, groups, columns=schema.names, use_threads=False
        ):
            yield _conformed(pa.Table.from_batches([batch]), schema)


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


@contextmanager
def _open_text(url: str, compression: str | None, options: Options) -> Iterator[BinaryIO]:
    with open_source(url, options) as raw:
        if compression is None:
            yield raw
        else:
            with pa.input_stream(raw, compression=compression) as stream:
                yield stream


def _survey_text(
    url: str, format_name: str, compression: str | None, options: Options
) -> tuple[pa.Schema, list[Piece]]:
    """Parse the whole file once; only counts and types are kept."""
    form = _text_format(format_name)
    header, start = _header(url, form, compression, options)
    types: dict[str, pa.DataType] = {field.name: field.type for field in header}
    pieces: list[Piece] = []
    problems: list[Problem] = []
    num_rows = num_problems = 0
    with _open_text(url, compression, options) as stream:
        read_up_to(stream, start)
        for place, data in blocks(stream, form, start):
            data.decode()
            bad: dict[int, str] = {}
            table = form.parse(data, header, bad.__setitem__)
            for field in table.schema:
                before = types.get(field.name, pa.null())
                types[field.name] = common_type([before, plain_type(field.type)])
            shown = islice(bad.items(), MAX_SHOWN - len(problems))
            problems += [Problem(url, num_rows + row, None, why) for row, why in shown]
            num_problems += len(bad)
            pieces.append(Piece(place, len(data), table.num_rows + len(bad)))
            num_rows += table.num_rows + len(bad)
    if problems:
        raise ManifestError(problems, num_problems)
    return pa.schema(list(types.items())), pieces


def _header(
    url: str, form: TextFormat, compression: str | None, options: Options
) -> tuple[pa.Schema, int]:
    """The columns, where the format names them in front, and the first record's place."""
    with _open_text(url, compression, options) as stream:
        data = read_up_to(stream, 1 << 20)
    mark = len(BYTE_ORDER_MARK) if data.startswith(BYTE_ORDER_MARK) else 0
    if form.has_header and not data[mark:].strip():
        raise pa.ArrowInvalid("it is empty; the first line names the columns")
    if form.has_header and b"\r" in data and b"\n" not in data:
        raise pa.ArrowInvalid("its lines end in CR alone; save it with LF or CRLF")
    schema, num_bytes = form.header(data[mark:])
    _refuse_repeated(schema)
    return schema, mark + num_bytes


def _refuse_repeated(schema: pa.Schema) -> None:
    repeated = [name for name, count in Counter(schema.names).items() if count > 1]
    if repeated:
        raise pa.ArrowInvalid(f"column {repeated[0]!r} is there twice")


def _read_text(
    file: ManifestFile, pieces: Sequence[Piece], schema: pa.Schema, options: Options
) -> Iterator[pa.Table]:
    form = _text_format(file.format)
    parsed = schema if file.format == "jsonl" else file.schema
    with _open_text(file.url, file.compression, options) as stream:
        place = 0
        for piece in pieces:
            if file.compression is None:
                stream.seek(piece.start)
            else:
                _skip(stream, piece.start - place)
            data = read_up_to(stream, piece.num_bytes)
            place = piece.start + piece.num_bytes
            table = form.parse(data, parsed, _refuse)
            if table.num_rows != piece.num_rows:
                raise pa.ArrowInvalid("changed since it was checked")
            yield _conformed(table, schema)


def _skip(stream: BinaryIO, num_bytes: int) -> None:
    """Compressed text cannot be entered in the middle."""
    while num_bytes:
        num_bytes -= len(read_up_to(stream, min(num_bytes, 1 << 20))) or num_bytes


def _refuse(row: int, why: str) -> None:
    raise pa.ArrowInvalid(f"record {row}: {why}")


def _conformed(table: pa.Table, schema: pa.Schema) -> pa.Table:
    columns = [as_type(table[field.name], field.type) for field in schema]
    if not columns:
        return table.select([])
    return pa.table(columns, schema=schema)


@contextmanager
def _understood(url: str, format_name: str) -> Iterator[None]:
    """What a file's bytes do wrong is the manifest's fault; the rest is the store's."""
    try:
        yield
    except BROKEN_BYTES as error:
        message = _unreadable(format_name, error)
        raise ManifestError([Problem(url, None, None, message)]) from error
    except OSError as error:
        if type(error) is not OSError or error.errno is not None:
            raise StoreError(f"{url}: {error.strerror or error}") from error
        # Arrow's own, without a number: broken Parquet or a broken compressed stream
        message = _unreadable(format_name, error)
        raise ManifestError([Problem(url, None, None, message)]) from error


def _unreadable(format_name: str, error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        byte = error.object[error.start]
        return f"not UTF-8 text: byte 0x{byte:02x} ({error.reason}); save it as UTF-8"
    kind = "Parquet" if format_name == "parquet" else format_name.upper()
    return f"cannot be read as {kind}: {' '.join(str(error).split())}"
