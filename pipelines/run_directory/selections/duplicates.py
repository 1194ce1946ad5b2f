"""Which image each duplicate that a selection leaves out is a duplicate of."""

from collections.abc import Iterable
from hashlib import sha256

import pyarrow as pa
import pyarrow.parquet as pq

from nightpress.diffusion_core.errors import one_line
from nightpress.pipelines.errors import Damaged
from nightpress.pipelines.storage import Store

DUPLICATES_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("duplicate_of", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("similarity", pa.float64()),
    ]
)
"""One row for each image that was left out as a duplicate, in the order of the steps, and then of
ranks. `duplicate_of` is the image that stayed in that step; a later step may have left it out.
`similarity` is the cosine of the two vectors, null where none were compared."""

SHA_DIGITS = 16


def duplicates_table(parts: Iterable[pa.Table]) -> pa.Table:
    """The duplicates of all steps."""
    return pa.concat_tables([DUPLICATES_SCHEMA.empty_table(), *parts]).combine_chunks()


def write_duplicates(store: Store, name: str, duplicates: pa.Table) -> str | None:
    """Write the duplicates of a selection; returns the path, or None if there are none.

    The object is named after its content: `selections/<name>/duplicates-<hash>.parquet`.
    """
    if not len(duplicates):
        return None
    sink = pa.BufferOutputStream()
    pq.write_table(duplicates, sink, compression="zstd", write_page_checksum=True)
    data = sink.getvalue().to_pybytes()
    digest = sha256(data).hexdigest()[:SHA_DIGITS]
    path = f"selections/{name}/duplicates-{digest}.parquet"
    if not store.create(path, data) and store.read(path) != data:
        store.put(path, data)  # it is named after its content, so what was there is damaged
    return path


def read_duplicates(store: Store, path: str | None) -> pa.Table:
    """The duplicates of a selection, DUPLICATES_SCHEMA.

    Args:
        store: the run directory.
        path: as the selection names it; None if there are none.

    Raises:
        Damaged: the object is not what was written.
        StoreError: it cannot be read.
    """
    if path is None:
        return DUPLICATES_SCHEMA.empty_table()
    try:
        data = pa.BufferReader(store.read(path))
        return pq.read_table(data, page_checksum_verification=True).cast(DUPLICATES_SCHEMA)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise Damaged(f"{store.url}/{path}: damaged: {one_line(error, 200)}") from error
