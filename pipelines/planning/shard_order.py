"""The order in which a run's shards are handed out, read from the parts of its plan."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nightpress.diffusion_core.errors import one_line
from nightpress.pipelines.errors import PlanDamaged
from nightpress.pipelines.manifest.parquet import conformed
from nightpress.pipelines.manifest.types import plain_type
from nightpress.pipelines.planning.layout import PlanLayout, PlanPart
from nightpress.pipelines.planning.order import OrderKey, importance_ranks
from nightpress.pipelines.storage import READ_THREADS, Store, open_source


def shards_in_order(store: Store, layout: PlanLayout) -> list[int]:
    """All shards of a plan, in the order in which they are to be handed out.

    A shard's place is that of its most important image, and among equals that of its least
    important one. So less important images come early only where they fill up a shard of more
    important ones: at most about two shards for each settings of a part.

    Raises:
        PlanDamaged: a part is not what was written.
        StoreError: a part cannot be read.
    """
    if not layout.order:
        return list(range(layout.num_shards))
    order = [OrderKey.parse(text) for text in layout.order]
    with ThreadPoolExecutor(READ_THREADS) as pool:
        parts = list(pool.map(partial(_ends_of_shards, store, order), layout.parts))
    table = pa.concat_tables(parts, promote_options="default")
    ranks = importance_ranks(_columns(table, order), order)
    first, last = ranks[0::2], ranks[1::2]
    shards = np.array(table.column("shard"))[0::2]
    in_order: list[int] = shards[np.lexsort((shards, last, first))].tolist()
    return in_order


def _ends_of_shards(store: Store, order: Sequence[OrderKey], part: PlanPart) -> pa.Table:
    """The order's columns of the most and the least important image of each shard of a part."""
    table = read_columns(store, part, ["shard", *(key.column for key in order)])
    shards = np.array(table.column("shard"))
    ranked = np.lexsort((importance_ranks(_columns(table, order), order), shards))
    is_first = np.diff(shards[ranked], prepend=-1) != 0
    firsts = np.flatnonzero(is_first)
    lasts = np.append(firsts[1:], len(ranked)) - 1
    return table.take(pa.array(ranked[np.stack([firsts, lasts], axis=1).ravel()]))


def read_part(store: Store, part: PlanPart, names: Sequence[str] | None = None) -> pa.Table:
    """A part of the plan as it is stored, or those of some columns that it has.

    Raises:
        PlanDamaged: the part is not what was written.
        StoreError: the part cannot be read.
    """
    url = f"{store.url}/{part.path}"
    columns = None if names is None else list(names)
    try:
        with (
            open_source(url, store.options) as stream,
            pq.ParquetFile(stream, page_checksum_verification=True) as parquet,
        ):
            return parquet.read(columns=columns, use_threads=False)
    except (pa.ArrowException, OSError) as error:
        reason = one_line(error, 200)
        message = f"{url}: this part of the plan is damaged: {reason}"
        raise PlanDamaged(message, part.first_shard) from error


def read_columns(store: Store, part: PlanPart, names: Sequence[str]) -> pa.Table:
    """Some columns of a part of the plan, in a plain encoding; nulls for those that it lacks.

    Raises:
        PlanDamaged: the part is not what was written.
        StoreError: the part cannot be read.
    """
    table = read_part(store, part, names)
    for name in names:
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(len(table)))
    fields = [pa.field(name, plain_type(table.schema.field(name).type)) for name in names]
    return conformed(table.select(list(names)), pa.schema(fields))


def _columns(table: pa.Table, order: Sequence[OrderKey]) -> list[pa.Array]:
    return [table.column(key.column).combine_chunks() for key in order]
