"""Telling how far the pictures are read while they are packed, which may take hours once.

Owns the thread in which that goes on. Knows nothing of pictures.
"""

from collections.abc import Callable, Generator
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from typing import TypeVar

from nightpress.pipelines.training.events import DataRead

T = TypeVar("T")

EVERY_S = 2.0
"""Seconds between two events."""


def told(
    pack: Callable[[Callable[[int], None]], T], every_s: float = EVERY_S
) -> Generator[DataRead, None, T]:
    """Pack in a thread; yields how far it is now and then, and returns what `pack` gave.

    Closing the generator ends the packing where it next tells its number.

    Args:
        pack: gets a function that it calls with the number of pictures read so far.
        every_s: seconds between two events; where nothing was read in them, there is none.
    """
    count = _Count()
    with ThreadPoolExecutor(max_workers=1) as thread:
        packing = thread.submit(pack, count)
        try:
            yield from _numbers(count, lambda: bool(wait([packing], every_s).done))
        finally:
            count.wanted = False
        return packing.result()


def _numbers(count: "_Count", done: Callable[[], bool]) -> Generator[DataRead, None, None]:
    before = 0
    while not done():
        if count.num > before:
            before = count.num
            yield DataRead(before)


class _Count:
    """The number that one thread writes and another reads."""

    def __init__(self) -> None:
        self.num = 0
        self.wanted = True

    def __call__(self, num: int) -> None:
        """Take the number of pictures read so far."""
        if not self.wanted:
            raise CancelledError("nobody waits for these pictures any more")
        self.num = num
