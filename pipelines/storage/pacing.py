"""Limit the rate at which one process, over all its threads, sends requests to a store.

Until a store throttles (503, 429, SlowDown), no request waits. After that the rate falls at each
throttle and rises slowly in between. With additive increase and multiplicative decrease (AIMD),
independent clients converge on a fair share of a limit (Chiu and Jain, Analysis of the Increase and
Decrease Algorithms for Congestion Avoidance, 1989).
"""

import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from nightpress.pipelines.storage.faults import driver_errors, is_throttle, retry_after_s

T = TypeVar("T")

REQUEST_LIMIT_OPTION = "requests_per_s"
"""The storage option, beside a protocol's fsspec options, that limits a process's request rate."""

MIN_REQUEST_LIMIT, MAX_REQUEST_LIMIT = 0.1, 1_000_000

DECREASE_FACTOR = 0.8
"""A throttle multiplies the rate by this."""

RECOVERY_S = 10.0
"""How long the rate takes to return to what it was before a throttle."""

CALM_S = 30.0
"""This long after the last throttle, requests no longer wait."""

ASSUMED_RATE = 20.0
"""A throttle at a lower measured rate counts as one at this rate, since it may be a coincidence."""

MIN_RATE = 5.0
"""The rate falls no lower; the growing waits between retries then slow the process down further."""

WINDOW_S = 0.25
"""The window over which the current request rate is measured."""

SLACK_S = 0.02
"""How much time a thread that wakes up late may make up for."""

MAX_PAUSE_S = 30.0
"""The longest `Retry-After` that is honoured."""


def request_limit(options: Mapping[str, Any]) -> float:
    """The most requests a second that a protocol's options allow; infinite unless set.

    Raises:
        ValueError: the option is not a number in range.
    """
    value = options.get(REQUEST_LIMIT_OPTION)
    if value is None:
        return math.inf
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not MIN_REQUEST_LIMIT <= value <= MAX_REQUEST_LIMIT:
        allowed = f"from {MIN_REQUEST_LIMIT} to {MAX_REQUEST_LIMIT:,}"
        raise ValueError(f"{REQUEST_LIMIT_OPTION}: {value!r} is not a number {allowed}")
    return float(value)


def driver_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """A protocol's options without the request limit, which is nightpress's own."""
    return {name: value for name, value in options.items() if name != REQUEST_LIMIT_OPTION}


class RequestWindow:
    """A sliding window that measures how many requests a second were sent recently."""

    def __init__(self) -> None:
        self._start = -math.inf
        self._before = self._current = 0

    def count(self, moment: float) -> None:
        """Count a request that is sent now."""
        self._move(moment)
        self._current += 1

    def per_s(self, moment: float) -> float:
        """The recent rate; early in the first window, over the time that has passed."""
        self._move(moment)
        elapsed_s = moment - self._start
        if not self._before:
            return self._current / max(elapsed_s, WINDOW_S / 5)
        return (self._before * (1 - elapsed_s / WINDOW_S) + self._current) / WINDOW_S

    def _move(self, moment: float) -> None:
        elapsed_s = moment - self._start
        if elapsed_s >= 2 * WINDOW_S:
            self._start, self._before, self._current = moment, 0, 0
        elif elapsed_s >= WINDOW_S:
            self._start, self._before, self._current = self._start + WINDOW_S, self._current, 0


