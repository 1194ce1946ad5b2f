"""The columns by which the review page filters and sorts: categories and numbers."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from nightpress.pipelines.job.page_columns import SCORE_PREFIX
from nightpress.pipelines.manifest.python_values import python_values

MAX_EXACT = 2**53
"""Integers beyond it are text on the page: JavaScript would round them."""

NAMED = ("loras", "controlnets", "references")
"""Columns with lists of adapters, which are shown by their names."""


@dataclass(frozen=True)
class PageColumn:
    """One column of the page; a category has codes, a number has values only."""

    name: str
    label: str
    values: list[Any]
    """The distinct texts of a category; the number of each row, or None."""
    codes: list[int] | None = None
    """The number of each row's text, -1 for none; None for a column of numbers."""

    def as_dict(self) -> dict[str, Any]:
        """As the page reads it."""
        if self.codes is None:
            return {"name": self.name, "label": self.label, "kind": "number", "values": self.values}
        shared = {"name": self.name, "label": self.label, "kind": "category"}
        return {**shared, "values": self.values, "codes": self.codes}

    @property
    def constant(self) -> Any:
        """The one value that all rows have; None if they differ or some have none."""
        if self.codes is None:
            first = self.values[0] if self.values else None
            return first if all(value == first for value in self.values) else None
        return self.values[0] if len(self.values) == 1 and -1 not in self.codes else None

    @property
    def is_empty(self) -> bool:
        """Whether no row has a value."""
        return not self.values if self.codes is not None else all(v is None for v in self.values)


def page_columns(table: pa.Table) -> Iterator[PageColumn]:
    """The columns of a table as the page has them, one at a time; empty ones are left out.

    Args:
        table: metadata columns of the images, and carried columns.
    """
    return (column for column in _all_columns(table) if not column.is_empty)


def _all_columns(table: pa.Table) -> Iterator[PageColumn]:
    for name in table.column_names:
        column = table.column(name)
        if name == "scores":
            yield from _scores(column)
        elif name in NAMED:
            texts = (", ".join(each["name"] for each in row or ()) for row in column.to_pylist())
            yield _category(name, pa.array([text or None for text in texts], pa.string()))
        elif name == "passes":
            counts = [len(row or ()) for row in column.to_pylist()]
            yield PageColumn(name, name, [float(n) if n else None for n in counts])
        else:
            yield _column(name, column)


def _column(name: str, column: pa.ChunkedArray) -> PageColumn:
    type_ = column.type
    if pa.types.is_dictionary(type_):
        return _column(name, column.cast(type_.value_type))
    if pa.types.is_integer(type_):
        limits = pc.min_max(column).as_py()
        if all(abs(each or 0) <= MAX_EXACT for each in limits.values()):
            return PageColumn(name, _label(name), column.to_pylist())
        return _category(name, column.cast(pa.string()).combine_chunks())
    if pa.types.is_floating(type_) or pa.types.is_decimal(type_):
        return PageColumn(name, _label(name), [_finite(value) for value in column.to_pylist()])
    if pa.types.is_string(type_) or pa.types.is_large_string(type_):
        return _category(name, column.combine_chunks().cast(pa.string()))
    return _category(name, pa.array([_text(v) for v in python_values(column)], pa.string()))


def _scores(column: pa.ChunkedArray) -> Iterator[PageColumn]:
    rows = [dict(row or ()) for row in column.to_pylist()]
    for score in sorted({name for row in rows for name in row}):
        values = [_finite(row.get(score)) for row in rows]
        yield PageColumn(f"{SCORE_PREFIX}{score}", score, values)


def _category(name: str, column: pa.Array) -> PageColumn:
    """A category of texts; an empty text is none."""
    texts = pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column)
    encoded = texts.dictionary_encode()
    codes = pc.fill_null(encoded.indices, -1).to_pylist()
    return PageColumn(name, _label(name), encoded.dictionary.to_pylist(), codes)


def _label(name: str) -> str:
    return name.replace("_", " ")


def _finite(value: Any) -> float | None:
    number = None if value is None else float(value)
    return number if number is not None and math.isfinite(number) else None


def _text(value: Any) -> str | None:
    """A value that is neither a number nor a text, as a text."""
    match value:
        case None:
            return None
        case bool():
            return "yes" if value else "no"
        case list() | dict() | tuple():
            return json.dumps(value, ensure_ascii=False, default=str)
        case _:
            return str(value)
