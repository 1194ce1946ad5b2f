"""The second pass: the parts of a plan, written once each, and shards read back from them.

Writing a part reads only the manifest rows that it is made of, and gives the same bytes on every
machine, so planning resumes wherever it stopped.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nightpress.diffusion_core.models.loading import ModelInfo
from nightpress.pipelines.errors import PlanDamaged
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.manifest.columns import resolve
from nightpress.pipelines.manifest.rows import Rows, join_rows
from nightpress.pipelines.manifest.types import plain_type
from nightpress.pipelines.planning.duplicates import Mapper
from nightpress.pipelines.planning.images import Images, Planner, in_sampling_order
from nightpress.pipelines.planning.index import encoded_index, index_path
from nightpress.pipelines.planning.layout import PlanLayout, PlanPart
from nightpress.pipelines.planning.units import Unit, typed
from nightpress.pipelines.records import PLAN_SCHEMA
from nightpress.pipelines.storage import Store, open_source

DICTIONARY_BYTES = 64 << 20
"""A prompt that many images share is stored once, however long."""

DISTINCT = frozenset({"image_id", "id", "file", "prompt", "seed"})
"""Columns in which looking for repeated values costs more than it saves."""


@dataclass(frozen=True)
class PartsJob:
    """Consecutive parts that are made from the rows of one unit."""

    unit: Unit
    parts: tuple[PlanPart, ...]
    shard_size: int
    row_group_size: int
    batch_size: int


def plan_part(spec: RunSpec, info: ModelInfo, layout: PlanLayout, index: int) -> pa.Table:
    """One part of the plan, with nothing written: PLAN_SCHEMA, then the carried columns.

    Raises:
        ManifestError: the manifest is no longer what was checked.
        StoreError: it cannot be read.
    """
    planner = Planner(spec, info, resolve(spec, layout.files))
    ((part, images),) = _images_of_parts(_job(planner, layout, [layout.parts[index]]))
    return _plain(_table(images, part, layout.shard_size))


def write_plan(
    spec: RunSpec, info: ModelInfo, layout: PlanLayout, store: Store, mapper: Mapper = map
) -> Iterator[str]:
    """Write every part that is not there yet, yielding the paths as they are done.

    Parts of one unit go to one call, which reads their rows once.
    """
    planner = Planner(spec, info, resolve(spec, layout.files))
    there = store.list("plan")
    missing = [part for part in layout.parts if part.path not in there]
    jobs = [
        (_job(planner, layout, list(parts)), store)
        for _, parts in groupby(missing, key=lambda part: part.unit)
    ]
    for paths in mapper(write_parts, jobs):
        yield from paths


def write_parts(call: tuple[PartsJob, Store]) -> list[str]:
    """Write the parts of a job and return those that were not there; a top-level function."""
    job, store = call
    written = []
    for part, images in _images_of_parts(job):
        # First, so that a part that is there has its index.
        store.create(index_path(part), encoded_index(images, job.shard_size))
        table = _table(images, part, job.shard_size)
        if store.create(part.path, _encode(table, job.row_group_size)):
            written.append(part.path)
    return written


def mend_plan(spec: RunSpec, info: ModelInfo, layout: PlanLayout, store: Store, shard: int) -> None:
    """Write the part that holds a shard again, over what is there.

    Raises:
        ManifestError: the manifest is no longer what was checked.
        StoreError: it cannot be read, or the part not be written.
    """
    planner = Planner(spec, info, resolve(spec, layout.files))
    part = layout.part_of(shard)
    ((_, images),) = _images_of_parts(_job(planner, layout, [part]))
    store.put(index_path(part), encoded_index(images, layout.shard_size))
    table = _table(images, part, layout.shard_size)
    store.put(part.path, _encode(table, layout.row_group_size))


def read_shard(store: Store, layout: PlanLayout, shard: int) -> pa.Table:
    """The images of one shard in sampling order: PLAN_SCHEMA, then the carried columns.

    Reads the row group that they lie in, at most a few thousand rows.

    Raises:
        IndexError: the plan has no such shard.
        PlanDamaged: its part is not what was written; `mend_plan` writes it again.
        StoreError: it cannot be read.
    """
    part = layout.part_of(shard)
    place = (shard - part.first_shard) * layout.shard_size
    group, offset = divmod(place, layout.row_group_size)
    url = f"{store.url}/{part.path}"
    try:
        with (
            open_source(url, store.options) as stream,
            pq.ParquetFile(stream, page_checksum_verification=True) as parquet,
        ):
            table = parquet.read_row_group(group, use_threads=False)
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise PlanDamaged(f"{url}: this part of the plan is damaged: {reason}", shard) from error
    return _plain(table.slice(offset, layout.shard_size))


def _plain(table: pa.Table) -> pa.Table:
    """A part's rows under the plan's schema, without dictionary encoding."""
    carried = [
        pa.field(field.name, plain_type(field.type))
        for field in table.schema
        if field.name not in PLAN_SCHEMA.names
    ]
    schema = pa.schema([*PLAN_SCHEMA, *carried])
    return table.select(schema.names).cast(schema)


def _job(planner: Planner, layout: PlanLayout, parts: Sequence[PlanPart]) -> PartsJob:
    first, last = parts[0], parts[-1]
    num_rows = last.first_row + last.num_rows - first.first_row
    unit = Unit(planner, first.first_row, layout.rows.slices(first.first_row, num_rows))
    sizes = layout.shard_size, layout.row_group_size, layout.batch_size
    return PartsJob(unit, tuple(parts), *sizes)


def _images_of_parts(job: PartsJob) -> Iterator[tuple[PlanPart, Images]]:
    """Each part of a job with its images in sampling order."""
    for part, rows, carried in _rows_of_parts(job):
        yield part, in_sampling_order(job.unit.planner, rows, carried, job.batch_size)


def _rows_of_parts(job: PartsJob) -> Iterator[tuple[PlanPart, Rows, dict[str, pa.Array]]]:
    """The rows of each part, gathered from batches that end elsewhere."""
    parts = list(job.parts)
    gathered: list[tuple[Rows, dict[str, pa.Array]]] = []
    end = job.unit.first_row
    for batch in typed(job.unit, job.unit.planner.columns):
        batch.findings.refuse()
        start, end = end, end + len(batch.rows)
        while parts and parts[0].first_row < end:
            part = parts[0]
            low = max(part.first_row - start, 0)
            high = min(part.first_row + part.num_rows - start, len(batch.rows))
            piece = {name: column.slice(low, high - low) for name, column in batch.carried.items()}
            gathered.append((batch.rows.between(low, high), piece))
            if part.first_row + part.num_rows > end:
                break
            yield part, *_joined(gathered)
            gathered = []
            parts.pop(0)


def _joined(
    gathered: Sequence[tuple[Rows, dict[str, pa.Array]]],
) -> tuple[Rows, dict[str, pa.Array]]:
    rows = join_rows([rows for rows, _ in gathered])
    names = gathered[0][1]
    return rows, {name: pa.concat_arrays([c[name] for _, c in gathered]) for name in names}


def _table(images: Images, part: PlanPart, shard_size: int) -> pa.Table:
    shards = part.first_shard + np.arange(len(images)) // shard_size
    columns = {
        name: pa.array(shards.astype(np.int32)) if name == "shard" else images.column(name)
        for name in (*PLAN_SCHEMA.names, *images.carried)
    }
    nullable = {*images.carried, *(field.name for field in PLAN_SCHEMA if field.nullable)}
    fields = [pa.field(name, array.type, name in nullable) for name, array in columns.items()]
    return pa.table(list(columns.values()), schema=pa.schema(fields))


def _encode(table: pa.Table, row_group_size: int) -> bytes:
    """Parquet bytes; equal tables give equal bytes."""
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
