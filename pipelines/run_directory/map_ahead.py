"""`map` in threads, a bounded number of items ahead of the caller."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def map_ahead(
    pool: Executor, function: Callable[[T], R], items: Iterable[T], num_ahead: int
) -> Iterator[R]:
    """Results in the order of the items, with at most `num_ahead` items worked on in advance.

    `Executor.map` starts all items at once and keeps every result that the caller has not taken.
    """
    pending: deque[Future[R]] = deque()
    for item in items:
        pending.append(pool.submit(function, item))
        if len(pending) > num_ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()
