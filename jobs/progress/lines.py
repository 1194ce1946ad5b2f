"""What a person sees while a run goes on.

Owns the words. How they are shown, `jobs.progress.displays` knows.
"""

from rich.console import Console

from nightpress.jobs.progress.displays import Display, display
from nightpress.jobs.progress.events import (
    ActorJoined,
    ActorLost,
    Event,
    Message,
    Planned,
    RowSetAside,
    ShardRetried,
)
from nightpress.jobs.progress.tally import Tally
from nightpress.pipelines.formatting import duration, plural


def display_for(console: Console) -> Display[Event]:
    """A live display where the console is a terminal, plain lines where it is not."""
    return display(console, RunTeller())


class RunTeller:
    """The words for a run's events."""

    def __init__(self) -> None:
        self._tally = Tally()

    def add(self, event: Event) -> str | None:
        """Take an event into account; what is news comes back as text."""
        self._tally.add(event)
        return news(event)

    def line(self) -> str:
        """How far the run is; empty before it is planned."""
        return progress_line(self._tally) if self._tally.num_images else ""

    def share(self) -> tuple[int, int]:
        """Images that need nothing more, of all."""
        return self._tally.num_done, self._tally.num_images


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
        case Planned() if event.num_done:
            return f"going on: {event.num_done:,} of {event.num_images:,} images are done already"
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
        case RowSetAside():
            return f"warning: row {event.row} of shard {event.shard} is set aside: {event.reason}"
        case _:
            return None
