"""A relay: work that tells of itself goes on in a thread of its own, however slow its listener is.

What is told across processes takes milliseconds each time, in which an accelerator would wait.
"""

from collections.abc import Callable, Iterator
from queue import SimpleQueue
from threading import Event, Thread
from typing import TypeVar

T = TypeVar("T")


class _End:
    """The end of what is told, and the error in it, if it ended in one."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def relayed(work: Iterator[T], weighty: Callable[[T], bool] = lambda each: False) -> Iterator[T]:
    """What an iterator yields, in order, and the error that it ends in.

    It is not held up by whoever takes from this one, and runs to its end even if nobody does.

    Args:
        work: goes on in a thread.
        weighty: of what it yields, whether it goes on only when that was taken, and more asked for:
            if the process ends of what comes then, this must be known.
    """
    told: SimpleQueue[T | _End] = SimpleQueue()
    taken, alone = Event(), Event()

    def go_on() -> None:
        error: BaseException | None = None
        try:
            for each in work:
                taken.clear()
                told.put(each)
                if weighty(each) and not alone.is_set():
                    taken.wait()
        except BaseException as raised:
            error = raised
        told.put(_End(error))

    thread = Thread(target=go_on, name="shard")
    thread.start()
    try:
        while not isinstance(each := told.get(), _End):
            yield each
            if weighty(each):
                taken.set()
    finally:
        alone.set()
        taken.set()
        thread.join()
    if each.error is not None:
        raise each.error
