"""Signals: the first request to stop is left to the program, the second interrupts it at once."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interruption(threading.Event):
    """Set by the first request to stop."""

    is_repeated = False
    """Whether a second one has come.

    It raises KeyboardInterrupt as well, but Python only prints an error that comes while it runs a
    finalizer or the callback of a weak reference.
    """


@contextmanager
def first_interruption() -> Iterator[Interruption]:
    """An event that the first SIGINT or SIGTERM sets; a second one raises KeyboardInterrupt.

    Outside the main thread, which alone can handle signals, the event is never set.
    """
    stop_requested = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield stop_requested
        return

    def on_signal(number: int, frame: FrameType | None) -> None:
        if stop_requested.is_set():
            stop_requested.is_repeated = True
            raise KeyboardInterrupt
        stop_requested.set()

    previous = {n: signal.signal(n, on_signal) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop_requested
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
