"""The second pass over a manifest: write the parts of the plan, and read shards back from them.

Each part is written once. Writing it reads only its own manifest rows and gives the same bytes on
every machine, so interrupted planning resumes where it stopped.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nightpress.diffusion_core.errors import one_line
from nightpress.pipelines.errors import PlanDamaged
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.manifest.columns import resolve_columns
from nightpress.pipelines.manifest.job_models import ModelInfos
from nightpress.pipelines.manifest.parquet import conformed
from nightpress.pipelines.manifest.rows import Rows, concat_rows, take_each
from nightpress.pipelines.manifest.types import plain_type
from nightpress.pipelines.planning.duplicates import Mapper
from nightpress.pipelines.planning.images import Images, sort_for_sampling
from nightpress.pipelines.planning.index import encoded_index, index_path
from nightpress.pipelines.planning.input_hashes import read_hashes, with_hashes
from nightpress.pipelines.planning.later_names import with_carried_renamed
from nightpress.pipelines.planning.layout import PlanLayout, PlanPart
from nightpress.pipelines.planning.order import OrderKey
from nightpress.pipelines.planning.planner import Planner
from nightpress.pipelines.planning.units import WorkUnit, read_batches
from nightpress.pipelines.records import ADDED_TO_PLANS, PLAN_SCHEMA, PLANNED_AFTER_PASSES
from nightpress.pipelines.storage import Store, open_source

DICTIONARY_BYTES = 64 << 20
"""The dictionary size limit, so large that a prompt shared by many images is stored once."""

DISTINCT = frozenset({"image_id", "id", "file", "prompt", "seed"})
"""Columns with mostly distinct values, where a Parquet dictionary costs more than it saves."""


@dataclass(frozen=True)
class PartsTask:
    """Consecutive parts of one model to write from the rows of one unit."""

    unit: WorkUnit
    parts: tuple[PlanPart, ...]
    shard_size: int
    row_group_size: int
    batch_size: int
    input_hashes: str | None
    """Where the hashes of pictures are kept, if there are any."""
    order: tuple[OrderKey, ...]


def plan_part(spec: RunSpec, info: ModelInfos, layout: PlanLayout, index: int) -> pa.Table:
    """Compute one part of the plan without writing it: PLAN_SCHEMA, then the carried columns.

    The hashes of pictures are left out.

    Raises:
        ManifestError: the manifest has changed since it was checked.
        StoreError: the manifest cannot be read.
    """
    section = layout.section_of(layout.parts[index].first_shard)
    planner = Planner(spec, info, resolve_columns(spec, section.files))
    ((part, images),) = _images_of_parts(_task_for(planner, section, [layout.parts[index]]))
    return plain(_table(images, part.first_shard, section.shard_size))


def write_plan(
    spec: RunSpec, info: ModelInfos, layout: PlanLayout, store: Store, mapper: Mapper = map
) -> Iterator[str]:
    """Write every part that does not exist yet; yields the path of each part written.

    A model's parts of one unit are written by one call, which reads the unit's rows once.

    Raises:
        ManifestError, StoreError: the manifest has changed, or something cannot be read or written.
    """
    present = store.list("plan")
    tasks = []
    for section in layout.sections:
        missing = [part for part in section.parts if part.path not in present]
        if missing:
            planner = Planner(spec, info, resolve_columns(spec, section.files))
            tasks += [
                (_task_for(planner, section, list(parts)), store)
                for _, parts in groupby(missing, key=lambda part: (part.model, part.unit))
            ]
    for paths in mapper(write_parts, tasks):
        yield from paths


def write_parts(call: tuple[PartsTask, Store]) -> list[str]:
    """Write the parts of a task; returns the paths that are new. Top-level, to be picklable."""
    task, store = call
    written = []
    for part, images in _images_of_parts(task, store):
        # The index comes first, so that every part that exists has one.
        store.create(index_path(part), encoded_index(images, task.shard_size))
        table = _table(images, part.first_shard, task.shard_size)
        if store.create(part.path, _encode(table, task.row_group_size)):
            written.append(part.path)
    return written


def rewrite_plan_part(
    spec: RunSpec, info: ModelInfos, layout: PlanLayout, store: Store, shard: int
) -> None:
    """Write the part that holds a shard again, replacing what is stored.

    Raises:
        ManifestError: the manifest has changed since it was checked.
        StoreError: the manifest cannot be read, or the part cannot be written.
    """
    section, part = layout.section_of(shard), layout.part_of(shard)
    planner = Planner(spec, info, resolve_columns(spec, section.files))
    ((_, images),) = _images_of_parts(_task_for(planner, section, [part]), store)
    store.put(index_path(part), encoded_index(images, section.shard_size))
    table = _table(images, part.first_shard, section.shard_size)
    store.put(part.path, _encode(table, section.row_group_size))


def read_shard(store: Store, layout: PlanLayout, shard: int) -> pa.Table:
    """The images of one shard in sampling order: PLAN_SCHEMA, then the carried columns.

    Reads the one row group that holds them, at most a few thousand rows.

    Raises:
        IndexError: the plan has no such shard.
        PlanDamaged: the part is not what was written; `rewrite_plan_part` writes it again.
        StoreError: the part cannot be read.
    """
    part, section = layout.part_of(shard), layout.section_of(shard)
    first_image = (shard - part.first_shard) * section.shard_size
    group, offset = divmod(first_image, section.row_group_size)
    url = f"{store.url}/{part.path}"
    try:
        with (
            open_source(url, store.options) as stream,
            pq.ParquetFile(stream, page_checksum_verification=True) as parquet,
        ):
            table = parquet.read_row_group(group, use_threads=False)
    except (pa.ArrowException, OSError) as error:
        reason = one_line(error, 200)
        raise PlanDamaged(f"{url}: this part of the plan is damaged: {reason}", shard) from error
    return plain(table.slice(offset, section.shard_size))


def plain(table: pa.Table) -> pa.Table:
    """A part's rows under the plan's schema, without dictionary encoding.

    Columns that older versions did not write are null.
    """
    table = with_carried_renamed(table, ADDED_TO_PLANS)
    for field in PLAN_SCHEMA:
        if field.nullable and field.name not in table.column_names:
            table = table.append_column(field, pa.nulls(len(table), field.type))
    carried = [
        pa.field(field.name, plain_type(field.type))
        for field in table.schema
        if field.name not in PLAN_SCHEMA.names
    ]
    return conformed(table, pa.schema([*PLAN_SCHEMA, *carried]))


def _task_for(planner: Planner, layout: PlanLayout, parts: Sequence[PlanPart]) -> PartsTask:
    first, last = parts[0], parts[-1]
    num_rows = last.first_row + last.num_rows - first.first_row
    unit = WorkUnit(planner, first.first_row, layout.row_ranges(first.first_row, num_rows))
    batch_size = layout.batch_sizes.get(first.model or "", layout.batch_size)
    sizes = layout.shard_size, layout.row_group_size, batch_size
    hashes = layout.input_hashes_path if layout.has_input_hashes else None
    order = tuple(map(OrderKey.parse, layout.order))
    return PartsTask(unit, tuple(parts), *sizes, hashes, order)


def _images_of_parts(
    task: PartsTask, store: Store | None = None
) -> Iterator[tuple[PlanPart, Images]]:
    """Each part of a task with its images in sampling order.

    Args:
        task: which parts.
        store: the run directory, for the hashes of pictures if it keeps any.
    """
    path = task.input_hashes if store is not None else None
    hashes = read_hashes(store, path) if store is not None and path is not None else None
    for part, rows, carried in _rows_of_parts(task):
        if hashes is not None:
            rows = replace(rows, inputs=with_hashes(rows.inputs, hashes))
        planner = task.unit.planner
        yield part, sort_for_sampling(planner, rows, carried, task.batch_size, task.order)


def _rows_of_parts(task: PartsTask) -> Iterator[tuple[PlanPart, Rows, dict[str, pa.Array]]]:
    """The rows of each part, joined from batches whose boundaries differ from the parts'."""
    parts = list(task.parts)
    chunks: list[tuple[Rows, dict[str, pa.Array]]] = []
    end = task.unit.first_row
    for batch in read_batches(task.unit, task.unit.planner.columns):
        batch.problems.raise_if_any()
        start, end = end, end + len(batch.rows)
        while parts and parts[0].first_row < end:
            part = parts[0]
            low = max(part.first_row - start, 0)
            high = min(part.first_row + part.num_rows - start, len(batch.rows))
            carried = {
                name: column.slice(low, high - low) for name, column in batch.carried.items()
            }
            chunks.append((batch.rows.between(low, high), carried))
            if part.first_row + part.num_rows > end:
                break
            yield part, *_of_model(task.unit.planner, part, *_join(chunks))
            chunks = []
            parts.pop(0)


