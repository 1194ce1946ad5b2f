"""Recently used pictures in memory, each made once, whichever threads ask for it."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Protocol, TypeVar, cast


class Sized(Protocol):
    """Something that takes memory."""

    @property
    def num_bytes(self) -> int:
        """Its size in memory."""
        ...


T = TypeVar("T", bound=Sized)


class MemoryCache:
    """Keeps the latest values up to a number of bytes; safe to share between threads.

    Args:
        max_bytes: of the values that are kept; one that is larger alone is not kept.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[Hashable, Sized] = OrderedDict()
        self._coming: dict[Hashable, Future[Sized]] = {}
        self._num_bytes = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The value of a key: kept, made by another thread at this moment, or made now.

        Raises:
            Exception: as `make` does, in each thread that waits for it; nothing is kept then.
        """
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return cast("T", self._kept[key])
            coming = self._coming.get(key)
            if coming is None:
                mine = self._coming[key] = Future[Sized]()
        if coming is not None:
            return cast("T", coming.result())
        return self._made(key, make, mine)

    def _made(self, key: Hashable, make: Callable[[], T], mine: Future[Sized]) -> T:
        try:
            value = make()
        except BaseException as error:
            with self._lock:
                del self._coming[key]
            mine.set_exception(error)
            raise
        with self._lock:
            del self._coming[key]
            self._keep(key, value)
        mine.set_result(value)
        return value

    def _keep(self, key: Hashable, value: Sized) -> None:
        if value.num_bytes > self._max_bytes:
            return
        self._kept[key] = value
        self._num_bytes += value.num_bytes
        while self._num_bytes > self._max_bytes:
            _, oldest = self._kept.popitem(last=False)
            self._num_bytes -= oldest.num_bytes
