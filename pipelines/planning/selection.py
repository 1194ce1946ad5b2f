"""Choose a few images of a job that show the values of its manifest's columns.

The rows are streamed twice: once to learn which values there are, and once to take the chosen rows.
Memory is bounded by the number of candidates, whatever the number of rows.
"""

from collections.abc import Iterator, Sequence
from difflib import get_close_matches

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.hashing import GOLDEN, Hashes, hash64, mix64
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.manifest.columns import Columns, resolve_columns
from nightpress.pipelines.manifest.condition_values import condition_values, is_condition
from nightpress.pipelines.manifest.job_models import ModelInfos
from nightpress.pipelines.manifest.numbers import Ints
from nightpress.pipelines.manifest.rows import Rows, concat_rows, take_each
from nightpress.pipelines.manifest.types import to_text
from nightpress.pipelines.planning.coverage import covering_rows
from nightpress.pipelines.planning.image_hashes import among
from nightpress.pipelines.planning.images import expand_rows
from nightpress.pipelines.planning.layout import PlanLayout
from nightpress.pipelines.planning.parts import images_table
from nightpress.pipelines.planning.planner import Planner
from nightpress.pipelines.planning.units import RowBatch, WorkUnit, read_batches

CANDIDATES = 4_096
"""Rows that are drawn from the whole manifest, so that values can be combined freely."""

MAX_VALUES = 256
"""A column with more values is not spread over, unless the caller names it."""

MAX_COLUMNS = 64

MOSTLY_DISTINCT = frozenset({"prompt", "id", "seed"})
"""Settings that are not spread over, unless the caller names them."""


def select_images(
    spec: RunSpec,
    info: ModelInfos,
    layout: PlanLayout,
    num_images: int,
    by: Sequence[str] | None = None,
) -> pa.Table:
    """Images that show as many values of the columns as possible, in the order of the manifest.

    The same job always gives the same images, whatever its shards and batches.

    Args:
        layout: the plan, as `check` laid it out.
        num_images: how many images; all of the job's if it has fewer.
        by: the columns to spread over, as settings or under their names in the manifest; by default
            the settings except prompt, id and seed, the ways in which pictures condition images,
            and the carried columns with few values.

    Returns:
        The images as rows of a plan, with the carried columns.

    Raises:
        SpecError: the manifest has no column of a name in `by`.
        ManifestError: the manifest has changed since it was checked.
        StoreError: the manifest cannot be read.
    """
    columns = resolve_columns(spec, layout.files)
    planner = Planner(spec, info, columns)
    names = _default_columns(columns) if by is None else _named_columns(columns, by)
    candidates = _Candidates(len(names), max(CANDIDATES, 2 * num_images))
    for batch in row_batches(planner, layout):
        candidates.add(_values(batch, planner, names))
    chosen = candidates.choose(num_images, keep_all=by is not None)
    return images_of_rows(planner, layout, chosen)


def _default_columns(columns: Columns) -> list[str]:
    settings = [name for name in columns.settings if name not in MOSTLY_DISTINCT]
    if any(is_condition(name) for name in settings):
        settings.append("conditioning")  # the pictures may all differ, but the modes are few
    carried = [each.name for each in columns.carried if not pa.types.is_nested(each.type)]
    return list(dict.fromkeys([*settings, *carried]))[:MAX_COLUMNS]


