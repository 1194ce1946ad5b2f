"""Events that a shard reports while it is made."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import pyarrow as pa

from nightpress.pipelines.records import FailureType, ImageRecord
from nightpress.pipelines.scoring.scorer import ScorerNote


@dataclass(frozen=True)
class ShardBegun:
    """The accelerator starts on a shard."""

    shard: int


@dataclass(frozen=True)
class BatchBegun:
    """A batch is about to be sampled; only work that may end its process names its batches."""

    shard: int
    rows: tuple[int, ...]
    """Its rows, counted as in the work."""


@dataclass(frozen=True)
class BatchSampled:
    """A batch was sampled, and no image has been stored since the last event: a sign of life."""

    shard: int
    batch_s: float = field(default=0.0, compare=False)
    """Seconds that the batch took to sample."""
    scoring_s: float = field(default=0.0, compare=False)
    """Seconds that the scorers of its process have worked since the last event."""


@dataclass(frozen=True)
class BatchSplit:
    """A batch could not be sampled as a whole, so its images are sampled in smaller ones."""

    shard: int
    model: str | None
    """The name of its model; None in a job with a single one."""
    kind: str
    """The kind of its images, such as `1024x768-guided`."""
    num_images: int
    batch_size: int
    """The size that it was padded to."""
    size: int
    """The size of the smaller batches."""
    error: str
    did_not_fit: bool
    """Whether it did not fit in memory. Later batches of the kind then have the smaller size."""


@dataclass(frozen=True)
class DrawsJudged:
    """Gates have judged draws."""

    shard: int
    num_draws: int
    """Draws that count: those up to which their images are decided, or that are still open."""
    num_unused: int = 0
    """Draws that were made ahead in the room of a batch, and were not needed."""
    failed: tuple[tuple[str, int], ...] = ()
    """Condition -> draws that do not meet it."""
    rows: tuple[tuple[str, int, int], ...] = ()
    """Row id, its draws that count, and how many of them passed."""
    damaged: tuple[str, ...] = ()
    """Objects in `draws/` that are not what was written. Their draws are made again."""

    @property
    def num_passed(self) -> int:
        """Draws that count and passed."""
        return sum(passed for _, _, passed in self.rows)


@dataclass(frozen=True)
class BatchDone:
    """Some images of a shard are stored, or have failed for good."""

    shard: int
    num_ok: int
    num_failed: int
    num_sampled: int
    """How many of the images that are ok were sampled; the others were found in the store."""
    batch_s: float = field(default=0.0, compare=False)
    """Seconds that the latest batch took to sample; 0 if none was sampled. The driver adds those of
    the batches since the last such event."""
    scoring_s: float = field(default=0.0, compare=False)
    """Seconds that the scorers of its process have worked since the last event; the driver adds up
    those likewise."""
    notes: tuple[ScorerNote, ...] = ()
    """What is new about the scorers of its process."""
    num_rejected: int = 0
    """How many of the images that have failed were rejected by the job's gates."""

    @classmethod
    def of(
        cls,
        shard: int,
        records: Sequence[ImageRecord],
        batch_s: float = 0.0,
        notes: tuple[ScorerNote, ...] = (),
        scoring_s: float = 0.0,
    ) -> Self:
        """Count the records of some images."""
        return cls(
            shard=shard,
            num_ok=sum(record.status == "ok" for record in records),
            num_failed=sum(record.status == "failed" for record in records),
            num_sampled=sum(record.sampling_s is not None for record in records),
            batch_s=batch_s,
            scoring_s=scoring_s,
            notes=notes,
            num_rejected=sum(each.error_type is FailureType.REJECTED for each in records),
        )

    def after(self, batch_s: float, scoring_s: float = 0.0) -> "BatchDone":
        """The same event with the seconds of the events before."""
        return replace(self, batch_s=self.batch_s + batch_s, scoring_s=self.scoring_s + scoring_s)

    def only_sampled(self) -> "BatchDone":
        """The same event for images that a later event will count again as found in the store."""
        return replace(self, num_ok=0, num_failed=0, num_rejected=0)


@dataclass(frozen=True)
class ShardDone:
    """A shard is committed; the counts are those of the commit that won."""

    shard: int
    num_ok: int
    num_failed: int
    unmade: tuple[str, ...] = ()
    """Why rows could not be made again that the commit still holds as they were; they count as
    failed."""
    num_rejected: int = 0
    """How many of the images that have failed were rejected by the job's gates."""
    num_without_thumb: int = 0
    """Images that are ok, and whose thumbnail could not be made or stored."""
    thumb_error: str | None = None
    """Why the first of these has none."""

    @classmethod
    def of(cls, shard: int, part: pa.Table) -> Self:
        """Count the rows of a committed metadata part."""
        statuses = part.column("status").to_pylist()
        num_rejected = part.column("error_type").to_pylist().count(FailureType.REJECTED)
        counts = statuses.count("ok"), statuses.count("failed")
        return cls(shard, *counts, num_rejected=num_rejected)

    def with_thumbs(self, num_missing: int, error: str | None) -> "ShardDone":
        """The same event with images that have no thumbnail, and why the first has none."""
        return replace(self, num_without_thumb=num_missing, thumb_error=error)

    def with_unmade(self, errors: Sequence[str], num_ok: int) -> "ShardDone":
        """The same event with rows that could not be made again.

        Args:
            errors: why, for each of them.
            num_ok: how many of them are ok in the commit.
        """
        ok, failed = self.num_ok - num_ok, self.num_failed + num_ok
        return replace(self, num_ok=ok, num_failed=failed, unmade=tuple(errors))


@dataclass(frozen=True)
class ShardLeft:
    """Work on a shard stopped after a batch, on request; the images made so far are stored."""

    shard: int


ShardEvent = (
    ShardBegun
    | BatchBegun
    | BatchSampled
    | BatchSplit
    | DrawsJudged
    | BatchDone
    | ShardDone
    | ShardLeft
)
"""Any of the events."""
