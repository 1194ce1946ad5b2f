"""The rows of a campaign as a file of their own, and how two manifests differ row by row."""

import json
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nightpress.pipelines.errors import ManifestError, Problem, StoreDenied
from nightpress.pipelines.formatting import size
from nightpress.pipelines.hashing import GOLDEN, Hashes, hash64, mix64
from nightpress.pipelines.manifest.file_records import ManifestFile, RowLocator, RowRange
from nightpress.pipelines.manifest.files import read_checked_rows
from nightpress.pipelines.manifest.rows import row_number_ids
from nightpress.pipelines.manifest.types import one_chunk, to_text
from nightpress.pipelines.records import DRAW_KEY
from nightpress.pipelines.storage import Options, Store, is_local
from nightpress.pipelines.storage.local import PARTIAL_FOLDER, link_new
from nightpress.pipelines.storage.urls import local_path

MAX_REMOTE_BYTES = 4 * 2**30
"""The largest file that is written to a URL; it is held in memory."""

OUTPUT_SUFFIXES = (".parquet", ".csv", ".jsonl")

MOST_SHOWN = 20
"""How many rows of each kind a comparison describes."""


@dataclass(frozen=True)
class ChangedRow:
    """A row whose content differs under the same id."""

    id: str
    columns: tuple[str, ...]
    """The columns that differ."""
    old: str
    new: str
    """The value of the first of them, as text, before and after."""


@dataclass(frozen=True)
class ManifestDifference:
    """How the rows of one manifest differ from those of an older one."""

    num_old: int
    num_new: int
    num_came: int
    num_went: int
    num_changed: int
    num_redrawn: int
    """Rows of which only what was drawn differs; a run that grows keeps what it has drawn."""
    came: tuple[str, ...] = field(repr=False)
    """Ids, at most `MOST_SHOWN`; so are the others."""
    went: tuple[str, ...] = field(repr=False)
    changed: tuple[ChangedRow, ...] = field(repr=False)
    redrawn: tuple[ChangedRow, ...] = field(repr=False)

    @property
    def num_stayed(self) -> int:
        """Rows that are the same in both."""
        return self.num_new - self.num_came - self.num_changed - self.num_redrawn


def write_rows(file: ManifestFile, output: str, options: Options) -> None:
    """Write all rows of a manifest into one file, whose suffix gives the format.

    Args:
        file: the manifest.
        output: a path or URL that ends in one of `OUTPUT_SUFFIXES`; nothing may be there.

    Raises:
        StoreDenied: something is there already.
        StoreError: it cannot be written.
    """
    with _created(output, options) as stream:
        write = _writer(output, stream, file.schema)
        with write as append:
            for table in _tables(file, options):
                append(table.cast(file.schema))


@contextmanager
def _created(output: str, options: Options) -> Iterator[Any]:
    """A new file, which is there only once it is whole."""
    folder, _, name = output.rpartition("/")
    store = Store(folder or ("/" if output.startswith("/") else "."), options)
    _require_free(store, name, output)
    with _partial(output) as partial:
        aside = Store(str(partial.parent))
        with aside.as_store_errors(partial.name), pa.OSFile(str(partial), "wb") as stream:
            yield stream
        with store.as_store_errors(name):
            if is_local(output):
                is_new = link_new(partial, local_path(output))
            else:
                is_new = store.create(name, _content(partial, output))
    if not is_new:
        raise StoreDenied(
            f"{output}: another process has written this file; remove it, or name another"
        )


def _require_free(store: Store, name: str, output: str) -> None:
    with store.as_store_errors(name):
        is_taken = store.size(name) is not None
        if is_taken or (is_local(output) and os.path.lexists(local_path(output))):
            what = "this file is" if is_taken else "a folder or a link is"
            raise StoreDenied(f"{output}: {what} there already; remove it, or name another")


