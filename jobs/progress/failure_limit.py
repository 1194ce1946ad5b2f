"""The failure limit: a run in which too many rows fail is stopped early."""

from collections import Counter

from nightpress.jobs.progress.events import Event, RowSetAside, ShardRetried
from nightpress.pipelines.shards.events import BatchDone, ShardDone, ShardLeft

MIN_DONE = 50
"""Images that must be done before a limit in percent applies."""


class FailureLimit:
    """Counts the failed images of one start. A row counts once, however often it is tried.

    Images that gates reject do not count: whether there are too many is decided by their draws.

    Args:
        limit: a number of failed images, a share of all that are done such as `5%`, or None.
    """

    def __init__(self, limit: int | str | None) -> None:
        self._limit = limit
        self._num_ok = self._num_failed = 0
        """Images of committed shards."""
        self._under_way_ok: Counter[int] = Counter()
        self._under_way_failed: Counter[int] = Counter()
        """Shard -> images of the attempt that is running."""
        self._set_aside: Counter[int] = Counter()
        """Shard -> rows that are not tried again; the shard's last attempt counts them too."""

    def add(self, event: Event) -> None:
        """Count an event."""
        match event:
            case BatchDone():
                self._under_way_ok[event.shard] += event.num_ok
                self._under_way_failed[event.shard] += event.num_failed - event.num_rejected
            case ShardRetried() | ShardLeft():
                self._forget_attempt(event.shard)
            case RowSetAside():
                self._forget_attempt(event.shard)
                self._set_aside[event.shard] += 1
            case ShardDone():
                self._forget_attempt(event.shard)
                del self._set_aside[event.shard]
                self._num_ok += event.num_ok
                self._num_failed += event.num_failed - event.num_rejected

    @property
    def exceeded(self) -> str | None:
        """Why the run should stop; None if it should not."""
        if self._limit is None:
            return None
        num_failed = self._num_failed + (self._under_way_failed | self._set_aside).total()
        num_done = self._num_ok + self._under_way_ok.total() + num_failed
        match self._limit:
            case int(most):
                over = num_failed > most
            case text:
                share = float(text.removesuffix("%")) / 100
                over = num_done >= MIN_DONE and num_failed > share * num_done
        if not over:
            return None
        return (
            f"{num_failed:,} of {num_done:,} images failed, and max_failures is {self._limit}; "
            "a higher limit lets the run go on"
        )

    def _forget_attempt(self, shard: int) -> None:
        """Drop an attempt's counts: the next attempt counts its stored images again, as found."""
        del self._under_way_ok[shard], self._under_way_failed[shard]
