"""How fast a process asks a store that throttles: all of its threads together, each in its turn.

Until a store says that it is asked too much (503, 429, SlowDown), nobody waits. Then the rate
falls at each throttle and rises slowly in between: additive increase, multiplicative decrease, by
which many that know nothing of each other come to share a limit fairly (Chiu and Jain, Analysis
of the Increase and Decrease Algorithms for Congestion Avoidance, 1989).

Knows nothing of what is asked.
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

CEILING = "requests_per_s"
"""The name of the option, among those of a protocol, that says how fast a process may ask."""

LOWEST_CEILING, HIGHEST_CEILING = 0.1, 1_000_000

FALL = 0.8
"""What a throttle leaves of the rate."""

WON_BACK_S = 10.0
"""How long it takes until the rate is what it was before it fell."""

CALM_S = 30.0
"""So long after the last throttle, nobody waits any more."""

FIRST_RATE = 20.0
"""Whoever was asking more slowly is taken to have asked so fast: one throttle may be by chance."""

LOWEST_RATE = 5.0
"""Below it, the growing waits between attempts do what is left to do."""

WINDOW_S = 0.25
"""Over which one looks how fast requests went out."""

SLACK_S = 0.02
"""So much time is made up for by who wakes up late."""

LONGEST_PAUSE_S = 30.0
"""What a store can ask for with `Retry-After`, at most."""


def ceiling_of(options: Mapping[str, Any]) -> float:
    """The most requests a second that a protocol's options allow; infinite if they do not say.

    Raises:
        ValueError: no such number.
    """
    value = options.get(CEILING)
    if value is None:
        return math.inf
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not LOWEST_CEILING <= value <= HIGHEST_CEILING:
        allowed = f"from {LOWEST_CEILING} to {HIGHEST_CEILING:,}"
        raise ValueError(f"{CEILING}: {value!r} is no number {allowed}")
    return float(value)


def driver_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """A protocol's options without ours."""
    return {name: value for name, value in options.items() if name != CEILING}


class Recent:
    """How many requests a second went out lately: a window that slides."""

    def __init__(self) -> None:
        self._start = -math.inf
        self._before = self._current = 0

    def count(self, moment: float) -> None:
        """One goes out."""
        self._move(moment)
        self._current += 1

    def per_s(self, moment: float) -> float:
        """As of now; of a window that has only begun, by what there is of it."""
        self._move(moment)
        gone_s = moment - self._start
        if not self._before:
            return self._current / max(gone_s, WINDOW_S / 5)
        return (self._before * (1 - gone_s / WINDOW_S) + self._current) / WINDOW_S

    def _move(self, moment: float) -> None:
        gone_s = moment - self._start
        if gone_s >= 2 * WINDOW_S:
            self._start, self._before, self._current = moment, 0, 0
        elif gone_s >= WINDOW_S:
            self._start, self._before, self._current = self._start + WINDOW_S, self._current, 0


class Rate:
    """The arithmetic of pacing. All moments are those of one clock, in seconds.

    In any t seconds at most `ceiling * (t + SLACK_S) + 1` requests go out.
    """

    def __init__(self, ceiling: float = math.inf) -> None:
        self._ceiling = ceiling
        self._recent = Recent()
        self._next = self._fell_at = -math.inf
        self._fallen = self._slope = 0.0

    def at(self, moment: float) -> float:
        """Requests a second that are allowed."""
        since_s = moment - self._fell_at
        if since_s >= CALM_S:
            return self._ceiling
        return min(self._ceiling, self._fallen + self._slope * since_s)

    def wait_s(self, moment: float) -> float:
        """How long the next request has to wait from now on."""
        return max(0.0, self._next - moment)

    def send(self, moment: float) -> None:
        """A request goes out."""
        self._recent.count(moment)
        self._next = max(self._next, moment - SLACK_S) + 1 / self.at(moment)

    def throttled(self, moment: float, sent_at: float, pause_s: float = 0.0) -> None:
        """The store has turned a request away.

        Of all that were on their way when the rate fell, none makes it fall again.

        Args:
            sent_at: when the request went out.
            pause_s: what the store asks for before the next.
        """
        self._next = max(self._next, moment + min(pause_s, LONGEST_PAUSE_S))
        if sent_at <= self._fell_at:
            return
        asked = max(self._recent.per_s(moment), FIRST_RATE)
        before = min(self.at(moment), asked)
        self._fallen = max(before * FALL, min(before, LOWEST_RATE))
        self._slope = before * (1 - FALL) / WON_BACK_S
        self._fell_at = moment


class Line:
    """Threads that wait for their turns, in the order in which they came."""

    def __init__(self, rate: Rate, clock: Callable[[], float]) -> None:
        self._rate, self._clock = rate, clock
        self._moved = threading.Condition()
        self._waiting: deque[object] = deque()

    def turn(self, until: float) -> float:
        """Return when a request may go out; returns that moment.

        Raises:
            TimeoutError: its turn did not come by a moment of the clock.
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
        """A request that went out then was turned away."""
        with self._moved:
            self._rate.throttled(self._clock(), sent_at, pause_s)
            self._moved.notify_all()

    @property
    def rate(self) -> float:
        """Requests a second that are allowed now."""
        with self._moved:
            return self._rate.at(self._clock())

    def _wait(self, me: object, until: float) -> float:
        while True:
            moment = self._clock()
            is_first = self._waiting[0] is me
            wait_s = self._rate.wait_s(moment) if is_first else math.inf
            if wait_s <= 0:
                self._rate.send(moment)
                return moment
            if moment >= until:
                paced = f"{self._rate.at(moment):.3g} requests a second"
                raise TimeoutError(f"no turn in time: the store throttles, it is asked for {paced}")
            self._moved.wait(min(wait_s, until - moment))


class Pacer:
    """The pace of one process at one store; safe among threads and forks.

    Args:
        ceiling: requests a second that are never exceeded, whatever the store says.
        clock: as of `time.monotonic`.
    """

    def __init__(
        self, ceiling: float = math.inf, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ceiling, self._clock = ceiling, clock
        self._lines: dict[int, Line] = {}

    @property
    def rate(self) -> float:
        """Requests a second that are allowed now; infinite when nobody waits."""
        return self._line.rate

    def ask(self, action: Callable[[], T], until: float) -> T:
        """Ask the store in turn, and take note if it throttles.

        Args:
            action: one request, or a few that belong together and count as one.
            until: the moment of the clock after which nobody waits for the turn.

        Raises:
            TimeoutError: the turn did not come in time; nothing was asked.
            OSError: or another of the driver's errors: the action's own.
        """
        sent_at = self._line.turn(until)
        try:
            return action()
        except driver_errors() as error:
            if is_throttle(error):
                self._line.throttled(sent_at, retry_after_s(error))
            raise

    @property
    def _line(self) -> Line:
        """One a process: those who wait in a line that a fork inherits are elsewhere."""
        pid = os.getpid()
        return self._lines.get(pid) or self._lines.setdefault(
            pid, Line(Rate(self._ceiling), self._clock)
        )
