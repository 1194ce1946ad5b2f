"""The rows that an edition adds to a run: taken out of the grown manifest, checked and laid out.

They become Parquet files of their own, so that an edition is planned from its own rows only, and a
part of its plan can be written again whatever becomes of the manifest.
"""

import hashlib
import io
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nightpress.pipelines.errors import ManifestError, Problem
from nightpress.pipelines.hashing import Hashes, hash64
from nightpress.pipelines.image_files.portability import folded
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.manifest.columns import (
    FIRST_VARIANT,
    OF_EDITIONS,
    Columns,
    resolve_columns,
)
from nightpress.pipelines.manifest.file_records import ManifestFile, RowRange
from nightpress.pipelines.manifest.files import read_rows, scan
from nightpress.pipelines.manifest.job_models import ModelInfos
from nightpress.pipelines.manifest.null_lists import cast_with
from nightpress.pipelines.manifest.numbers import Ints
from nightpress.pipelines.manifest.types import ValueLost, as_type
from nightpress.pipelines.planning.checking import check, check_files, cut_into_shards
from nightpress.pipelines.planning.duplicates import find_repeats
from nightpress.pipelines.planning.growth import AddedRows, Growth
from nightpress.pipelines.planning.growth_comparison import carried_types
from nightpress.pipelines.planning.image_hashes import among
from nightpress.pipelines.planning.images import Images, expand_rows
from nightpress.pipelines.planning.layout import PlanLayout
from nightpress.pipelines.planning.planner import Planner
from nightpress.pipelines.planning.units import WorkUnit, read_batches
from nightpress.pipelines.storage import Store, find

ROWS_OF_A_GROUP = 65_536


@dataclass(frozen=True)
class RowsFile:
    """Rows of an edition as the Parquet file that its run keeps."""

    data: bytes
    num_rows: int

    @property
    def stem(self) -> str:
        """The end of its name, which holds its SHA-256: equal rows have equal names."""
        return f"{hashlib.sha256(self.data).hexdigest()[:16]}.parquet"


@dataclass(frozen=True)
class CheckedRows:
    """The added rows and the layout of their plan, with numbers from 0."""

    files: tuple[RowsFile, ...]
    layout: PlanLayout
    """Its files are temporary ones that are gone; see `kept`."""

    def kept(self, store: Store, folder: str) -> PlanLayout:
        """Write the rows into the run directory; the layout then reads them from there.

        Args:
            store: the run directory.
            folder: where in it, with the beginning of their names: `editions/0001-rows-`.
        """
        kept = []
        for rows, file in zip(self.files, self.layout.files, strict=True):
            path = f"{folder}{rows.stem}"
            store.create(path, rows.data)
            (source,) = find([f"{store.url}/{path}"], store.options)
            kept.append(replace(file, url=source.url, version=source.version))
        return replace(self.layout, files=tuple(kept))


def check_added_rows(
    spec: RunSpec,
    info: ModelInfos,
    layout: PlanLayout,
    growth: Growth,
    added: AddedRows,
) -> CheckedRows:
    """Check the rows that an edition adds, and lay out their plan; nothing is written to the run.

    Args:
        spec: the job, with the manifest as it is now.
        info: the model.
        layout: the run's plan, that of all editions.
        growth: how the manifest has grown.
        added: which of its rows to add; at least one.

    Raises:
        ManifestError: a row cannot be used, or would get the name of another image.
        StoreError: the manifest cannot be read.
    """
    files = tuple(rows_files(_rows_of_units(spec, layout, growth, added)))
    with tempfile.TemporaryDirectory(prefix="nightpress-") as folder:
        scanned = [
            scanned_rows(file, Path(folder, f"rows-{n}.parquet")) for n, file in enumerate(files)
        ]
        try:
            checked = check_files(spec, info, scanned, layout.batch_size)
        except ManifestError as error:
            check(spec, info)  # names the manifest's own file and row, if it is wrong by itself
            raise _named(error) from error
        if growth.may_share_names:
            where = growth.files[0].url
            refuse_taken_names(spec, info, layout, growth.names, where, checked)
    return CheckedRows(files, cut_into_shards(spec, checked, layout.batch_size, layout.batch_sizes))


def scanned_rows(rows: RowsFile, path: Path) -> ManifestFile:
    """Rows as a file of a manifest, which is written to a local path."""
    path.write_bytes(rows.data)
    (source,) = find([str(path)], {})
    return scan(source, {})


def _named(error: ManifestError) -> ManifestError:
    """Problems of the rows files, told as those of the rows that came."""
    problems = [replace(each, file="the rows that came") for each in error.problems]
    return ManifestError(problems, error.total)


def _rows_of_units(
    spec: RunSpec, layout: PlanLayout, growth: Growth, added: AddedRows
) -> Iterator[pa.Table]:
    types = carried_types(spec, layout)
    for unit in growth.units:
        yield from _rows_of_unit(unit, added, types)


