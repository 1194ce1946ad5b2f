"""Carried columns of plans and commits of older versions, whose names are now other columns'."""

from itertools import takewhile

import pyarrow as pa

from nightpress.pipelines.records import (
    ADDED_AFTER_PASSES,
    ADDED_TO_METADATA,
    ADDED_TO_PLANS,
    METADATA_SCHEMA,
    PLAN_SCHEMA,
    PLANNED_AFTER_PASSES,
)


def with_carried_renamed(table: pa.Table, added: frozenset[str]) -> pa.Table:
    """A part of a plan or a commit, as if this version had named its carried columns.

    Args:
        added: `ADDED_TO_PLANS` or `ADDED_TO_METADATA`. A part of an older version lacks some of
            them, and what it has under such a name is a carried column, say `manifest_mode`.
    """
    names, carried = table.column_names, carried_under_later_names(table.schema, added)
    if not carried:
        return table
    return table.rename_columns([f"manifest_{n}" if n in carried else n for n in names])


def carried_under_later_names(schema: pa.Schema, added: frozenset[str]) -> frozenset[str]:
    """The carried columns of a part of an older version whose names are now those of other columns.

    Args:
        added: as for `with_carried_renamed`.
    """
    names = list(schema.names)
    last = names.index("passes") + 1 if "passes" in names else len(names)
    later = {"parent"} if "parent" in names[last:] else set()
    if not added.issubset(names):
        later |= {"parent", *ADDED_TO_PLANS, *ADDED_TO_METADATA}
    expected = ADDED_AFTER_PASSES if added == ADDED_TO_METADATA else PLANNED_AFTER_PASSES
    found = takewhile(_is_of_this_schema, list(schema)[last : last + len(expected)])
    own = {each.name for each, name in zip(found, expected, strict=False) if each.name == name}
    later |= {*ADDED_AFTER_PASSES, *PLANNED_AFTER_PASSES} - own
    return frozenset(later.intersection(names))


def _is_of_this_schema(column: pa.Field) -> bool:
    known = PLAN_SCHEMA if column.name in PLANNED_AFTER_PASSES else METADATA_SCHEMA
    return column.name in known.names and bool(column.type == known.field(column.name).type)
