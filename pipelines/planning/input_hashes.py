"""The SHA-256 of pictures as they were when a run was planned, kept beside the plan."""

import io
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nightpress.diffusion_core.errors import one_line
from nightpress.pipelines.errors import Damaged
from nightpress.pipelines.manifest.input_lists import INPUTS_TYPE
from nightpress.pipelines.planning.layout import PlanLayout
from nightpress.pipelines.records import PLANNED_INPUT_TYPE
from nightpress.pipelines.storage import Store

HASHES = pa.schema([pa.field("url", pa.string()), pa.field("sha256", pa.string())])

PATH = "manifest/inputs.parquet"
"""Where they are kept in the run directory, so that a part of the plan can be written again."""


def keep_hashes(store: Store, layout: PlanLayout) -> PlanLayout:
    """Write the hashes of a checked manifest's pictures, if there are any, before its run begins.

    Returns:
        The layout, which then says that they are kept.
    """
    if layout.input_hashes is None:
        return layout
    sink = io.BytesIO()
    pq.write_table(layout.input_hashes, sink)
    store.put(PATH, sink.getvalue())
    return replace(layout, input_hashes=None, has_input_hashes=True)


def read_hashes(store: Store) -> pa.Table:
    """The hashes that were kept.

    Raises:
        Damaged: they cannot be read.
        StoreError: the store fails, or they are missing.
    """
    data = store.read(PATH)
    try:
        return pq.read_table(io.BytesIO(data), schema=HASHES)
    except (pa.ArrowException, OSError) as error:
        raise Damaged(f"{store.url}/{PATH}: damaged: {one_line(error, 200)}") from error


def with_hashes(inputs: pa.Array, hashes: pa.Table) -> pa.Array:
    """The pictures of rows, (n,) as in the plan, with the hashes of their URLs."""
    if inputs.null_count == len(inputs):
        return inputs
    flat = pc.list_flatten(inputs)
    values = [pc.struct_field(flat, field.name) for field in PLANNED_INPUT_TYPE]
    indices = pc.index_in(values[1], value_set=hashes["url"].combine_chunks())
    values[-1] = pc.take(hashes["sha256"].combine_chunks(), indices)
    entries = pa.StructArray.from_arrays(values, fields=list(PLANNED_INPUT_TYPE))
    offsets = np.zeros(len(inputs) + 1, np.int32)
    np.cumsum(np.array(pc.fill_null(pc.list_value_length(inputs), 0)), out=offsets[1:])
    return pa.ListArray.from_arrays(
        pa.array(offsets), entries, type=INPUTS_TYPE, mask=inputs.is_null()
    )
