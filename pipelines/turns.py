"""Turns: who may use a thing next, in the order in which they asked.

While one shard's last images are on their way to the store, the next one is being sampled; the
accelerator itself serves one at a time.
"""

import threading


class Turns:
    """Numbered turns: each begins when all before it have ended."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._given = self._current = 0
        self._ended: set[int] = set()

    def take(self) -> int:
        """The number of the next turn, which whoever took it must end."""
        with self._condition:
            self._given += 1
            return self._given - 1

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
