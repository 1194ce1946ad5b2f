"""How the scores of a run's images are distributed, as the report shows it."""

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

MAX_VALUES = 20_000
"""Values of one score that percentiles are taken from; of more, an even sample."""

PERCENTILES = (5, 50, 95)


@dataclass(frozen=True)
class ScoreRow:
    """A row of the table of scores."""

    name: str
    num_images: str
    """Images that have the score."""
    num_missing: str
    """Images that are ok and do not."""
    lowest: str
    low: str
    """5th percentile."""
    median: str
    high: str
    """95th percentile."""
    highest: str


class ScoreTable:
    """Collects the scores of a run, shard by shard, in memory that does not grow with its images.

    Args:
        num_images: images of the run, at most.
    """

    def __init__(self, num_images: int) -> None:
        self._step = max(1, math.ceil(num_images / MAX_VALUES))
        self._num_images = 0
        self._counts: defaultdict[str, int] = defaultdict(int)
        self._ends: dict[str, tuple[float, float]] = {}
        self._values: defaultdict[str, list[NDArray[np.float64]]] = defaultdict(list)

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

    def rows(self) -> list[ScoreRow]:
        """One row for each score, in the order in which they were found."""
        return [self._row(name) for name in self._counts]

    def _row(self, name: str) -> ScoreRow:
        lowest, highest = self._ends[name]
        low, median, high = np.percentile(np.concatenate(self._values[name]), PERCENTILES)
        return ScoreRow(
            name=name,
            num_images=f"{self._counts[name]:,}",
            num_missing=f"{self._num_images - self._counts[name]:,}",
            lowest=f"{lowest:.3g}",
            low=f"{low:.3g}",
            median=f"{median:.3g}",
            high=f"{high:.3g}",
            highest=f"{highest:.3g}",
        )


def scores_text(row: dict[str, Any]) -> str:
    """`sharpness 31.2, clip 0.311`, of a metadata row; empty if it has no scores."""
    scores = (row.get("scores") or {}).items()
    return ", ".join(
        f"{name} {'none' if score is None else f'{score:.3g}'}" for name, score in scores
    )
