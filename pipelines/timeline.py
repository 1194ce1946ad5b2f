"""Where a worker's time goes: sampling, or waiting for what comes before it and after it.

At every moment a worker does exactly one of these, so that they add up to its life.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum


class Activity(StrEnum):
    """What a worker does."""

    LOADING = "loading the model"
    BUSY = "busy"
    """Encoding prompts, denoising, decoding."""
    INPUT = "waiting for input"
    """Nothing to sample: no shard, or its plan and what is stored of it are being read."""
    OUTPUT = "waiting for output"
    """What is sampled must be stored first: encoding or the store is slower than sampling."""


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
            return TimeSpent(self._worker, dict(self._seconds), tuple(self._spans))

    def _end(self, following: Activity) -> None:
        now = self._clock()
        span = Span(self._now, self._since, max(0.0, now - self._since))
        self._seconds[span.activity] += span.seconds
        if len(self._spans) < self._keep:
            self._spans.append(span)
        self._on_span(span)
        self._now, self._since = following, now
