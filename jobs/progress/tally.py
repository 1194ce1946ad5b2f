"""The running totals of a run, kept from its events."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from nightpress.jobs.progress.events import (
    ActorJoined,
    ActorLost,
    Event,
    Planned,
    RowSetAside,
    ShardRetried,
)
from nightpress.pipelines.run_directory.summary import PAUSE_S
from nightpress.pipelines.shards.events import BatchDone, ShardDone, ShardLeft


@dataclass
class Tally:
    """The progress of a run. An image counts once, however often its shard is tried."""

    num_images: int = 0
    num_shards: int = 0
    num_actors: int = 0
    done_before: int = 0
    clock: Callable[[], float] = time.monotonic
    num_made: int = 0
    """Images sampled and stored since this start; the others were found in the store.

    It lags behind sampling by the batches that are being stored.
    """
    committed_ok: int = 0
    committed_failed: int = 0
    """Both count shards that were committed since this start."""
    under_way: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Shard -> (ok, failed) of the attempt that is running."""
    active_s: float = 0.0
    """Seconds from the first batch of this start to the last, sampled or scored, without long
    pauses."""
    worked_at: float | None = None
    """When the last batch was reported; None before the first."""
    started_at: float = 0.0
    num_under_way: tuple[int, int] = (0, 0)
    """(ok, failed) of all shards in `under_way`, kept up to date because every event needs it."""

    def __post_init__(self) -> None:
        self.started_at = self.clock()

    def add(self, event: Event) -> None:
        """Count an event."""
        match event:
            case Planned():
                self.num_images, self.num_shards = event.num_images, event.num_shards
                self.done_before = event.num_done
            case ActorJoined() | ActorLost():
                self.num_actors = event.num_actors
            case ShardRetried() | RowSetAside() | ShardLeft():
                self._set_under_way(event.shard, None)
            case BatchDone():
                ok, failed = self.under_way.get(event.shard, (0, 0))
                self._set_under_way(event.shard, (ok + event.num_ok, failed + event.num_failed))
                self.num_made += event.num_sampled
                if event.batch_s or event.scoring_s:
                    self._add_work(event.batch_s, event.scoring_s)
            case ShardDone():
                self._set_under_way(event.shard, None)
                self.committed_ok += event.num_ok
                self.committed_failed += event.num_failed

    def _add_work(self, batch_s: float, scoring_s: float) -> None:
        """Count the time since the last batch, unless it is a pause; see `Summary.active_s`.

        Images may be scored while others are sampled, or after them.
        """
        now, last = self.clock(), self.worked_at
        is_pause = last is None or now - batch_s - scoring_s - last > PAUSE_S
        self.active_s += max(batch_s, scoring_s) if is_pause or last is None else now - last
        self.worked_at = now

    def _set_under_way(self, shard: int, counts: tuple[int, int] | None) -> None:
        """Replace a shard's counts under way; None removes them."""
        before, after = self.under_way.pop(shard, (0, 0)), counts or (0, 0)
        ok, failed = self.num_under_way
        self.num_under_way = ok - before[0] + after[0], failed - before[1] + after[1]
        if counts is not None:
            self.under_way[shard] = counts

    @property
    def num_ok(self) -> int:
        """Images that are stored, as far as this start has seen."""
        return self.committed_ok + self.num_under_way[0]

    @property
    def num_failed(self) -> int:
        """Rows that failed since this start."""
        return self.committed_failed + self.num_under_way[1]

    @property
    def num_done(self) -> int:
        """Images that are done, including those of earlier starts."""
        return self.done_before + self.num_ok + self.num_failed

    @property
    def elapsed_s(self) -> float:
        """Seconds since this start."""
        return self.clock() - self.started_at

    @property
    def images_per_s(self) -> float | None:
        """Images that this start sampled, per second of work; None in the first second.

        `RunProgress.images_per_s` is the same of the whole run, by the times in its metadata.
        """
        return self.num_made / self.active_s if self.active_s > 1.0 else None

    @property
    def left_s(self) -> float | None:
        """Seconds left at the rate so far."""
        rate = self.images_per_s
        return None if not rate else (self.num_images - self.num_done) / rate