def _content(partial: Path, output: str) -> bytes:
    """What a URL gets, in one request and from memory."""
    num_bytes = partial.stat().st_size
    if num_bytes > MAX_REMOTE_BYTES:
        raise StoreDenied(
            f"{output}: the file would have {size(num_bytes)}, and at a URL it has at most "
            f"{size(MAX_REMOTE_BYTES)}; write it into a local folder, as Parquet, which is "
            "smaller, or give the campaign itself to the run"
        )
    return partial.read_bytes()


@contextmanager
def _partial(output: str) -> Iterator[Path]:
    """Where a file is written until it is whole: on the disk of a local output, or a temporary one.

    What stays of the folder is removed, unless another process writes there as well.
    """
    if not is_local(output):
        with TemporaryDirectory(prefix="nightpress-") as folder:
            yield Path(folder, "partial")
        return
    whole = local_path(output)
    partial = whole.with_name(PARTIAL_FOLDER) / uuid.uuid4().hex
    with Store(str(whole.parent)).as_store_errors(whole.name):
        partial.parent.mkdir(exist_ok=True)
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)
        Store(str(whole.parent)).tidy()


@contextmanager
def _writer(output: str, stream: Any, schema: pa.Schema) -> Iterator[Callable[[pa.Table], None]]:
    """Appends tables in the format of the output's suffix."""
    match Path(output).suffix.lower():
        case ".parquet":
            with pq.ParquetWriter(stream, schema) as parquet:
                yield parquet.write_table
        case ".csv":
            with pyarrow.csv.CSVWriter(stream, _flat(schema)) as csv:
                yield lambda table: csv.write_table(_flattened(table))
        case _:
            yield lambda table: _write_json_lines(stream, table)


def _write_json_lines(stream: Any, table: pa.Table) -> None:
    lines = (json.dumps(row, ensure_ascii=False) for row in table.to_pylist())
    stream.write("".join(f"{line}\n" for line in lines).encode())


def _flat(schema: pa.Schema) -> pa.Schema:
    """The columns as CSV can hold them: lists as JSON."""
    return pa.schema(
        [pa.field(f.name, pa.string() if pa.types.is_nested(f.type) else f.type) for f in schema]
    )


def _flattened(table: pa.Table) -> pa.Table:
    columns = {
        name: to_text(table[name].to_pylist())
        if pa.types.is_nested(table.schema.field(name).type)
        else table[name]
        for name in table.column_names
    }
    return pa.table(columns)


def compare_rows(
    old: Sequence[ManifestFile], new: Sequence[ManifestFile], options: Options
) -> ManifestDifference:
    """Compare two manifests by id; rows without one have their number.

    Values are compared as text, so a manifest may have become another format. A column that a
    manifest lacks counts as empty.

    Raises:
        ManifestError: a file cannot be read, or an id is there twice.
    """
    before, after = _Contents.of(old, options), _Contents.of(new, options)
    places = before.find(after.ids)
    is_new = places < 0
    same, redrawn = np.zeros((2, len(after.ids)), np.bool_)
    same[~is_new] = after.contents[~is_new] == before.contents[places[~is_new]]
    redrawn[~is_new] = after.draw_keys[~is_new] == before.draw_keys[places[~is_new]]
    redrawn &= ~same & (after.draw_keys != 0)
    changed = ~is_new & ~same & ~redrawn
    is_left = np.zeros(len(before.ids), np.bool_)
    is_left[places[~is_new]] = True

    def changes(rows: NDArray[np.int64]) -> tuple[ChangedRow, ...]:
        return tuple(_change(before, after, int(places[r]), int(r)) for r in rows[:MOST_SHOWN])

    return ManifestDifference(
        num_old=len(before.ids),
        num_new=len(after.ids),
        num_came=int(is_new.sum()),
        num_went=int((~is_left).sum()),
        num_changed=int(changed.sum()),
        num_redrawn=int(redrawn.sum()),
        came=after.names(np.flatnonzero(is_new)),
        went=before.names(np.flatnonzero(~is_left)),
        changed=changes(np.flatnonzero(changed)),
        redrawn=changes(np.flatnonzero(redrawn)),
    )


