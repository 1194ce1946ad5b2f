"""What the report shows of a run's metadata, collected in one pass over the commits.

Each commit is read once, a few at a time, so memory does not grow with the number of images.
"""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nightpress.diffusion_core.theory.spacing import evenly_spaced
from nightpress.pipelines.records import python_rows
from nightpress.pipelines.run_directory.commit import commit_sizes, open_commit, summary_of
from nightpress.pipelines.run_directory.map_ahead import map_ahead
from nightpress.pipelines.run_directory.reader import READ_THREADS, Run
from nightpress.pipelines.run_directory.summary import Summary
from nightpress.pipelines.run_directory.summary_index import CommitTotals

SETTINGS = ("width", "height", "num_inference_steps", "guidance_scale", "scheduler")

SETTINGS_KEYS = [*SETTINGS, "with_loras"]
"""Columns of the table of settings that tell settings apart; `with_loras` is text."""

SETTINGS_COLUMNS = [*SETTINGS, "loras", "status", "sampling_s"]
"""Columns that the table of settings is made from; they are read from every commit."""

FAILURE_COLUMNS = ["image_id", "prompt", "error_type", "error", "attempts"]

SUMS = ["num_images", "num_failed", "sampling_s", "num_sampled"]

COMMITS_PER_SUM = 64
"""Commits whose rows are kept until they are added to the table of settings."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Limits:
    """How many rows the report shows."""

    images: int
    failures: int


@dataclass(frozen=True)
class Collected:
    """What the report shows of the metadata."""

    totals: dict[int, CommitTotals]
    """Shard -> size and totals of its commit."""
    images: list[Row]
    """Metadata rows of images that are ok, evenly spaced over the run."""
    failures: list[Row]
    """The first failed rows, in sampling order."""
    settings: list[Row]
    """`SETTINGS_KEYS` and `SUMS` of all distinct settings, those with the most images first."""


@dataclass(frozen=True)
class _Part:
    """What the report may show of one commit."""

    summary: Summary
    rows: pa.Table
    """Every row, with `SETTINGS_COLUMNS`."""
    images: list[Row]
    failures: list[Row]


def collect(run: Run, limits: Limits) -> Collected:
    """Read every commit of a run once.

    Raises:
        Damaged: a commit is not what was written.
        StoreError: the store failed.
    """
    sizes = commit_sizes(run.store)
    shown = evenly_spaced(sorted(sizes), limits.images, endpoint=False)
    images_per_shard = math.ceil(limits.images / len(shown)) if shown else 0
    num_images = dict.fromkeys(shown, images_per_shard)
    read = partial(_read_part, run, sizes, num_images, limits.failures)
    totals, images, failures = dict[int, CommitTotals](), list[Row](), list[Row]()
    settings = _SettingsTable()
    with ThreadPoolExecutor(READ_THREADS) as pool:
        parts = map_ahead(pool, read, sorted(sizes), READ_THREADS)
        for shard, part in zip(sorted(sizes), parts, strict=True):
            totals[shard] = CommitTotals(sizes[shard], part.summary)
            images += part.images
            failures += part.failures[: limits.failures - len(failures)]
            settings.add(part.rows)
    return Collected(
        totals=totals,
        images=evenly_spaced(images, limits.images, endpoint=False),
        failures=failures,
        settings=settings.most_images_first(),
    )


def _read_part(
    run: Run, sizes: dict[int, int], num_images: dict[int, int], max_failures: int, shard: int
) -> _Part:
    with open_commit(run.store, shard, sizes[shard]) as file:
        rows = file.read(SETTINGS_COLUMNS, use_threads=False)
        ok = pc.equal(rows.column("status"), "ok").to_numpy()
        most = num_images.get(shard, 0)
        images = evenly_spaced(np.flatnonzero(ok).tolist(), most, endpoint=False)
        failures = np.flatnonzero(~ok)[:max_failures].tolist()
        return _Part(
            summary_of(file),
            rows,
            _rows(file, images),
            _rows(file, failures, FAILURE_COLUMNS),
        )


def _rows(
    file: pq.ParquetFile, numbers: Sequence[int], columns: list[str] | None = None
) -> list[Row]:
    """Some rows of a commit."""
    if not numbers:
        return []
    return python_rows(file.read(columns, use_threads=False).take(pa.array(numbers)))


class _SettingsTable:
    """Sums over metadata rows, by their settings."""

    def __init__(self) -> None:
        self._rows = list[pa.Table]()
        self._sums = list[pa.Table]()

    def add(self, rows: pa.Table) -> None:
        """Add rows that have `SETTINGS_COLUMNS`."""
        self._rows.append(rows)
        if len(self._rows) == COMMITS_PER_SUM:
            self._sum()

    def most_images_first(self) -> list[Row]:
        """`SETTINGS_KEYS` and `SUMS` of all distinct settings."""
        self._sum()
        (table,) = self._sums or [pa.table({"num_images": pa.array([], pa.int64())})]
        rows: list[Row] = table.sort_by([("num_images", "descending")]).to_pylist()
        return rows

    def _sum(self) -> None:
        if self._rows:
            self._sums = [_added_up([*self._sums, _countable(pa.concat_tables(self._rows))])]
            self._rows = []


def _countable(rows: pa.Table) -> pa.Table:
    """Metadata rows as `SETTINGS_KEYS` and `SUMS` of one image each."""
    sampling_s = rows.column("sampling_s")
    columns = {name: rows.column(name) for name in SETTINGS} | {
        "with_loras": _loras_as_text(rows.column("loras").combine_chunks()),
        "num_images": pa.array(np.ones(len(rows), np.int64)),
        "num_failed": pc.cast(pc.equal(rows.column("status"), "failed"), "int64"),
        "sampling_s": sampling_s,
        "num_sampled": pc.cast(pc.is_valid(sampling_s), "int64"),
    }
    return pa.table(columns)


def _added_up(tables: Sequence[pa.Table]) -> pa.Table:
    """The sums of `SUMS` by `SETTINGS_KEYS`, over several tables."""
    grouped = pa.concat_tables(tables).group_by(SETTINGS_KEYS, use_threads=False)
    return grouped.aggregate([(name, "sum") for name in SUMS]).rename_columns(
        [*SETTINGS_KEYS, *SUMS]
    )


def _loras_as_text(loras: pa.ListArray) -> pa.Array:
    """The LoRAs of each row as `brand at 0.8, ink at 1`; (n,) string."""
    each = loras.flatten()
    scales = pc.cast(each.field("scale"), pa.string())
    texts = pc.binary_join_element_wise(each.field("name"), scales, " at ")
    starts = pc.subtract(loras.offsets, loras.offsets[0])
    return pc.binary_join(pa.ListArray.from_arrays(starts, texts), ", ")
