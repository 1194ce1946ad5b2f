"""Overlap inside one actor: turns on the accelerator, prompt prefetch, and hand-off of events."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Event, Thread
from typing import TypeVar

from nightpress.diffusion_core.sampling.sampler import Sampler
from nightpress.pipelines.shards.batching import PlannedImage


class TicketLock:
    """Numbered turns: each begins when all before it have ended."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._given = self._current = 0
        self._ended: set[int] = set()

    @contextmanager
    def taken(self, number: int | None = None) -> Iterator[int]:
        """Have a turn until the block ends.

        Args:
            number: from 0, where others say in which order they come; each number is had once,
                and none is left out. Unless given, they come in the order in which they ask.
        """
        if number is None:
            with self._condition:
                number, self._given = self._given, self._given + 1
        try:
            yield number
        finally:
            self.end(number)

    @property
    def current(self) -> int:
        """The turn that has come."""
        with self._condition:
            return self._current

    def wait(self, number: int) -> None:
        """Return when its turn has come."""
        with self._condition:
            self._condition.wait_for(lambda: self._current >= number)

    def end(self, number: int) -> None:
        """Let the next one begin; also of a turn that was not waited for, or has ended."""
        with self._condition:
            if number >= self._current:
                self._ended.add(number)
            while self._current in self._ended:
                self._ended.remove(self._current)
                self._current += 1
            self._condition.notify_all()


class PromptPrefetcher:
    """One thread, which has the sampler encode what it is told of, in that order."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prompts")

    def begin(self, batch: Sequence[PlannedImage]) -> None:
        """Encode the prompts of a batch, and do not wait for it; nothing to do for an empty one.

        What fails here fails again where the batch is sampled, and is told there, row by row: so
        the outcome is nobody's to ask for, and the thread goes on.
        """
        if batch:
            requests = [image.request for image in batch]
            self._thread.submit(self._sampler.prepare, requests, batch[0].params)

    def close(self) -> None:
        """End the thread; what is in hand is finished, and nothing else begun."""
        self._thread.shutdown(cancel_futures=True)


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
