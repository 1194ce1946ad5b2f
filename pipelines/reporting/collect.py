"""What the report shows of a run's metadata, collected in one pass over the commits.

Each commit is read once, a few at a time, so memory does not grow with the number of images.
"""

import math
from collections import Counter
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
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.planning.later_names import with_carried_renamed
from nightpress.pipelines.records import (
    ADDED_TO_METADATA,
    SCORE_COLUMNS,
)
from nightpress.pipelines.reporting.scores import RunScores, ScoreSummary, ScoreTable
from nightpress.pipelines.run_directory.commit import (
    commit_sizes,
    open_commit,
    read_columns,
    summary_of,
)
from nightpress.pipelines.run_directory.late_scores import (
    LatePart,
    newest_parts,
    with_scores_of,
)
from nightpress.pipelines.run_directory.map_ahead import map_ahead
from nightpress.pipelines.run_directory.metadata_rows import metadata_rows
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.run_directory.summary import Summary
from nightpress.pipelines.run_directory.summary_index import CommitTotals
from nightpress.pipelines.storage import READ_THREADS

SETTINGS = (
    *("width", "height", "num_inference_steps", "guidance_scale", "scheduler"),
    *("mode", "strength"),
)

ADAPTERS = ("loras", "controlnets", "references")

SETTINGS_KEYS = [*SETTINGS, *(f"with_{name}" for name in ADAPTERS)]
"""Columns of the table of settings that tell settings apart; `with_loras` is text."""

SETTINGS_COLUMNS = [*SETTINGS, *ADAPTERS, "status", "error_type", "sampling_s", "draws"]
"""Columns that the table of settings is made from; they are read from every commit."""

FAILURE_COLUMNS = ["image_id", "prompt", "error_type", "error", "attempts"]

CUT_COLUMNS = ["image_id", "prompt_cut", "negative_prompt_cut"]

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
    images: list[tuple[int, Row]]
    """Shard and metadata row of images that are ok, evenly spaced over the run."""
    failures: list[Row]
    """The first failed rows, in sampling order."""
    failure_counts: dict[str, int]
    """Error type -> images that failed with it, over the whole run."""
    settings: list[Row]
    """`SETTINGS_KEYS` and `SUMS` of all distinct settings, those with the most images first."""
    num_cut: int
    """Images of which the end of a prompt was cut."""
    cut: list[Row]
    """`CUT_COLUMNS` of the first of them."""
    scores: list[ScoreSummary]
    num_draws: int = 0
    """Draws that were considered, over the whole run."""

    @property
    def run_scores(self) -> RunScores:
        """How the scores are distributed, in all commits."""
        num_ok = sum(each.summary.num_ok for each in self.totals.values())
        num_shards = len(self.totals)
        return RunScores(tuple(self.scores), num_ok, num_shards, num_shards)


@dataclass(frozen=True)
class _Part:
    """What the report may show of one commit."""

    summary: Summary
    rows: pa.Table
    """Every row, with `SETTINGS_COLUMNS`."""
    images: list[Row]
    failures: list[Row]
    num_cut: int
    cut: list[Row]
    scores: pa.ChunkedArray
    """The scores of every row."""


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
    late = newest_parts(run.store)
    read = partial(_read_part, run, sizes, late, num_images, limits.failures)
    totals, images = dict[int, CommitTotals](), list[tuple[int, Row]]()
    failures, num_cut, cut = list[Row](), 0, list[Row]()
    failure_counts, num_draws = Counter[str](), 0
    settings, scores = _SettingsTable(), ScoreTable.of(run)
    with ThreadPoolExecutor(READ_THREADS) as pool:
        parts = map_ahead(pool, read, sorted(sizes), READ_THREADS)
        for shard, part in zip(sorted(sizes), parts, strict=True):
            totals[shard] = CommitTotals(sizes[shard], part.summary)
            images += [(shard, row) for row in part.images]
            failures += part.failures[: limits.failures - len(failures)]
            num_cut += part.num_cut
            cut += part.cut[: limits.failures - len(cut)]
            failure_counts.update(part.rows.column("error_type").drop_null().to_pylist())
            num_draws += pc.sum(part.rows.column("draws")).as_py() or 0
            settings.add(part.rows)
            scores.add(part.scores, part.summary.num_ok)
    return Collected(
        totals=totals,
        images=evenly_spaced(images, limits.images, endpoint=False),
        failures=failures,
        failure_counts=dict(failure_counts),
        settings=settings.most_images_first(),
        num_cut=num_cut,
        cut=cut,
        scores=scores.rows(),
        num_draws=num_draws,
    )


def _may_cut(spec: RunSpec) -> bool:
    return any(model.prompts.long == "cut" for model in spec.every_model)


def _read_part(
    run: Run,
    sizes: dict[int, int],
    late: dict[int, LatePart],
    num_images: dict[int, int],
    max_failures: int,
    shard: int,
) -> _Part:
    with open_commit(run.store, shard, sizes[shard]) as file:
        rows = read_columns(file, SETTINGS_COLUMNS)
        ok = pc.equal(rows.column("status"), "ok").to_numpy()
        most = num_images.get(shard, 0)
        images = evenly_spaced(np.flatnonzero(ok).tolist(), most, endpoint=False)
        failures = np.flatnonzero(~ok)[:max_failures].tolist()
        cut = _cut_rows(file) if _may_cut(run.spec) else []
        scored = read_columns(file, ["sha256", *SCORE_COLUMNS])
        scored = with_scores_of(run.store, scored, late.get(shard))
        scores = scored["scores"]
        return _Part(
            summary_of(file),
            rows,
            _with_scores(_rows(file, images), scores.take(pa.array(images, pa.int64()))),
            _rows(file, failures, FAILURE_COLUMNS),
            len(cut),
            cut[:max_failures],
            scores,
        )


def _with_scores(rows: list[Row], scores: pa.ChunkedArray) -> list[Row]:
    """Rows with these scores, which may have come later than the commit."""
    found = scores.to_pylist(maps_as_pydicts="lossy")
    return [row | {"scores": each} for row, each in zip(rows, found, strict=True)]


def _cut_rows(file: pq.ParquetFile) -> list[Row]:
    """`CUT_COLUMNS` of the images of a commit whose prompts were cut."""
    rows = read_columns(file, CUT_COLUMNS)
    cut = pc.or_(*(pc.is_valid(rows.column(name)) for name in CUT_COLUMNS[1:]))
    found: list[Row] = rows.filter(cut).to_pylist()
    return found


def _rows(
    file: pq.ParquetFile, numbers: Sequence[int], columns: list[str] | None = None
) -> list[Row]:
    """Some rows of a commit."""
    if not numbers:
        return []
    table = file.read(columns, use_threads=False).take(pa.array(numbers))
    return metadata_rows(with_carried_renamed(table, ADDED_TO_METADATA))


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
        **{f"with_{name}": _as_text(rows.column(name).combine_chunks()) for name in ADAPTERS},
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


def _as_text(adapters: pa.ListArray) -> pa.Array:
    """The LoRAs or other adapters of each row as `brand at 0.8, ink at 1`; (n,) string."""
    each = adapters.flatten()
    scales = pc.cast(each.field("scale"), pa.string())
    texts = pc.binary_join_element_wise(each.field("name"), scales, " at ")
    starts = pc.subtract(adapters.offsets, adapters.offsets[0])
    return pc.binary_join(pa.ListArray.from_arrays(starts, texts), ", ")
