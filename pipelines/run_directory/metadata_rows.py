"""Metadata rows as Python values."""

from typing import Any

import pyarrow as pa

from nightpress.pipelines.manifest.python_values import python_rows


def metadata_rows(table: pa.Table) -> list[dict[str, Any]]:
    """The rows of metadata columns as `python_rows` has them, with `scores` as a dictionary."""
    rows = python_rows(table)
    for row in rows:
        if row.get("scores") is not None:
            row["scores"] = dict(row["scores"])
    return rows
