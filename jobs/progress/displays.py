"""The two progress displays: a live line on a terminal, plain lines elsewhere.

What they show comes from a `ProgressText`, of which there is one for each kind of work.
"""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

PLAIN_EVERY_S = 10.0
"""Seconds between two plain lines."""

Clock = Callable[[], float]

E = TypeVar("E")
E_contra = TypeVar("E_contra", contravariant=True)


class ProgressText(Protocol[E_contra]):
    """Turns the events of some work into text, and keeps count of its progress."""

    def add(self, event: E_contra) -> str | None:
        """Record an event; returns a line to print, if the event is worth one."""
        ...

    def line(self) -> str:
        """The progress so far, in one line; empty if there is none yet."""
        ...

    def share(self) -> tuple[int, int]:
        """How much is done, and of how much in total; the total is 0 while it is unknown."""
        ...


class Display(Protocol[E_contra]):
    """Shows events as they happen; a context manager around the work."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def show(self, event: E_contra) -> None:
        """Show one event."""


def display(console: Console, text: ProgressText[E]) -> Display[E]:
    """A live display on a terminal, plain lines elsewhere."""
    return Live(console, text) if console.is_terminal else Plain(console, text)


class Plain(Generic[E]):
    """A line every few seconds: for logs, pipes and schedulers."""

    def __init__(
        self,
        console: Console,
        text: ProgressText[E],
        every_s: float = PLAIN_EVERY_S,
        clock: Clock = time.monotonic,
    ) -> None:
        self._console, self._text = console, text
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
        """Print the event's line if it has one, or the progress if the last line is old enough."""
        news = self._text.add(event)
        if news is not None:
            self._print(news)
        elif self._clock() >= self._next_at:
            self._next_at = self._clock() + self._every_s
            self._print_line()

    def _print_line(self) -> None:
        line = self._text.line()
        if line and line != self._last:
            self._last = line
            self._print(line)

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


class Live(Generic[E]):
    """A progress bar with one line of text; lines worth keeping are printed above it."""

    def __init__(self, console: Console, text: ProgressText[E]) -> None:
        self._text = text
        self._progress = Progress(
            SpinnerColumn(),
            BarColumn(bar_width=28),
            # no markup, because file names may contain brackets
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
        """Update the bar, and print the event's line above it if it has one."""
        news = self._text.add(event)
        if news is not None:
            self._progress.console.print(news, highlight=False, markup=False)
        done, total = self._text.share()
        line = self._text.line()
        if line:
            self._progress.update(self._bar, total=total or None, completed=done, description=line)
