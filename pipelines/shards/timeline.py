"""Where a worker's time goes: sampling, or waiting for what comes before it and after it.

At every moment a worker does exactly one of these, so that they add up to its life.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum


class Activity(StrEnum):
    """What a worker does."""

    LOADING = "loading the model"
    COMPILING = "compiling"
    """torch.compile at work, at the first batch of each shape."""
    BUSY = "busy"
    """Denoising, decoding, and encoding those prompts that were not encoded ahead."""
    INPUT = "waiting for input"
    """Nothing to sample: no shard, or its plan and what is stored of it are being read."""
    OUTPUT = "waiting for output"
    """What is sampled must be stored first: encoding or the store is slower than sampling."""


IN_A_BATCH = (Activity.COMPILING, Activity.BUSY)

KEPT_PAUSES = 1000
"""Of the latest between batches, for their median."""


@dataclass(frozen=True)
class Span:
    """One stretch of time."""

    activity: Activity
    began: float
    """Seconds since the epoch."""
    seconds: float


@dataclass(frozen=True)
class TimeSpent:
    """What a worker did with its time."""

    worker: str
    """`host:pid`."""
    seconds: Mapping[Activity, float]
    spans: tuple[Span, ...]
    """The first of them, in order; none unless they were asked for."""
    between_batches_s: tuple[float, ...] = ()
    """From the end of one batch to the beginning of the next, whatever was waited for; the latest
    `KEPT_PAUSES`."""
    num_dropped: int = 0
    """Spans that came after those that were kept."""


class Timeline:
    """Adds up the time of one worker.

    Args:
        worker: `host:pid`.
        keep: how many spans are kept; the sums are of all.
        on_span: called with each span that ends.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        worker: str,
        keep: int = 0,
        on_span: Callable[[Span], None] = lambda span: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._worker, self._keep, self._on_span, self._clock = worker, keep, on_span, clock
        self._seconds = dict.fromkeys(Activity, 0.0)
        self._spans: list[Span] = []
        self._num_dropped = 0
        self._pauses: deque[float] = deque(maxlen=KEPT_PAUSES)
        self._batch_ended: float | None = None
        self._now, self._since = Activity.LOADING, clock()
        self._lock = threading.Lock()

    def switch(self, activity: Activity) -> None:
        """From now on it does this."""
        with self._lock:
            if activity is not self._now:
                self._end(activity)

    def spent(self) -> TimeSpent:
        """Until now."""
        with self._lock:
            self._end(self._now)
            return TimeSpent(
                worker=self._worker,
                seconds=dict(self._seconds),
                spans=tuple(self._spans),
                between_batches_s=tuple(self._pauses),
                num_dropped=self._num_dropped,
            )

    def _end(self, following: Activity) -> None:
        now = self._clock()
        span = Span(self._now, self._since, max(0.0, now - self._since))
        self._seconds[span.activity] += span.seconds
        if len(self._spans) < self._keep:
            self._spans.append(span)
        else:
            self._num_dropped += 1
        self._on_span(span)
        self._note_pause(span.activity in IN_A_BATCH, following in IN_A_BATCH, now)
        self._now, self._since = following, now

    def _note_pause(self, was_in_a_batch: bool, is_in_a_batch: bool, now: float) -> None:
        if was_in_a_batch and not is_in_a_batch:
            self._batch_ended = now
        elif is_in_a_batch and not was_in_a_batch and self._batch_ended is not None:
            self._pauses.append(max(0.0, now - self._batch_ended))
