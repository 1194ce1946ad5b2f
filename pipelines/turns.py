"""Turns: who may use a thing next, by the numbers that they have.

While one shard's last images are on their way to the store, the next one is being sampled; the
accelerator itself serves one at a time.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
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
