"""The text that shows the progress of an export; `jobs.progress.displays` prints it."""

import time
from collections.abc import Callable

from rich.console import Console

from nightpress.jobs.progress.displays import Display, display
from nightpress.jobs.progress.events import Message
from nightpress.pipelines.export.events import (
    Event,
    ExportPlanned,
    ImagesCompared,
    ShardExported,
    ShardSurveyed,
)
from nightpress.pipelines.formatting import duration, plural, size

ExportEvent = Message | Event
"""Everything that `export` reports."""


def display_for(console: Console) -> Display[ExportEvent]:
    """A live display on a terminal, plain lines elsewhere."""
    return display(console, ExportProgressText())


class ExportProgressText:
    """Turns the events of an export into text, and keeps count of its progress."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._began = clock, clock()
        self._total = self._done = self._before = 0
        self._images = self._bytes = self._surveyed = 0
        self._compared: ImagesCompared | None = None

    def add(self, event: ExportEvent) -> str | None:
        """Record an event; returns a line to print, if the event is worth one."""
        match event:
            case Message(text=text, warning=warning):
                return f"warning: {text}" if warning else text
            case ExportPlanned():
                self._total, self._done, self._before = (
                    event.num_shards,
                    event.num_done,
                    event.num_done,
                )
                self._began = self._clock()
                left = plural(event.num_shards - event.num_done, "shard")
                return f"{left} to export, {event.num_done:,} there already"
            case ShardExported():
                self._done += 1
                self._images += event.num_images
                self._bytes += event.num_bytes
            case ShardSurveyed():
                self._surveyed += 1
            case ImagesCompared():
                self._compared = event
        return None

    def line(self) -> str:
        """`12 / 40 shards · 3,072 images · 1.2 GB · 2 min 10 s left`."""
        if not self._total and self._compared is not None:
            total = plural(self._compared.num_total, "image")
            return f"{self._compared.num_images:,} of {total} compared by embeddings"
        if not self._total:
            return f"{plural(self._surveyed, 'shard')} compared" if self._surveyed else ""
        made, left = self._done - self._before, self._total - self._done
        seconds = (self._clock() - self._began) / made * left if made and left else None
        parts = [
            f"{self._done:,} / {self._total:,} shards",
            plural(self._images, "image"),
            size(self._bytes),
            "" if seconds is None else f"{duration(seconds)} left",
        ]
        return " · ".join(part for part in parts if part)

    def share(self) -> tuple[int, int]:
        """Shards that are exported, and all of them."""
        return self._done, self._total
