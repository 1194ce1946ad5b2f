"""What is tried again, how often, and how long it waits between.

Waits grow exponentially with full jitter (Brooker, "Exponential Backoff And Jitter", 2015), so
that many workers which a store turned away together do not come back together.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from random import SystemRandom
from typing import TypeVar

from nightpress.pipelines.storage.faults import driver_errors, is_passing
from nightpress.pipelines.storage.pacing import Pacer

T = TypeVar("T")


@dataclass(frozen=True)
class RetryPolicy:
    """Bounds in number and in time; whichever comes first ends it.

    As it comes, a store may be away for some minutes, whether it refuses at once or says nothing.
    """

    attempts: int = 40
    total_s: float = 300.0
    first_wait_s: float = 0.2
    longest_wait_s: float = 20.0

    def run(self, action: Callable[[], T], pacer: Pacer | None = None) -> T:
        """The result of an action that may be repeated without harm.

        Args:
            action: what is tried.
            pacer: whose turn each attempt waits for, `total_s` at most for all of them.

        Raises:
            OSError: or another of the driver's own errors: the last one that came.
        """
        deadline = time.monotonic() + self.total_s
        attempt = action if pacer is None else partial(pacer.ask, action, deadline)
        for wait_s in self._waits():
            try:
                return attempt()
            except driver_errors() as error:
                if not is_passing(error) or time.monotonic() + wait_s > deadline:
                    raise
            time.sleep(wait_s)
        return attempt()

    def _waits(self) -> Iterator[float]:
        """One wait after each attempt but the last.

        Drawn from the system, because forked workers would share a seeded generator's state.
        """
        random = SystemRandom()
        for attempt in range(self.attempts - 1):
            yield random.uniform(0, min(self.longest_wait_s, self.first_wait_s * 2**attempt))


QUICK = RetryPolicy(attempts=5, total_s=10.0)
"""For questions that a person waits for."""
