"""A stand-in for a polars frame: an Arrow stream with string views, and nothing else."""

from typing import Any

import pyarrow as pa


class PolarsLike:
    """Offers a table only through the Arrow PyCapsule interface."""

    def __init__(self, table: pa.Table) -> None:
        fields = [
            pa.field(f.name, pa.string_view() if pa.types.is_string(f.type) else f.type)
            for f in table.schema
        ]
        self._table = table.cast(pa.schema(fields))

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self._table.__arrow_c_stream__(requested_schema)
