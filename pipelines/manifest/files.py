"""Manifest files: detect their format, scan them once, and read any range of rows again.

Turns a URL into Arrow tables of the file's own columns. A file is read block by block, so memory
stays bounded. What reads campaigns is imported for the first of them, as most manifests are none.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc

from nightpress.diffusion_core.errors import one_line
from nightpress.pipelines.errors import ManifestError, Problem
from nightpress.pipelines.manifest.file_records import Block, ManifestFile, RowRange
from nightpress.pipelines.manifest.formats import CAMPAIGN, format_of, is_campaign
from nightpress.pipelines.manifest.parquet import conformed, read_parquet, scan_parquet
from nightpress.pipelines.manifest.partitions import (
    refuse_other_values,
    with_partition,
)
from nightpress.pipelines.manifest.same_bytes import (
    Content,
    changed_error,
    open_unchanged,
)
from nightpress.pipelines.manifest.text import read_up_to
from nightpress.pipelines.manifest.text_scan import (
    FileScan,
    OpenText,
    line_numbers_of_rows,
    scan_text,
    skip,
    text_format,
)
from nightpress.pipelines.manifest.types import first_bad_text, to_text, what_is_not_utf8
from nightpress.pipelines.storage import Options, Source, find, parsing

if TYPE_CHECKING:
    from nightpress.pipelines.manifest.campaigns import LoadedCampaign, LoadedTable

MALFORMED = (pa.ArrowException, UnicodeDecodeError, EOFError)
"""What parsers raise about a file's bytes: malformed, an unsupported kind, not UTF-8, truncated."""


MAX_TABLE_ROWS = 5_000_000
"""The most rows of a table that is the axis of a campaign."""


def scan(source: Source, options: Options) -> ManifestFile:
    """Read a file once to find its columns, the positions of its rows, and its SHA-256.

    Raises:
        ManifestError: the file or some of its records cannot be read.
        StoreError: the store fails.
    """
    kind = format_of(source.url)
    if kind is None:
        raise ValueError(f"{source.url} is not a manifest")
    if kind[0] == CAMPAIGN:
        from nightpress.pipelines.manifest.campaigns import load_campaign

        return campaign_file(source, options, load_campaign(source.url, options, load_table))
    with _parsing(source.url, kind[0]):
        content = Content.of(source.url, options)
        if kind[0] == "parquet":
            found = _scan_parquet(source.url, content, options)
        else:
            open_text = _opener(source.url, content, kind[1], options)
            found = scan_text(source.url, kind[0], open_text)
    given = [pa.field(name, pa.string()) for name, _ in source.partition]
    given = [field for field in given if field.name not in found.schema.names]
    return ManifestFile(
        source.url,
        source.version,
        content.num_bytes,
        content.sha256,
        *kind,
        pa.schema([*found.schema, *given]),
        found.blocks,
        content.checksums,
        source.partition,
        len(found.schema) if given else None,
        found.quotes_are_text,
    )


def sha256_of(url: str, options: Options) -> str:
    """The SHA-256 of the stored file, in hexadecimal; a campaign's covers all that it reads."""
    if is_campaign(url):
        from nightpress.pipelines.manifest.campaigns import load_campaign

        return load_campaign(url, options, load_table).sha256
    return Content.of(url, options).sha256


def read_rows(rows: RowRange, columns: Sequence[str], options: Options) -> Iterator[pa.Table]:
    """Read a range of rows as a few tables, with those of `columns` that the file has.

    Raises:
        ManifestError: the file cannot be read, or it has changed since it was scanned.
    """
    file = rows.file
    schema = pa.schema([field for field in file.stored_schema if field.name in set(columns)])
    if file.format == CAMPAIGN:
        from nightpress.pipelines.manifest.campaigns import campaign_rows, read_campaign

        made = campaign_rows(file.url, file.sha256, options, load_table)
        for table in read_campaign(made, rows.first_row, rows.num_rows):
            yield with_partition(conformed(table, schema), file.partition, columns)
        return
    blocks, skip = _covering_blocks(rows)
    read = _read_parquet if file.format == "parquet" else _read_text
    row, end = rows.first_row, rows.first_row + rows.num_rows
    with _parsing(file.url, file.format):
        for table in read(file, blocks, schema, options):
            wanted = table.slice(skip, end - row)
            skip = max(0, skip - table.num_rows)
            if wanted.num_rows:
                yield with_partition(wanted, file.partition, columns)
            row += wanted.num_rows
            if row == end:
                return
        if file.format == "parquet":
            raise pa.ArrowInvalid("its columns hold fewer rows than its footer says")
        raise changed_error(file.url)


def read_checked_rows(
    rows: RowRange, columns: Sequence[str], options: Options
) -> Iterator[pa.Table]:
    """Read rows for the first time: as `read_rows`, after a look at the values.

    All text must be UTF-8. In a text file scanning has made sure of that already, while Arrow reads
    any bytes of a Parquet file as text. A column must not differ from what the folders say.
    """
    row = rows.first_row
    for table in read_rows(rows, columns, options):
        for name in table.schema.names if rows.file.format == "parquet" else ():
            bad = first_bad_text(table[name])
            if bad is not None:
                message = f"{what_is_not_utf8(table[name], bad)}; write UTF-8, or a binary column"
                raise ManifestError([Problem(rows.file.url, row + bad, name, message)])
        refuse_other_values(rows.file.url, row, table, rows.file.partition)
        row += table.num_rows
        yield table


