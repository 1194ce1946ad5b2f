"""Totals of the metadata rows of a shard, or of a run: counts, bytes, and when it was sampling.

Each commit holds the totals of its shard in the footer of its Parquet file, so the progress of a
run can be read without its rows.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nightpress.pipelines.records import FailureType

SUMMARY_COLUMNS = ("status", "error_type", "num_bytes", "started_at", "sampling_s", "scoring_s")
"""The metadata columns that a summary is made from."""

PAUSE_S = 60.0
"""A longer time without work is a pause between two starts of a run, and does not count."""

Interval = tuple[float, float]
"""Start and end in seconds since the epoch."""


@dataclass(frozen=True)
class Summary:
    """Totals over metadata rows."""

    num_ok: int = 0
    num_failed: int = 0
    num_bytes: int = 0
    """Size of the image files that are ok."""
    num_sampled: int = 0
    """Images that were sampled; an image found in the store was not."""
    sampling: tuple[Interval, ...] = ()
    """When images were being sampled or scored, in order; gaps of up to `PAUSE_S` are bridged."""
    num_rejected: int = 0
    """How many of the images that have failed were rejected by the job's gates."""

    @classmethod
    def of(cls, rows: pa.Table) -> Self:
        """Summarise rows, given at least their `SUMMARY_COLUMNS`."""
        num_ok = pc.sum(pc.equal(rows.column("status"), "ok")).as_py() or 0
        rejected = pc.equal(rows.column("error_type"), str(FailureType.REJECTED))
        batches = _sampled_batches(rows)
        starts = batches.column("started_at").to_numpy()
        seconds = pc.add(batches.column("sampling_s_sum"), batches.column("scoring_s_sum"))
        ends = starts + seconds.to_numpy()
        return cls(
            num_ok=num_ok,
            num_failed=rows.num_rows - num_ok,
            num_bytes=pc.sum(rows.column("num_bytes")).as_py() or 0,
            num_sampled=pc.sum(batches.column("sampling_s_count")).as_py() or 0,
            sampling=_merged(starts, ends),
            num_rejected=pc.sum(rejected).as_py() or 0,
        )

    @classmethod
    def total(cls, summaries: Iterable["Summary"]) -> Self:
        """Add summaries up."""
        num_ok = num_failed = num_bytes = num_sampled = num_rejected = 0
        intervals: list[Interval] = []
        for each in summaries:
            num_ok += each.num_ok
            num_failed += each.num_failed
            num_bytes += each.num_bytes
            num_sampled += each.num_sampled
            num_rejected += each.num_rejected
            intervals += each.sampling
        starts, ends = np.array(intervals, np.float64).reshape(-1, 2).T
        sampling = _merged(starts, ends)
        return cls(num_ok, num_failed, num_bytes, num_sampled, sampling, num_rejected)

    @property
    def active_s(self) -> float:
        """Seconds in which images were being sampled or scored anywhere, with gaps of up to
        `PAUSE_S`."""
        return sum(end - start for start, end in self.sampling)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values; those of a run without gates are as in older versions."""
        values = dict(vars(self))  # not asdict, which copies every interval of 100,000 commits
        if not self.num_rejected:
            del values["num_rejected"]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `as_dict`.

        Raises:
            TypeError, ValueError, KeyError: these are not the values of a summary.
        """
        sampling = tuple((begin, end) for begin, end in values["sampling"])
        return cls(**{**values, "sampling": sampling})


def _sampled_batches(rows: pa.Table) -> pa.Table:
    """Start, images, and seconds of sampling and scoring of each sampled batch.

    The rows of a batch share the time of its start.
    """
    started_s = pc.divide(pc.cast(rows.column("started_at").cast("int64"), "float64"), 1e6)
    scoring_s = pc.fill_null(_scoring_s(rows), 0.0)
    table = pa.table(
        {"started_at": started_s, "sampling_s": rows.column("sampling_s"), "scoring_s": scoring_s}
    )
    sampled = table.filter(pc.is_valid(table.column("sampling_s")))
    return sampled.group_by("started_at", use_threads=False).aggregate(
        [("sampling_s", "sum"), ("sampling_s", "count"), ("scoring_s", "sum")]
    )


def _scoring_s(rows: pa.Table) -> pa.ChunkedArray:
    """(n,) what scoring took, which parts of older versions do not have."""
    if "scoring_s" in rows.column_names and rows.schema.field("scoring_s").type == pa.float64():
        return rows.column("scoring_s")
    return pa.chunked_array([pa.nulls(len(rows), pa.float64())])


def _merged(starts: NDArray[np.float64], ends: NDArray[np.float64]) -> tuple[Interval, ...]:
    """Intervals in order, merged where they overlap or no more than `PAUSE_S` lies between them."""
    if not len(starts):
        return ()
    order = np.argsort(starts)
    starts = starts[order]
    reached = np.maximum.accumulate(ends[order])
    pauses = np.flatnonzero(starts[1:] - reached[:-1] > PAUSE_S)
    first, last = starts[np.append(0, pauses + 1)], reached[np.append(pauses, len(starts) - 1)]
    return tuple(zip(first.tolist(), last.tolist(), strict=True))