class AdaptiveRate:
    """The AIMD rate. All moments are in seconds of one clock.

    In any t seconds at most `limit * (t + SLACK_S) + 1` requests are sent.
    """

    def __init__(self, limit: float = math.inf) -> None:
        self._limit = limit
        self._recent = RequestWindow()
        self._next = self._fell_at = -math.inf
        self._fallen = self._slope = 0.0

    def at(self, moment: float) -> float:
        """The requests a second allowed at a moment."""
        since_s = moment - self._fell_at
        if since_s >= CALM_S:
            return self._limit
        return min(self._limit, self._fallen + self._slope * since_s)

    def wait_s(self, moment: float) -> float:
        """How long the next request must wait."""
        return max(0.0, self._next - moment)

    def send(self, moment: float) -> None:
        """Record that a request is sent."""
        self._recent.count(moment)
        self._next = max(self._next, moment - SLACK_S) + 1 / self.at(moment)

    def throttled(self, moment: float, sent_at: float, pause_s: float = 0.0) -> None:
        """Lower the rate because the store rejected a request.

        Requests that were already in flight when the rate last fell do not lower it again.

        Args:
            sent_at: when the rejected request was sent.
            pause_s: how long the store asks to wait before the next request.
        """
        self._next = max(self._next, moment + min(pause_s, MAX_PAUSE_S))
        if sent_at <= self._fell_at:
            return
        measured = max(self._recent.per_s(moment), ASSUMED_RATE)
        before = min(self.at(moment), measured)
        self._fallen = max(before * DECREASE_FACTOR, min(before, MIN_RATE))
        self._slope = before * (1 - DECREASE_FACTOR) / RECOVERY_S
        self._fell_at = moment


class RequestQueue:
    """Threads waiting to send a request, first come, first served."""

    def __init__(self, rate: AdaptiveRate, clock: Callable[[], float]) -> None:
        self._rate, self._clock = rate, clock
        self._moved = threading.Condition()
        self._waiting: deque[object] = deque()

    def wait_for_turn(self, until: float) -> float:
        """Block until a request may be sent; returns that moment.

        Raises:
            TimeoutError: the turn did not come by `until`, a moment of the clock.
        """
        me = object()
        with self._moved:
            self._waiting.append(me)
            try:
                return self._wait(me, until)
            finally:
                self._waiting.remove(me)
                self._moved.notify_all()

    def throttled(self, sent_at: float, pause_s: float) -> None:
        """Lower the rate because a request sent at `sent_at` was rejected."""
        with self._moved:
            self._rate.throttled(self._clock(), sent_at, pause_s)
            self._moved.notify_all()

    def _wait(self, me: object, until: float) -> float:
        while True:
            moment = self._clock()
            is_first = self._waiting[0] is me
            wait_s = self._rate.wait_s(moment) if is_first else math.inf
            if wait_s <= 0:
                self._rate.send(moment)
                return moment
            if moment >= until:
                raise TimeoutError(
                    "no request could be sent in time: the store is throttling, and the rate has "
                    f"fallen to {self._rate.at(moment):.3g} requests a second"
                )
            self._moved.wait(min(wait_s, until - moment))


class Pacer:
    """Limits one process's requests to one store; safe to share between threads and across forks.

    Args:
        limit: the most requests a second, even when the store does not throttle.
        clock: seconds, like `time.monotonic`.
    """

    def __init__(
        self, limit: float = math.inf, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit, self._clock = limit, clock
        self._queues: dict[int, RequestQueue] = {}

    def run(self, action: Callable[[], T], until: float) -> T:
        """Run a request when its turn comes, and lower the rate if the store throttles.

        Args:
            action: one request, or a few that belong together and count as one.
            until: the moment of the clock at which to stop waiting for the turn.

        Raises:
            TimeoutError: the turn did not come in time; nothing was sent.
            OSError: from the action, as any of the driver's own errors.
        """
        sent_at = self._queue.wait_for_turn(until)
        try:
            return action()
        except driver_errors() as error:
            if is_throttle(error):
                self._queue.throttled(sent_at, retry_after_s(error))
            raise

    @property
    def _queue(self) -> RequestQueue:
        """This process's queue; the threads that wait in an inherited one are the parent's."""
        pid = os.getpid()
        return self._queues.get(pid) or self._queues.setdefault(
            pid, RequestQueue(AdaptiveRate(self._limit), self._clock)
        )