def rows_files(tables: Iterable[pa.Table]) -> Iterator[RowsFile]:
    """The rows that an edition adds, those with the same columns in one file."""
    by_schema: dict[pa.Schema, list[pa.Table]] = {}
    for table in tables:
        by_schema.setdefault(table.schema, []).append(table)
    for tables in by_schema.values():
        table = pa.concat_tables(tables)
        sink = io.BytesIO()
        pq.write_table(table, sink, row_group_size=ROWS_OF_A_GROUP, write_page_checksum=True)
        yield RowsFile(sink.getvalue(), table.num_rows)


def _rows_of_unit(
    unit: WorkUnit, added: AddedRows, types: dict[str, pa.DataType]
) -> Iterator[pa.Table]:
    """The added rows of a unit as the manifest has them, with the columns of editions."""
    number = unit.first_row
    for part in unit.row_ranges:
        low, high = np.searchsorted(added.numbers, [number, number + part.num_rows])
        if low < high:
            chosen = slice(int(low), int(high))
            yield from _rows_of_range(unit, part, number, added, chosen, types)
        number += part.num_rows


def _rows_of_range(
    unit: WorkUnit,
    part: RowRange,
    first_row: int,
    added: AddedRows,
    chosen: slice,
    types: dict[str, pa.DataType],
) -> Iterator[pa.Table]:
    planner, columns = unit.planner, unit.planner.columns
    one = WorkUnit(planner, first_row, (part,))
    tables: list[pa.Table] = []

    def kept(*call: Any) -> Iterator[pa.Table]:
        for table in read_rows(*call):
            tables.append(table)
            yield table

    row = part.first_row
    for batch in read_batches(one, columns, kept):
        table = tables.pop()
        start = int(batch.rows.numbers[0])
        low, high = (
            np.searchsorted(added.numbers[chosen], [start, start + len(batch.rows)]) + chosen.start
        )
        wanted = added.numbers[low:high] - start
        if len(wanted):
            rows = _conformed(table.take(pa.array(wanted)), part.file, columns, types, row + wanted)
            settings = {
                "id": batch.rows.ids.take(pa.array(wanted)),
                "num_images": pa.array(added.num_images[low:high]),
                FIRST_VARIANT: pa.array(added.first_variants[low:high]),
            }
            for setting, values in settings.items():
                rows = rows.append_column(f"{OF_EDITIONS}{setting}", values)
            yield rows
        row += table.num_rows


def _conformed(
    table: pa.Table,
    file: ManifestFile,
    columns: Columns,
    types: dict[str, pa.DataType],
    numbers: Ints,
) -> pa.Table:
    """Rows with carried columns in the run's types, and without those that editions replace."""
    for column in columns.carried:
        wanted = types.get(column.name, column.type)
        if column.source not in table.column_names or pa.types.is_null(wanted):
            continue
        index = table.column_names.index(column.source)
        try:
            values = cast_with(as_type, table.column(index), wanted)
        except ValueLost as lost:
            message = (
                f"its type is {wanted} in the run, and this value cannot become that without a "
                f"loss ({lost}); a column keeps its type when a run grows"
            )
            problem = Problem(file.url, int(numbers[lost.row]), column.source, message)
            raise ManifestError([problem]) from lost
        table = table.set_column(index, pa.field(column.source, wanted), values)
    replaced = {columns.manifest_name(setting) for setting in ("id", "num_images")}
    kept = {
        column.column
        for setting, column in columns.settings.items()
        if setting not in ("id", "num_images")
    } | {column.source for column in columns.carried}
    return table.drop_columns([n for n in table.column_names if n in replaced - kept])


def refuse_taken_names(
    spec: RunSpec,
    info: ModelInfos,
    layout: PlanLayout,
    taken: Hashes,
    where: str,
    checked: PlanLayout,
) -> None:
    """Refuse rows whose files would have the name of another image of the run.

    Args:
        layout: the run's plan, that of all editions.
        taken: hashes of the names of the run's images.
        where: what a problem calls the place that the names come from.
        checked: the plan of the rows.

    Raises:
        ManifestError: names the first such image.
    """
    section = layout.extended(checked).sections[-1]  # names may depend on the number of the row
    planner = Planner(spec, info, resolve_columns(spec, section.files))
    for first_row, ranges in section.units:
        for batch in read_batches(WorkUnit(planner, first_row, ranges), planner.named_columns):
            order = np.arange(len(batch.rows))
            images = expand_rows(planner, batch.rows, batch.carried, order)
            hashes = hash64(folded(images.files), 0)
            found = among(hashes, taken)
            found[find_repeats([hashes])[0]] = True
            if found.any():
                raise _taken(images, int(np.argmax(found)), where)
            taken = np.concatenate([taken, hashes])


def _taken(images: Images, index: int, where: str) -> ManifestError:
    file, image_id = (column[index].as_py() for column in (images.files, images.image_ids))
    message = (
        f"image {image_id} would be the file {file!r}, but another image of the run has this name; "
        "add {image_id} to images.file_name in a run of another name, or rename the row"
    )
    return ManifestError([Problem(where, None, "images.file_name", message)])
