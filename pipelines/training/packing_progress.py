"""Report progress while a data set is packed, which may take hours the first time."""

from collections.abc import Callable, Generator
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from typing import TypeVar

from nightpress.pipelines.training.events import ImagesRead

T = TypeVar("T")

REPORT_EVERY_S = 2.0


def pack_with_progress(
    pack: Callable[[Callable[[int], None]], T], every_s: float = REPORT_EVERY_S
) -> Generator[ImagesRead, None, T]:
    """Pack in a thread; yield the number of images read so far, and return the result of `pack`.

    Closing the generator cancels the packing at its next progress report.

    Args:
        pack: receives a function to call with the number of images read so far.
        every_s: seconds between two events; an event without progress is skipped.
    """
    counter = _Counter()
    with ThreadPoolExecutor(max_workers=1) as thread:
        packing = thread.submit(pack, counter)
        try:
            yield from _changes(counter, lambda: bool(wait([packing], every_s).done))
        finally:
            counter.cancelled = True
        return packing.result()


def _changes(counter: "_Counter", is_done: Callable[[], bool]) -> Generator[ImagesRead, None, None]:
    last = 0
    while not is_done():
        if counter.num > last:
            last = counter.num
            yield ImagesRead(last)


class _Counter:
    """The number of images read: written by the packing thread, read by the generator."""

    def __init__(self) -> None:
        self.num = 0
        self.cancelled = False

    def __call__(self, num: int) -> None:
        """Store the number of images read so far, or cancel the packing."""
        if self.cancelled:
            raise CancelledError("packing was cancelled")
        self.num = num
