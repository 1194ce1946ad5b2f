"""Overlap inside one actor, which keeps its accelerator busy.

Shards run side by side but sample one at a time, in the order of their tickets (`TicketLock`). The
prompts of the next batch are encoded while this one is sampled (`PromptPrefetcher`). A shard runs
in a thread of its own and hands its events off, so that a slow listener does not hold it up
(`handed_off`).
"""

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
    """A lock that serves numbered tickets one at a time, in order."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._next_number = self._serving = 0
        self._released: set[int] = set()
        self._waiting: set[int] = set()

    @contextmanager
    def ticket(self, number: int | None = None) -> Iterator[int]:
        """Hold a ticket, and release it when the block ends.

        Args:
            number: the ticket's number, if the caller assigns them: from 0, each exactly once and
                without gaps. By default tickets are numbered in the order in which they are taken.
        """
        if number is None:
            with self._changed:
                number, self._next_number = self._next_number, self._next_number + 1
        try:
            yield number
        finally:
            self.release(number)

    @property
    def serving(self) -> int:
        """The ticket that has the lock."""
        with self._changed:
            return self._serving

    def wait(self, number: int) -> None:
        """Block until a ticket has the lock."""
        with self._changed:
            self._waiting.add(number)
            try:
                self._changed.wait_for(lambda: self._serving >= number)
            finally:
                self._waiting.remove(number)

    def is_awaited_by(self, number: int) -> bool:
        """Whether a thread waits until a ticket has the lock."""
        with self._changed:
            return number in self._waiting

    def release(self, number: int) -> None:
        """Give a ticket up, whether or not it was served yet; does nothing the second time."""
        with self._changed:
            if number >= self._serving:
                self._released.add(number)
            while self._serving in self._released:
                self._released.remove(self._serving)
                self._serving += 1
            self._changed.notify_all()


class PromptPrefetcher:
    """Encodes prompts ahead of their batches, in one thread."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prompts")

    def prefetch(self, batch: Sequence[PlannedImage]) -> None:
        """Start to encode the prompts of a batch, which may be empty, and return at once.

        Errors are dropped: they occur again when the batch is sampled, and are handled there row by
        row.
        """
        if batch:
            requests = [image.request() for image in batch]
            self._thread.submit(self._sampler.prepare, requests, batch[0].params)

    def close(self) -> None:
        """Finish the batch being encoded, drop those that wait, and end the thread."""
        self._thread.shutdown(cancel_futures=True)


T = TypeVar("T")


class _End:
    """The end of an iterator, with the error that ended it, if any."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def handed_off(
    work: Iterator[T], needs_ack: Callable[[T], bool] = lambda item: False
) -> Iterator[T]:
    """Run an iterator in a thread; yields its items in order and raises the error that ends it.

    The thread does not wait for the consumer, and runs to the end even if the consumer stops early.

    Args:
        work: the iterator to run.
        needs_ack: picks the items after which the thread pauses until the consumer has asked for
            the next one: items that must not get lost if what follows ends the process.
    """
    items: SimpleQueue[T | _End] = SimpleQueue()
    acknowledged, consumer_left = Event(), Event()

    def run() -> None:
        error: BaseException | None = None
        try:
            for item in work:
                acknowledged.clear()
                items.put(item)
                if needs_ack(item) and not consumer_left.is_set():
                    acknowledged.wait()
        except BaseException as raised:
            error = raised
        items.put(_End(error))

    thread = Thread(target=run, name="shard")
    thread.start()
    try:
        while not isinstance(item := items.get(), _End):
            yield item
            if needs_ack(item):
                acknowledged.set()
    finally:
        consumer_left.set()
        acknowledged.set()
        thread.join()
    if item.error is not None:
        raise item.error
