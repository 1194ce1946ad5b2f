"""The order of work: which images are made sooner, by the manifest's priorities and other columns.

Inside a part of the plan, equal settings stay together and their rows are sorted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.job.batch_section import column_and_direction
from nightpress.pipelines.job.settings import PRIORITY
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.manifest.columns import FIRST_VARIANT, Columns
from nightpress.pipelines.manifest.numbers import Ints

ORDERED_SETTINGS = (
    "id",
    "prompt",
    "negative_prompt",
    "width",
    "height",
    "num_inference_steps",
    "guidance_scale",
    "scheduler",
    "lora",
    "lora_scale",
    PRIORITY,
)
"""The settings that `batch.order` may name: those that each row of the plan has as a value."""


@dataclass(frozen=True)
class OrderKey:
    """One column that decides which images are made sooner."""

    column: str
    """Its name in the plan."""
    descending: bool
    """Whether the highest values come first; nulls come last either way."""

    def __str__(self) -> str:
        """`-score` or `+score`, as `batch.order` has it."""
        return f"{'-' if self.descending else '+'}{self.column}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The inverse of `str`."""
        return cls(*column_and_direction(text))


def order_of(spec: RunSpec, columns: Columns) -> tuple[OrderKey, ...]:
    """What decides the order of a job's images, the most decisive column first.

    `priority` comes before the columns of `batch.order`, unless they name it themselves.

    Raises:
        SpecError: `batch.order` names what is no column, or one without an order.
    """
    is_edition = FIRST_VARIANT in columns.settings  # its rows may lack columns of the manifest
    keys = [
        OrderKey(_plan_name(name, columns), descending)
        for name, descending in map(column_and_direction, spec.batch.order)
        if not is_edition or _is_column(name, columns)
    ]
    names = [key.column for key in keys]
    for name in names:
        if names.count(name) > 1:
            raise SpecError(f"batch.order: two of its names mean the column {name!r}")
    if PRIORITY in columns.settings and PRIORITY not in names:
        keys.insert(0, OrderKey(PRIORITY, descending=True))
    return tuple(keys)


def _is_column(name: str, columns: Columns) -> bool:
    return name in columns.source_names() or name in columns.settings


def _plan_name(name: str, columns: Columns) -> str:
    """The name in the plan of a manifest's column, or of a setting that it has a column for."""
    carried = {each.source: each for each in columns.carried}
    settings = {column.column: setting for setting, column in columns.settings.items()}
    settings |= {setting: setting for setting in columns.settings}
    if name in settings:
        if settings[name] not in ORDERED_SETTINGS:
            raise SpecError(
                f"batch.order: cannot order by {name!r}; of the settings it may name: "
                f"{', '.join(ORDERED_SETTINGS)}"
            )
        return settings[name]
    if name not in carried:
        known = [*columns.source_names(), *columns.settings]
        near = get_close_matches(name, known, 1) or get_close_matches(name.lower(), known, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise SpecError(
            f"batch.order: the manifest has no column {name!r}; {hint}its columns are: "
            f"{', '.join(columns.source_names())}"
        )
    if not _is_sortable(carried[name].type):
        raise SpecError(
            f"batch.order: cannot order by {name!r}, whose values are {carried[name].type}"
        )
    return carried[name].name


def _is_sortable(type_: pa.DataType) -> bool:
    if pa.types.is_null(type_) or pa.types.is_float16(type_):
        return True
    try:
        pc.array_sort_indices(pa.nulls(0, type_))
    except pa.ArrowNotImplementedError:
        return False
    return True


def importance_ranks(values: Sequence[pa.Array], order: Sequence[OrderKey]) -> Ints:
    """The rank of each row among the distinct values of its columns, 0 for what comes first; (n,).

    Numbers are compared as numbers, texts by their characters' code points; nulls come last, but a
    missing priority is 0.

    Args:
        values: a column for each key; (n,) each.
    """
    ranks = np.zeros(len(values[0]) if values else 0, np.int64)
    for column, key in zip(values, order, strict=True):
        codes, num_codes = _codes(column, key)
        ranks = np.unique(ranks * num_codes + codes, return_inverse=True)[1].astype(np.int64)
    return ranks


def _codes(column: pa.Array, key: OrderKey) -> tuple[Ints, int]:
    """Each value's rank among the column's distinct values, and one more than the highest rank."""
    if pa.types.is_null(column.type):
        return np.zeros(len(column), np.int64), 1
    if key.column == PRIORITY and pa.types.is_integer(column.type):
        column = pc.fill_null(column, 0)
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    direction = "descending" if key.descending else "ascending"
    values = column.dictionary
    if pa.types.is_float16(values.type):  # Arrow 26 does not sort them
        values = pc.cast(values, pa.float32())
    order = np.array(pc.array_sort_indices(values, order=direction))
    ranks = np.empty(len(order) + 1, np.int64)
    ranks[order] = np.arange(len(order))
    ranks[-1] = len(order)  # of null
    return ranks[np.array(pc.fill_null(column.indices, len(order)))], len(order) + 1


def by_importance(groups: Ints, ranks: Ints, batch_size: int) -> Ints:
    """An order with the full batches of each group first, and the leftovers after them.

    Inside a group the lowest ranks come first. Groups come in the order of their lowest ranks, of
    full batches and of leftovers alike; equal ranks keep the order of the groups and the rows.

    Args:
        groups: (m,) group numbers from 0.
        ranks: (m,) see `importance_ranks`.
        batch_size: images in a full batch.
    """
    inside = np.lexsort((ranks, groups))
    groups, ranks = groups[inside], ranks[inside]
    counts = np.bincount(groups)
    number_in_group = np.arange(len(groups)) - np.repeat(np.cumsum(counts) - counts, counts)
    is_leftover = number_in_group >= (counts - counts % batch_size)[groups]
    sections = groups + is_leftover * len(counts)
    lowest = np.full(2 * len(counts), np.iinfo(np.int64).max)
    np.minimum.at(lowest, sections, ranks)
    result: Ints = inside[np.lexsort((sections, lowest[sections], is_leftover))]
    return result
