"""How the scores of a run's images are distributed: for the report, `run` and `status`."""

import math
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nightpress.diffusion_core.theory.spacing import evenly_spaced
from nightpress.pipelines.records import SCORE_COLUMNS
from nightpress.pipelines.run_directory.commit import commit_sizes, open_commit, read_columns
from nightpress.pipelines.run_directory.late_scores import newest_parts, with_scores_of
from nightpress.pipelines.run_directory.map_ahead import map_ahead
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.storage import READ_THREADS

MAX_VALUES = 20_000
"""Values of one score that percentiles are taken from; of more, an even sample."""

PERCENTILES = (5, 50, 95)


MAX_SHARDS = 256
"""Commits that `run_scores` reads; of more, these are spread evenly over the run."""


@dataclass(frozen=True)
class ScoreSummary:
    """How one score is distributed over images that are ok."""

    name: str
    num_images: int
    """Images that have the score."""
    num_missing: int
    """Images that do not: their scorer failed on them, or has not seen them."""
    lowest: float | None = None
    low: float | None = None
    """5th percentile."""
    median: float | None = None
    high: float | None = None
    """95th percentile."""
    highest: float | None = None


@dataclass(frozen=True)
class ScoreRow:
    """A row of the table of scores, as text; see `ScoreSummary`."""

    name: str
    num_images: str
    num_missing: str
    lowest: str
    low: str
    median: str
    high: str
    highest: str

    @classmethod
    def of(cls, summary: ScoreSummary) -> Self:
        """A summary as text."""
        return cls(
            summary.name,
            f"{summary.num_images:,}",
            f"{summary.num_missing:,}",
            *(
                value_text(getattr(summary, name))
                for name in ("lowest", "low", "median", "high", "highest")
            ),
        )


@dataclass(frozen=True)
class RunScores:
    """How the scores of a run are distributed, as far as its commits were read."""

    scores: tuple[ScoreSummary, ...] = ()
    num_images: int = 0
    """Images that are ok in the commits that were read."""
    num_shards: int = 0
    """Commits that were read."""
    num_committed_shards: int = 0

    @property
    def is_sample(self) -> bool:
        """Whether there are more commits than were read."""
        return self.num_shards < self.num_committed_shards


class ScoreTable:
    """Collects the scores of a run, shard by shard, in memory that does not grow with its images.

    Args:
        num_images: images of the run, at most.
        scorers: the names of the run's scorers: each has a row, even if it has scored nothing.
    """

    def __init__(self, num_images: int, scorers: Iterable[str] = ()) -> None:
        self._scorers = tuple(scorers)
        self._step = max(1, math.ceil(num_images / MAX_VALUES))
        self._num_images = 0
        self._counts: defaultdict[str, int] = defaultdict(int)
        self._ends: dict[str, tuple[float, float]] = {}
        self._values: defaultdict[str, list[NDArray[np.float64]]] = defaultdict(list)

    @classmethod
    def of(cls, run: Run) -> Self:
        """An empty table for all images of a run."""
        return cls(run.record.layout.num_images, run.record.scorers)

    def add(self, scores: pa.ChunkedArray, num_images: int) -> None:
        """Add the scores of a shard.

        Args:
            scores: one map for each of its rows.
            num_images: how many of the rows are ok.
        """
        self._num_images += num_images
        maps = scores.combine_chunks()
        entries = pa.table({"name": maps.keys, "score": maps.items})
        entries = entries.filter(pc.is_valid(entries["score"]))
        for name in pc.unique(entries["name"]).to_pylist():
            values = entries.filter(pc.equal(entries["name"], name))["score"].to_numpy()
            low, high = self._ends.get(name, (math.inf, -math.inf))
            self._ends[name] = min(low, float(values.min())), max(high, float(values.max()))
            self._counts[name] += len(values)
            self._values[name].append(values[:: self._step])

    @property
    def num_images(self) -> int:
        """Images that are ok."""
        return self._num_images

    def rows(self) -> list[ScoreSummary]:
        """One for each score, in the order in which they were found; scorers without any last."""
        unseen = [
            name for name in self._scorers if not any(_is_of(each, name) for each in self._counts)
        ]
        missing = (ScoreSummary(name, 0, self._num_images) for name in unseen)
        return [*(self._row(name) for name in self._counts), *(missing if self._num_images else ())]

    def _row(self, name: str) -> ScoreSummary:
        lowest, highest = self._ends[name]
        low, median, high = np.percentile(np.concatenate(self._values[name]), PERCENTILES).tolist()
        num_missing = self._num_images - self._counts[name]
        return ScoreSummary(
            name, self._counts[name], num_missing, lowest, low, median, high, highest
        )


def run_scores(run: Run, max_shards: int = MAX_SHARDS) -> RunScores:
    """How the scores of a run are distributed, late ones included; reads only their column.

    Args:
        run: the run, finished or not.
        max_shards: how many commits are read at most.

    Raises:
        Damaged: a commit is not what was written.
        StoreError: the store failed.
    """
    sizes, late = commit_sizes(run.store), newest_parts(run.store)
    shards = evenly_spaced(sorted(sizes), max_shards, endpoint=False)
    table = ScoreTable(sum(map(run.record.layout.shard_images, shards)), run.record.scorers)

    def read(shard: int) -> tuple[pa.ChunkedArray, int]:
        with open_commit(run.store, shard, sizes[shard]) as file:
            rows = read_columns(file, ["status", "sha256", *SCORE_COLUMNS])
        num_ok = pc.sum(pc.equal(rows["status"], "ok")).as_py() or 0
        return with_scores_of(run.store, rows, late.get(shard))["scores"], num_ok

    with ThreadPoolExecutor(READ_THREADS) as pool:
        for scores, num_ok in map_ahead(pool, read, shards, READ_THREADS):
            table.add(scores, num_ok)
    return RunScores(tuple(table.rows()), table.num_images, len(shards), len(sizes))


def value_text(value: float | None) -> str:
    """Three significant digits; empty without a value."""
    return "" if value is None else f"{value:.3g}"


def _is_of(name: str, scorer: str) -> bool:
    """Whether a score, such as `kind.cat`, is one of a scorer."""
    return name == scorer or name.startswith(f"{scorer}.")


def scores_text(row: dict[str, Any]) -> str:
    """`sharpness 31.2, clip 0.311`, of a metadata row; empty if it has no scores."""
    scores = (row.get("scores") or {}).items()
    return ", ".join(
        f"{name} {'none' if score is None else f'{score:.3g}'}" for name, score in scores
    )
