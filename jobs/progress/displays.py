"""What a person sees while something long goes on: a live line on a terminal, else plain lines.

Owns the two displays. What they say, a teller knows: one for each kind of work.
"""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

PLAIN_EVERY_S = 10.0
"""Seconds between two plain lines."""

E = TypeVar("E")
E_contra = TypeVar("E_contra", contravariant=True)


class Teller(Protocol[E_contra]):
    """Puts the events of some work into words, and keeps how far it is."""

    def add(self, event: E_contra) -> str | None:
        """Take an event into account; what is news comes back as text."""
        ...

    def line(self) -> str:
        """How far it is, in a line; empty before there is anything to say."""
        ...

    def share(self) -> tuple[int, int]:
        """How much is done, of how much; of 0 while that is not known."""
        ...


class Display(Protocol[E_contra]):
    """Shows events as they come; a context manager around the work."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def show(self, event: E_contra) -> None:
        """Take one event."""


def display(console: Console, teller: Teller[E]) -> Display[E]:
    """A live display where the console is a terminal, plain lines where it is not."""
    return Live(console, teller) if console.is_terminal else Plain(console, teller)


class Plain(Generic[E]):
    """A line now and then: for logs, pipes and schedulers."""

    def __init__(
        self,
        console: Console,
        teller: Teller[E],
        every_s: float = PLAIN_EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console, self._teller = console, teller
        self._every_s, self._clock = every_s, clock
        self._next_at = clock()
        self._last = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._print_line()

    def show(self, event: E) -> None:
        """Print what is news, and how far the work is when it is time again."""
        text = self._teller.add(event)
        if text is not None:
            self._print(text)
        elif self._clock() >= self._next_at:
            self._next_at = self._clock() + self._every_s
            self._print_line()

    def _print_line(self) -> None:
        line = self._teller.line()
        if line and line != self._last:
            self._last = line
            self._print(line)

    def _print(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


class Live(Generic[E]):
    """One line that moves, with the news above it."""

    def __init__(self, console: Console, teller: Teller[E]) -> None:
        self._teller = teller
        self._progress = Progress(
            SpinnerColumn(),
            BarColumn(bar_width=28),
            # Not markup: names of files may hold brackets.
            TextColumn("{task.description}", markup=False),
            console=console,
            refresh_per_second=4,
            transient=True,
        )
        self._bar = self._progress.add_task("starting", total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def show(self, event: E) -> None:
        """Move the bar, and print what is news above it."""
        text = self._teller.add(event)
        if text is not None:
            self._progress.console.print(text, highlight=False, markup=False)
        done, total = self._teller.share()
        line = self._teller.line()
        if line:
            self._progress.update(self._bar, total=total or None, completed=done, description=line)
