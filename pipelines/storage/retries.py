"""Retry store requests that fail for a transient reason.

Waits grow exponentially with full jitter (Brooker, "Exponential Backoff And Jitter", 2015), so that
workers rejected at the same moment do not all come back at the same moment.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from random import SystemRandom
from typing import TypeVar

from nightpress.pipelines.storage.faults import driver_errors, is_transient
from nightpress.pipelines.storage.pacing import Pacer

T = TypeVar("T")


@dataclass(frozen=True)
class RetryPolicy:
    """How often and how long to retry; whichever bound is reached first ends it.

    The defaults bridge an outage of some minutes, whether the store refuses or does not respond.
    """

    attempts: int = 40
    total_s: float = 300.0
    first_wait_s: float = 0.2
    longest_wait_s: float = 20.0

    def run(self, action: Callable[[], T], pacer: Pacer | None = None) -> T:
        """Run an action that can safely be repeated, and return its result.

        Args:
            action: the request.
            pacer: makes each attempt wait for its turn, at most `total_s` over all attempts.

        Raises:
            OSError: the last attempt's error, or any of the driver's own error classes.
        """
        deadline = time.monotonic() + self.total_s
        attempt = action if pacer is None else partial(pacer.run, action, deadline)
        for wait_s in self._waits():
            try:
                return attempt()
            except driver_errors() as error:
                if not is_transient(error) or time.monotonic() + wait_s > deadline:
                    raise
            time.sleep(wait_s)
        return attempt()

    def _waits(self) -> Iterator[float]:
        """The wait after each attempt but the last.

        The randomness is the system's: forked workers would share a seeded generator's state.
        """
        random = SystemRandom()
        for attempt in range(self.attempts - 1):
            yield random.uniform(0, min(self.longest_wait_s, self.first_wait_s * 2**attempt))


QUICK = RetryPolicy(attempts=5, total_s=10.0)
"""For requests that a person is waiting for."""
