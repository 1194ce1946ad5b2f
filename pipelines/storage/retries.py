"""Trying again: exponential back-off with full jitter, bounded in number and in time.

After "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from pipelines.storage.faults import is_transient

T = TypeVar("T")


@dataclass(frozen=True)
class RetryPolicy:
    """How long a store may fail before its error gets out."""

    attempts: int = 8
    first_s: float = 0.2
    longest_s: float = 15.0
    total_s: float = 120.0
    """After this many seconds no new attempt is made."""

    def call(self, function: Callable[[int], T]) -> T:
        """Call `function(attempt)` until it returns, fails for good, or time is up."""
        end = time.monotonic() + self.total_s
        for attempt in range(1, self.attempts + 1):
            try:
                return function(attempt)
            except Exception as error:
                if not is_transient(error) or attempt == self.attempts:
                    raise
                pause_s = self._pause_s(attempt)
                if time.monotonic() + pause_s > end:
                    raise
                time.sleep(pause_s)
        raise AssertionError("attempts is at least one")

    def _pause_s(self, attempt: int) -> float:
        ceiling = min(self.longest_s, self.first_s * 2 ** (attempt - 1))
        return random.uniform(0, ceiling)  # noqa: S311 - jitter is no secret


ONCE = RetryPolicy(attempts=1)