def lines_of_rows(file: ManifestFile, rows: Iterable[int], options: Options) -> dict[int, int]:
    """The line that each of these rows of a text file begins on; empty for Parquet and campaigns.

    Raises:
        ManifestError: the file cannot be read, or it has changed since it was scanned.
    """
    if file.format in ("parquet", CAMPAIGN):
        return {}
    form = text_format(file.format, file.quotes_are_text)
    open_text = _opener(file.url, file.content, file.compression, options)
    with _parsing(file.url, file.format):
        return line_numbers_of_rows(open_text, form, file.blocks, rows)


def campaign_file(source: Source, options: Options, loaded: "LoadedCampaign") -> ManifestFile:
    """A loaded campaign as a manifest.

    Raises:
        ManifestError: the rows repeat each other, or too few are left.
    """
    from nightpress.pipelines.manifest.campaigns import scan_campaign

    found, notes = scan_campaign(source.url, options, loaded)
    return ManifestFile(
        source.url,
        source.version,
        loaded.num_bytes,
        loaded.sha256,
        CAMPAIGN,
        None,
        found.schema,
        found.blocks,
        notes=notes,
    )


def load_table(url: str, options: Options) -> "LoadedTable":
    """Read a table that a campaign makes an axis from: its values, and the same values as text.

    Raises:
        ManifestError: the file cannot be read, or is no table.
        StoreError: the store fails.
    """
    from nightpress.pipelines.campaign.axes import AxisTable
    from nightpress.pipelines.manifest.campaigns import LoadedTable

    found = find([url], options)
    if len(found) != 1:
        message = f"an axis is one table, but these are {len(found)} files; name one of them"
        raise _file_error(url, message)
    source = found[0]
    kind = format_of(source.url)
    if kind is None or kind[0] in ("text", CAMPAIGN):
        message = "an axis needs a table: a CSV, TSV, JSON Lines or Parquet file"
        raise _file_error(source.url, message)
    file = scan(source, options)
    if file.num_rows > MAX_TABLE_ROWS:
        message = f"{file.num_rows:,} rows are more than the {MAX_TABLE_ROWS:,} of one axis"
        raise _file_error(source.url, message)
    values = _whole(file, options)
    lines = lines_of_rows(file, range(file.num_rows), options)
    return LoadedTable(AxisTable(source.url, values, _as_texts(values), lines), file.sha256)


def _whole(file: ManifestFile, options: Options) -> pa.Table:
    if not file.num_rows:
        return file.schema.empty_table()
    return pa.concat_tables(
        read_checked_rows(RowRange(file, 0, file.num_rows), file.schema.names, options)
    )


def _as_texts(table: pa.Table) -> pa.Table:
    """Every column as text; an empty text is missing, as it is in a table without types."""
    columns = {}
    for name in table.column_names:
        column = table[name]
        texts = column if pa.types.is_string(column.type) else to_text(column.to_pylist())
        columns[name] = pc.if_else(pc.equal(pc.binary_length(texts), 0), None, texts)
    return pa.table(columns)


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


def _scan_parquet(url: str, content: Content, options: Options) -> FileScan:
    with open_unchanged(url, content, options) as stream:
        schema, groups = scan_parquet(stream)
    blocks = [Block(i, each.num_bytes, each.num_rows) for i, each in enumerate(groups)]
    return FileScan(schema, tuple(blocks))


def _read_parquet(
    file: ManifestFile, blocks: Sequence[Block], schema: pa.Schema, options: Options
) -> Iterator[pa.Table]:
    num_bytes, num_rows = sum(b.num_bytes for b in blocks), sum(b.num_rows for b in blocks)
    with open_unchanged(file.url, file.content, options) as stream:
        groups = [block.start for block in blocks]
        yield from read_parquet(stream, groups, num_bytes / num_rows, schema)


@contextmanager
def _open_text(
    url: str, content: Content, compression: str | None, options: Options
) -> Iterator[BinaryIO]:
    with open_unchanged(url, content, options) as stored:
        if compression is None:
            yield stored
        else:
            with pa.input_stream(stored, compression=compression) as stream:
                yield stream


def _opener(url: str, content: Content, compression: str | None, options: Options) -> OpenText:
    return lambda: _open_text(url, content, compression, options)


def _read_text(
    file: ManifestFile, blocks: Sequence[Block], schema: pa.Schema, options: Options
) -> Iterator[pa.Table]:
    form = text_format(file.format, file.quotes_are_text)
    parsed = schema if file.format == "jsonl" else file.stored_schema
    with _open_text(file.url, file.content, file.compression, options) as stream:
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
                raise changed_error(file.url)
            yield conformed(table, schema)


def _parsing(url: str, format_name: str) -> AbstractContextManager[None]:
    """Report malformed files as problems of the manifest, other failures as those of the store."""

    def error_for(error: Exception) -> ManifestError:
        return _file_error(url, _malformed(format_name, error))

    return parsing(url, MALFORMED, error_for)


def _malformed(format_name: str, error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError) and format_name == "parquet":
        return f"the name of a column is not UTF-8 text: {error.object!r}"
    kind = "Parquet" if format_name == "parquet" else format_name.upper()
    return f"cannot be read as {kind}: {one_line(error, None)}"


def _file_error(url: str, message: str) -> ManifestError:
    return ManifestError([Problem(url, None, None, message)])
