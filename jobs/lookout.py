"""The lookout: which of many streams and answers have something to tell.

A look costs the more, the more there are, whether or not they have anything to tell. Knows nothing
of what they tell.
"""

import time
from typing import Any

import ray

LOOKING_SHARE = 0.02
"""Of the driver's time, that goes into looking."""

LONGEST_PAUSE_S = 0.25
"""Between two looks at most, while there is something to tell."""


class Lookout:
    """Looks no more often than keeps the cost of looking small: meanwhile news gather.

    So each costs much the same among few streams and among many. A single one is heard at once.
    """

    def __init__(self) -> None:
        self._pause_s = 0.0

    def ready(self, waiting: list[Any], timeout_s: float) -> list[Any]:
        """Those that have something to tell; none, if for so long none has.

        Args:
            waiting: references, and streams that are taken from by nobody else; at least one.
            timeout_s: beside the pause.
        """
        began = time.thread_time()
        ready, _ = ray.wait(
            waiting, num_returns=len(waiting), timeout=self._pause_s, fetch_local=False
        )
        looked_s = time.thread_time() - began
        self._pause_s = min(LONGEST_PAUSE_S, looked_s / LOOKING_SHARE)
        if not ready:
            ready, _ = ray.wait(waiting, num_returns=1, timeout=timeout_s, fetch_local=False)
        return list(ready)