def _of_model(
    planner: Planner, part: PlanPart, rows: Rows, carried: dict[str, pa.Array]
) -> tuple[Rows, dict[str, pa.Array]]:
    """Those of the rows that have the part's model."""
    if part.model is None:
        return rows, carried
    names = [model.name for model in planner.models]
    own = np.flatnonzero(rows.model == names.index(part.model))
    return rows.take(own), take_each(carried, own)


def _join(
    chunks: Sequence[tuple[Rows, dict[str, pa.Array]]],
) -> tuple[Rows, dict[str, pa.Array]]:
    rows = concat_rows([rows for rows, _ in chunks])
    names = chunks[0][1]
    return rows, {name: pa.concat_arrays([c[name] for _, c in chunks]) for name in names}


def images_table(images: Images) -> pa.Table:
    """Images as rows of a plan that is not cut into shards: all are in shard 0."""
    return plain(_table(images, 0, max(1, len(images))))


def _table(images: Images, first_shard: int, shard_size: int) -> pa.Table:
    shards = first_shard + np.arange(len(images)) // shard_size
    columns = {
        name: pa.array(shards.astype(np.int32)) if name == "shard" else images.column(name)
        for name in (*PLAN_SCHEMA.names, *images.carried)
        if name not in PLANNED_AFTER_PASSES or images.rows.any_clips
    }
    nullable = {*images.carried, *(field.name for field in PLAN_SCHEMA if field.nullable)}
    fields = [pa.field(name, array.type, name in nullable) for name, array in columns.items()]
    return pa.table(list(columns.values()), schema=pa.schema(fields))


def _encode(table: pa.Table, row_group_size: int) -> bytes:
    """Encode as Parquet; equal tables give equal bytes."""
    shared = {field.name for field in table.schema if pa.types.is_dictionary(field.type)}
    sink = io.BytesIO()
    pq.write_table(
        table,
        sink,
        row_group_size=row_group_size,
        compression="snappy",
        use_dictionary=[
            name for name in table.schema.names if name in shared or name not in DISTINCT
        ],
        dictionary_pagesize_limit=DICTIONARY_BYTES,
        write_statistics=["image_id", "shard"],
        write_page_checksum=True,
    )
    return sink.getvalue()