@dataclass(frozen=True)
class _Contents:
    """What a comparison keeps of every row of a manifest."""

    locator: RowLocator
    options: Options
    ids: pa.StringArray
    contents: Hashes
    """(n,) of all columns but the id and the draw key."""
    draw_keys: Hashes
    """(n,) 0 where a row has none."""

    @classmethod
    def of(cls, files: Sequence[ManifestFile], options: Options) -> "_Contents":
        """Read all rows once."""
        ids, contents, keys, number = [], [], [], 0
        for file in files:
            for table in _tables(file, options):
                ids.append(_ids(table, number))
                contents.append(_content_hashes(table))
                keys.append(_draw_keys(table))
                number += table.num_rows
        found = cls(
            RowLocator(files),
            options,
            pa.concat_arrays(ids) if ids else pa.array([], pa.string()),
            np.concatenate([np.zeros(0, np.uint64), *contents]),
            np.concatenate([np.zeros(0, np.uint64), *keys]),
        )
        found._refuse_repeats(files)
        return found

    def find(self, ids: pa.StringArray) -> NDArray[np.int64]:
        """The row of each id; -1 where there is none. (n,)."""
        return np.array(pc.fill_null(pc.index_in(ids, self.ids), -1)).astype(np.int64)

    def names(self, rows: NDArray[np.int64]) -> tuple[str, ...]:
        """The first ids of some rows."""
        return tuple(self.ids.take(pa.array(rows[:MOST_SHOWN])).to_pylist())

    def row(self, number: int) -> dict[str, str | None]:
        """The values of one row as text."""
        (place,) = self.locator.row_ranges(number, 1)
        (table,) = read_checked_rows(place, place.file.schema.names, self.options)
        return {name: _as_text(table[name])[0].as_py() for name in _compared(table)}

    def _refuse_repeats(self, files: Sequence[ManifestFile]) -> None:
        counts = pc.value_counts(self.ids)
        twice = pc.struct_field(counts, "values").filter(
            pc.greater(pc.struct_field(counts, "counts"), 1)
        )
        if len(twice):
            message = f"the id {twice[0].as_py()!r} is there twice"
            raise ManifestError([Problem(files[0].url, None, "id", message)])


def _tables(file: ManifestFile, options: Options) -> Iterator[pa.Table]:
    if file.num_rows:
        yield from read_checked_rows(RowRange(file, 0, file.num_rows), file.schema.names, options)


def _compared(table: pa.Table) -> list[str]:
    return [name for name in table.column_names if name not in ("id", DRAW_KEY)]


def _ids(table: pa.Table, first_row: int) -> pa.StringArray:
    if "id" in table.column_names:
        return _as_text(table["id"])
    return row_number_ids(first_row, table.num_rows)


def _content_hashes(table: pa.Table) -> Hashes:
    """A hash of each row that does not depend on the order of the columns; (n,)."""
    total = np.zeros(table.num_rows, np.uint64)
    for name in _compared(table):
        texts = _as_text(table[name])
        own = mix64(hash64(pc.fill_null(texts, ""), 0) * GOLDEN + hash64(pa.array([name]), 0))
        total += np.where(np.array(pc.is_valid(texts)), own, np.uint64(0))
    return total


def _draw_keys(table: pa.Table) -> Hashes:
    if DRAW_KEY not in table.column_names:
        return np.zeros(table.num_rows, np.uint64)
    return hash64(pc.fill_null(_as_text(table[DRAW_KEY]), ""), 0)


def _as_text(column: pa.ChunkedArray) -> pa.StringArray:
    """A column as text: whole numbers without a point, whatever the format of the file."""
    if pa.types.is_string(column.type):
        return one_chunk(column)
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        return one_chunk(pc.cast(column, pa.string()))
    return to_text(column.to_pylist())


def _change(before: _Contents, after: _Contents, old: int, new: int) -> ChangedRow:
    was, now = before.row(old), after.row(new)
    names = [name for name in was | now if was.get(name) != now.get(name)]
    return ChangedRow(
        after.ids[new].as_py(), tuple(names), was.get(names[0]) or "", now.get(names[0]) or ""
    )
