"""Waiting in a test for what another thread or process does."""

import time
from collections.abc import Callable


def until(is_so: Callable[[], object], within_s: float = 20.0) -> None:
    """Wait until a condition holds; only a failing test waits for all of the time."""
    end = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < end, f"it is not so after {within_s:.0f} s"
        time.sleep(0.01)