def _named_columns(columns: Columns, names: Sequence[str]) -> list[str]:
    """The settings and carried columns that these names mean."""
    known = {column.column: setting for setting, column in columns.settings.items()}
    known |= {setting: setting for setting in columns.settings}
    known |= {name: each.name for each in columns.carried for name in (each.source, each.name)}
    for name in names:
        if name not in known:
            near = get_close_matches(name.lower(), known, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise SpecError(
                f"by: the manifest has no column {name!r}; {hint}"
                f"its columns are: {', '.join(columns.source_names())}"
            )
    return list(dict.fromkeys(known[name] for name in names))


def row_batches(
    planner: Planner, layout: PlanLayout, wanted: Ints | None = None
) -> Iterator[RowBatch]:
    """The rows of the manifest; only of those units that hold wanted rows, if there are any."""
    for first_row, ranges in layout.units:
        end = first_row + sum(part.num_rows for part in ranges)
        if wanted is not None and not ((wanted >= first_row) & (wanted < end)).any():
            continue
        for batch in read_batches(WorkUnit(planner, first_row, ranges), planner.columns):
            batch.problems.raise_if_any()
            yield batch


def _values(batch: RowBatch, planner: Planner, names: Sequence[str]) -> Hashes:
    """The facts of each row as 64-bit numbers; (n, 3 + columns).

    The columns are a hash of the row's number, the row's number, its images, and a number for its
    value in each column.
    """
    rows = batch.rows
    numbers = rows.numbers.astype(np.uint64)
    facts = [mix64(numbers * GOLDEN), numbers, rows.num_images.astype(np.uint64)]
    return np.stack([*facts, *(_codes(_column(batch, name)) for name in names)], axis=1)


def _column(batch: RowBatch, name: str) -> pa.Array:
    if name in batch.carried:
        return batch.carried[name]
    if is_condition(name):
        return condition_values(batch.rows, name)
    attribute = {"prompt": "prompts", "negative_prompt": "negative_prompts", "id": "ids"}
    values = getattr(batch.rows, attribute.get(name, "seeds" if name == "seed" else name))
    return pa.array(values)


def _codes(values: pa.Array) -> Hashes:
    """A number for each value; equal values have equal numbers."""
    if pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
        filled = np.array(pc.fill_null(values, 0))
        bits = filled.astype(np.float64 if filled.dtype.kind == "f" else np.int64).view(np.uint64)
        return np.where(np.array(values.is_null()), np.uint64(1), mix64(bits + GOLDEN))
    if pa.types.is_nested(values.type) or pa.types.is_binary(values.type):
        values = to_text(values.to_pylist())
    elif not pa.types.is_string(values.type):
        values = pc.cast(values, pa.string())
    return np.where(np.array(values.is_null()), np.uint64(1), hash64(pc.fill_null(values, ""), 0))


class _Candidates:
    """Rows to choose from: those drawn by the hash of their number, and the first of each value."""

    def __init__(self, num_columns: int, size: int) -> None:
        self._size = size
        self._drawn: Hashes = np.zeros((0, 3 + num_columns), np.uint64)
        self._firsts: list[list[Hashes]] = [[] for _ in range(num_columns)]
        self._seen: list[set[int]] = [set() for _ in range(num_columns)]

    def add(self, rows: Hashes) -> None:
        """Look at more rows; see `_values`."""
        both = np.concatenate([self._drawn, rows])
        self._drawn = both[np.argsort(both[:, 0], kind="stable")[: self._size]]
        for index, seen in enumerate(self._seen):
            if len(seen) <= MAX_VALUES:
                values, firsts = np.unique(rows[:, 3 + index], return_index=True)
                new = ~among(values, np.array(sorted(seen), np.uint64))
                self._firsts[index].append(rows[np.sort(firsts[new])[: MAX_VALUES + 1]])
                seen.update(values[new].tolist())

    def choose(self, count: int, keep_all: bool) -> dict[int, int]:
        """How many images of which rows to show.

        Args:
            keep_all: spread over columns with very many values as well.
        """
        kept = [
            index
            for index, seen in enumerate(self._seen)
            if len(seen) > 1 and (keep_all or len(seen) <= MAX_VALUES)
        ]
        firsts = [rows for index in kept for rows in self._firsts[index]]
        pool = np.concatenate([self._drawn, *firsts])
        pool = pool[np.unique(pool[:, 1], return_index=True)[1]]
        numbers, num_images = pool[:, 1].astype(np.int64), pool[:, 2].astype(np.int64)
        codes = np.zeros((len(pool), len(kept)), np.int64)
        for position, index in enumerate(kept):
            codes[:, position] = np.unique(pool[:, 3 + index], return_inverse=True)[1]
        chosen: dict[int, int] = {}
        for picked in covering_rows(codes, numbers, num_images, count):
            row = int(numbers[picked])
            chosen[row] = chosen.get(row, 0) + 1
        return chosen


def images_of_rows(planner: Planner, layout: PlanLayout, chosen: dict[int, int]) -> pa.Table:
    """The first images of some rows: the number of each row -> how many of its images."""
    wanted = np.array(sorted(chosen))
    parts: list[Rows] = []
    carried: list[dict[str, pa.Array]] = []
    for batch in row_batches(planner, layout, wanted):
        inside = np.flatnonzero(np.isin(batch.rows.numbers, wanted))
        if len(inside):
            parts.append(batch.rows.take(inside))
            carried.append(take_each(batch.carried, inside))
    rows = concat_rows(parts)
    joined = {name: pa.concat_arrays([each[name] for each in carried]) for name in carried[0]}
    images = expand_rows(planner, rows, joined, np.arange(len(rows)))
    counts = np.array([chosen[number] for number in rows.numbers.tolist()])
    return images_table(images).filter(pa.array(images.variants < counts[images.row_indices]))
