"""The columns of a run's metadata, whose parts may lack some or have others of an older version."""

from collections.abc import Iterable

import pyarrow as pa

from nightpress.pipelines.records import METADATA_SCHEMA
from nightpress.pipelines.run_directory.commit import metadata_columns


def full_schema(parts: Iterable[pa.Schema]) -> pa.Schema:
    """The metadata columns, then the carried ones of some parts.

    These are the same in every shard of an edition. Another edition may have more of them, or
    values in one that was all null.
    """
    carried: dict[str, pa.Field] = {}
    for field in (_plain(field) for part in parts for field in part):
        known = carried.get(field.name)
        if field.name not in METADATA_SCHEMA.names and (
            known is None or pa.types.is_null(known.type)
        ):
            carried[field.name] = field
    return pa.schema([*METADATA_SCHEMA, *carried.values()])


def with_carried(part: pa.Table, schema: pa.Schema) -> pa.Table:
    """The columns of a part in the order and with the types of a full schema."""
    known = metadata_columns(part)
    carried = [
        part.column(name).cast(schema.field(name).type)
        if name in part.column_names
        else pa.nulls(len(part), schema.field(name).type)
        for name in schema.names[len(METADATA_SCHEMA) :]
    ]
    return pa.table([*known.columns, *carried], schema=schema)


def _plain(field: pa.Field) -> pa.Field:
    """The field without dictionary encoding, which some parts may have been written with."""
    if pa.types.is_dictionary(field.type):
        return field.with_type(field.type.value_type).remove_metadata()
    return field.remove_metadata()
