"""Where a worker's time goes: loading, sampling, or waiting for input or output.

A worker has exactly one activity at a time, so the activities add up to its lifetime.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum


class Activity(StrEnum):
    """What a worker is doing."""

    LOADING = "loading the model"
    COMPILING = "compiling"
    """torch.compile is compiling, in the first batch of each shape."""
    BUSY = "busy"
    """Denoising, decoding, and encoding the prompts that were not prefetched."""
    INPUT = "waiting for input"
    """Nothing to sample: there is no shard, or its plan, its stored images or the pictures of its
    next batch are still being read."""
    OUTPUT = "waiting for output"
    """Sampled images must be stored first: encoding or the store is slower than sampling."""
    SCORING = "waiting for scores"
    """Sampled images must be stored first, and the job's scorers are at work on one of them."""


IN_A_BATCH = (Activity.COMPILING, Activity.BUSY)

MAX_PAUSES = 1000
"""How many pauses between batches are kept, the latest ones, for their median."""


@dataclass(frozen=True)
class Span:
    """One stretch of time with one activity."""

    activity: Activity
    began: float
    """Seconds since the epoch."""
    seconds: float


@dataclass(frozen=True)
class TimeSpent:
    """How a worker spent its time."""

    worker: str
    """`host:pid`."""
    seconds: Mapping[Activity, float]
    spans: tuple[Span, ...]
    """The first spans, in order; empty unless the timeline keeps spans."""
    between_batches_s: tuple[float, ...] = ()
    """Pauses from the end of one batch to the start of the next, whatever their reason: the latest
    `MAX_PAUSES`."""
    num_dropped: int = 0
    """How many later spans were not kept."""


class Timeline:
    """Adds up the time that one worker spends on each activity.

    Args:
        worker: `host:pid`.
        max_spans: how many spans to keep; the sums count all of them.
        on_span: called with each span when it ends.
        clock: returns seconds since the epoch.
    """

    def __init__(
        self,
        worker: str,
        max_spans: int = 0,
        on_span: Callable[[Span], None] = lambda span: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._worker, self._max_spans = worker, max_spans
        self._on_span, self._clock = on_span, clock
        self._seconds = dict.fromkeys(Activity, 0.0)
        self._spans: list[Span] = []
        self._num_dropped = 0
        self._pauses: deque[float] = deque(maxlen=MAX_PAUSES)
        self._batch_ended: float | None = None
        self._activity, self._since = Activity.LOADING, clock()
        self._is_scoring = False
        self._lock = threading.Lock()

    def switch(self, activity: Activity) -> None:
        """End the current activity and start another."""
        with self._lock:
            self._switch(activity)

    def note_scoring(self, is_scoring: bool) -> None:
        """Note that the scorers begin or end an image, for `SCORING` in place of `OUTPUT`."""
        with self._lock:
            self._is_scoring = is_scoring
            if self._activity in (Activity.OUTPUT, Activity.SCORING):
                self._switch(Activity.OUTPUT)

    def _switch(self, activity: Activity) -> None:
        if activity is Activity.OUTPUT and self._is_scoring:
            activity = Activity.SCORING
        if activity is not self._activity:
            self._end_span(activity)

    def spent(self) -> TimeSpent:
        """How the time was spent until now."""
        with self._lock:
            self._end_span(self._activity)
            return TimeSpent(
                worker=self._worker,
                seconds=dict(self._seconds),
                spans=tuple(self._spans),
                between_batches_s=tuple(self._pauses),
                num_dropped=self._num_dropped,
            )

    def _end_span(self, following: Activity) -> None:
        now = self._clock()
        span = Span(self._activity, self._since, max(0.0, now - self._since))
        self._seconds[span.activity] += span.seconds
        if len(self._spans) < self._max_spans:
            self._spans.append(span)
        else:
            self._num_dropped += 1
        self._on_span(span)
        self._note_pause(span.activity in IN_A_BATCH, following in IN_A_BATCH, now)
        self._activity, self._since = following, now

    def _note_pause(self, was_in_a_batch: bool, is_in_a_batch: bool, now: float) -> None:
        if was_in_a_batch and not is_in_a_batch:
            self._batch_ended = now
        elif is_in_a_batch and not was_in_a_batch and self._batch_ended is not None:
            self._pauses.append(max(0.0, now - self._batch_ended))
