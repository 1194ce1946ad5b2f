"""What is tried again, how often, and how long it waits between.

Waits grow exponentially with full jitter (Brooker, "Exponential Backoff And Jitter", 2015), so
that many workers which a store turned away together do not come back together.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import SystemRandom
from typing import TypeVar

from pipelines.storage.faults import driver_errors, is_passing

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

    def run(self, action: Callable[[], T]) -> T:
        """The result of an action that may be repeated without harm.

        Raises:
            OSError: or another of the driver's own errors: the last one that came.
        """
        deadline = time.monotonic() + self.total_s
        for wait_s in self._waits():
            try:
                return action()
            except driver_errors() as error:
                if not is_passing(error) or time.monotonic() + wait_s > deadline:
                    raise
            time.sleep(wait_s)
        return action()

    def _waits(self) -> Iterator[float]:
        """One wait after each attempt but the last.

        Drawn from the system, because forked workers would share a seeded generator's state.
        """
        random = SystemRandom()
        for attempt in range(self.attempts - 1):
            yield random.uniform(0, min(self.longest_wait_s, self.first_wait_s * 2**attempt))


QUICK = RetryPolicy(attempts=5, total_s=10.0)
"""For questions that a person waits for."""
