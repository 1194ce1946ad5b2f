"""The SHA-256 of pictures as they were when a run was planned, kept beside the plan."""

import hashlib
import io
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nightpress.diffusion_core.errors import one_line
from nightpress.pipelines.errors import Damaged
from nightpress.pipelines.manifest.input_lists import INPUTS_TYPE
from nightpress.pipelines.planning.layout import INPUT_HASHES, PlanLayout
from nightpress.pipelines.records import PLANNED_INPUT_TYPE
from nightpress.pipelines.storage import Store

HASHES = pa.schema([pa.field("url", pa.string()), pa.field("sha256", pa.string())])


def keep_hashes(store: Store, layout: PlanLayout) -> PlanLayout:
    """Write the hashes of a checked manifest's pictures, if there are any, before its run begins.

    Returns:
        The layout, which then says that they are kept.
    """
    if layout.input_hashes is None:
        return layout
    store.put(INPUT_HASHES, encoded_hashes(layout.input_hashes))
    return replace(layout, input_hashes=None, has_input_hashes=True)


def keep_added_hashes(store: Store, layout: PlanLayout, name: str) -> PlanLayout:
    """As `keep_hashes`, for the rows that an edition adds.

    Args:
        store: the run directory.
        layout: the layout of these rows, with their pictures checked.
        name: the beginning of the file's name, which goes on with the hash of its bytes.
    """
    if layout.input_hashes is None:
        return layout
    data = encoded_hashes(layout.input_hashes)
    path = f"{name}{hashlib.sha256(data).hexdigest()[:16]}.parquet"
    store.create(path, data)
    return replace(layout, input_hashes=None, has_input_hashes=True, input_hashes_path=path)


def encoded_hashes(hashes: pa.Table) -> bytes:
    """Hashes as they are kept."""
    sink = io.BytesIO()
    pq.write_table(hashes, sink)
    return sink.getvalue()


def read_hashes(store: Store, path: str = INPUT_HASHES) -> pa.Table:
    """The hashes that were kept.

    Raises:
        Damaged: they cannot be read.
        StoreError: the store fails, or they are missing.
    """
    data = store.read(path)
    try:
        return pq.read_table(io.BytesIO(data), schema=HASHES)
    except (pa.ArrowException, OSError) as error:
        raise Damaged(f"{store.url}/{path}: damaged: {one_line(error, 200)}") from error


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
