"""`delivered.parquet`: which copy is of which image."""

import json
from collections.abc import Iterable, Mapping
from io import BytesIO
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nightpress.diffusion_core.errors import one_line
from nightpress.pipelines.errors import SpecError

DELIVERED = "delivered.parquet"

SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("file", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("num_bytes", pa.int64(), nullable=False),
        pa.field("master_sha256", pa.string(), nullable=False),
    ]
)
"""One row per copy: where it lies, and the image that it is of."""

PAIR = pa.schema([SCHEMA.field("image_id"), SCHEMA.field("master_sha256")])
"""What tells whether a delivery is of the same images."""

ASKED = b"nightpress"
"""Key in the schema's metadata: what was asked for, as JSON."""

ROWS_A_CHUNK = 16_384


class DeliveredRows:
    """The rows of the table while copies are made; about 180 bytes of memory each."""

    def __init__(self) -> None:
        self._chunks: list[pa.Table] = []
        self._rows: list[Mapping[str, Any]] = []

    def add(self, row: Mapping[str, Any]) -> None:
        """Add the row of a copy, a value for each column of `SCHEMA`."""
        self._rows.append(row)
        if len(self._rows) == ROWS_A_CHUNK:
            self._close_chunk()

    def to_parquet(self, asked: Mapping[str, Any], ranked: pa.Table | None) -> bytes:
        """The table as it is stored.

        Args:
            asked: what was asked for, as JSON values.
            ranked: has the column `image_id`, in the order that the rows are to have; None for the
                order in which they were added.
        """
        self._close_chunk()
        table = pa.concat_tables([SCHEMA.empty_table(), *self._chunks]).combine_chunks()
        if ranked is not None:
            places = pc.index_in(ranked.column("image_id"), table.column("image_id"))
            table = table.take(places.drop_null()).combine_chunks()
        text = json.dumps(asked, sort_keys=True)
        file = BytesIO()
        pq.write_table(table.replace_schema_metadata({ASKED: text}), file)
        return file.getvalue()

    def _close_chunk(self) -> None:
        if self._rows:
            self._chunks.append(pa.Table.from_pylist(self._rows, SCHEMA))
            self._rows = []


def is_table_of(
    data: bytes, where: str, asked: Mapping[str, Any], images: Iterable[pa.Table]
) -> bool:
    """Whether a stored table is that of a delivery.

    Args:
        data: the table.
        where: its URL, for messages.
        asked: what was asked for, as JSON values.
        images: image_id and sha256 of the images, in any order.

    Raises:
        SpecError: it is no such table.
    """
    try:
        table = pq.read_table(BytesIO(data))
        stored = table.select(PAIR.names).replace_schema_metadata(None).cast(PAIR)
        was_asked = json.loads((table.schema.metadata or {}).get(ASKED, b"null"))
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise SpecError(
            f"{where}: not the table of a delivery ({one_line(error, 200)}); choose another "
            "folder, or delete it to have it written again"
        ) from error
    if was_asked != asked:
        return False
    pairs = (each.select(["image_id", "sha256"]).rename_columns(PAIR.names) for each in images)
    wanted = pa.concat_tables(
        [PAIR.empty_table(), *(each.replace_schema_metadata(None).cast(PAIR) for each in pairs)]
    )
    return bool(stored.sort_by("image_id").equals(wanted.sort_by("image_id")))
