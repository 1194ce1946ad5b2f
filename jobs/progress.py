"""What a person sees while a run goes on: a live line on a terminal, plain lines elsewhere."""

from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from jobs.events import ActorJoined, ActorLost, Event, Message, Planned, ShardRetried
from jobs.tally import Tally
from pipelines.wording import duration, plural

PLAIN_EVERY_S = 10.0
"""Seconds between two plain lines."""


class Display(Protocol):
    """Shows a run's events as they come; a context manager around the run."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def show(self, event: Event) -> None:
        """Take one event."""


def display_for(console: Console) -> Display:
    """A live display where the console is a terminal, plain lines where it is not."""
    return LiveDisplay(console) if console.is_terminal else PlainDisplay(console)


class PlainDisplay:
    """A line now and then: for logs, pipes and schedulers."""

    def __init__(self, console: Console, every_s: float = PLAIN_EVERY_S) -> None:
        self._console = console
        self._every_s = every_s
        self._tally = Tally()
        self._next_at = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._tally.num_images:
            self._print(progress_line(self._tally))

    def show(self, event: Event) -> None:
        """Print what is news, and how far the run is when it is time again."""
        self._tally.add(event)
        text = news(event)
        if text is not None:
            self._print(text)
        elif self._tally.elapsed_s >= self._next_at:
            self._next_at = self._tally.elapsed_s + self._every_s
            self._print(progress_line(self._tally))

    def _print(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


class LiveDisplay:
    """One line that moves, with the news above it."""

    def __init__(self, console: Console) -> None:
        self._tally = Tally()
        self._progress = Progress(
            SpinnerColumn(),
            BarColumn(bar_width=28),
            TextColumn("{task.description}"),
            console=console,
            refresh_per_second=4,
            transient=True,
            get_time=self._tally.clock,
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

    def show(self, event: Event) -> None:
        """Move the bar, and print what is news above it."""
        self._tally.add(event)
        text = news(event)
        if text is not None:
            self._progress.console.print(text, highlight=False, markup=False)
        if self._tally.num_images:
            self._progress.update(
                self._bar,
                total=self._tally.num_images,
                completed=self._tally.num_done,
                description=progress_line(self._tally),
            )


def progress_line(tally: Tally) -> str:
    """`96 / 1,632 images · 2.10 images/s · 12 min 10 s left · 0 failed · 2 actors`."""
    rate, left_s = tally.images_per_s, tally.left_s
    parts = [
        f"{tally.num_done:,} / {tally.num_images:,} images",
        "" if rate is None else f"{rate:.2f} images/s",
        "" if left_s is None else f"{duration(left_s)} left",
        f"{tally.num_failed:,} failed",
        plural(tally.num_actors, "actor"),
    ]
    return " · ".join(part for part in parts if part)


def news(event: Event) -> str | None:
    """The event as a line, where it is worth one."""
    match event:
        case Message(text=text, warning=warning):
            return f"warning: {text}" if warning else text
        case Planned() if event.num_ok + event.num_failed:
            done = event.num_ok + event.num_failed
            return f"going on: {done:,} of {event.num_images:,} images are there already"
        case Planned():
            return f"{event.num_images:,} images in {plural(event.num_shards, 'shard')}"
        case ActorJoined():
            return f"an actor on {event.node} has its model; {plural(event.num_actors, 'actor')}"
        case ActorLost():
            return (
                f"warning: an actor on {event.node} is gone ({event.reason}); "
                f"{plural(event.num_actors, 'actor')} left, its shards go to others"
            )
        case ShardRetried():
            return f"warning: shard {event.shard}, attempt {event.attempt} failed: {event.reason}"
        case _:
            return None
