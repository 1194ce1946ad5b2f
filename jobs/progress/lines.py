"""A run's events as lines of text; `jobs.progress.displays` shows them."""

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
from nightpress.pipelines.shards.events import ShardDone


def display_for(console: Console) -> Display[Event]:
    """A live display on a terminal, plain lines elsewhere."""
    return display(console, RunProgressText())


class RunProgressText:
    """Turns a run's events into text, and keeps count of its progress."""

    def __init__(self) -> None:
        self._tally = Tally()

    def add(self, event: Event) -> str | None:
        """Record an event; returns a line to print, if the event is worth one."""
        self._tally.add(event)
        return event_line(event)

    def line(self) -> str:
        """The progress so far, in one line; empty before the run is planned."""
        return progress_line(self._tally) if self._tally.num_images else ""

    def share(self) -> tuple[int, int]:
        """Images that are done, and all images."""
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


def event_line(event: Event) -> str | None:
    """The event as a line of text; None if it is not worth one."""
    match event:
        case Message(text=text, warning=warning):
            return f"warning: {text}" if warning else text
        case Planned() if event.num_done == event.num_images:
            return f"all {event.num_images:,} images are already committed: nothing is left to make"
        case Planned() if event.num_done:
            return (
                f"resuming: {event.num_done:,} of {event.num_images:,} images are already committed"
            )
        case Planned():
            return f"{event.num_images:,} images in {plural(event.num_shards, 'shard')}"
        case ActorJoined():
            actors = plural(event.num_actors, "actor")
            return f"an actor on {event.node} has loaded its model; {actors} ready"
        case ActorLost():
            return (
                f"warning: lost an actor on {event.node} ({event.reason}); "
                f"{plural(event.num_actors, 'actor')} left, which get its shards"
            )
        case ShardRetried():
            return _retried_line(event)
        case RowSetAside():
            return (
                f"warning: row {event.row} of shard {event.shard} ends its process even alone, so "
                f"it is recorded as failed: {event.reason}"
            )
        case ShardDone() if event.unmade:
            more = f", and {len(event.unmade) - 1} more" if len(event.unmade) > 1 else ""
            return (
                f"warning: shard {event.shard}: not made again, so it stays as it was: "
                f"{event.unmade[0]}{more}"
            )
        case _:
            return None


def _retried_line(event: ShardRetried) -> str:
    then = "it is tried again"
    if event.is_given_up:
        then = "no row is tried again; an actor scores what is stored, and commits"
    failed = f"shard {event.shard}, attempt {event.attempt} failed: {event.reason}"
    return f"warning: {failed}; {then}"
