"""A training run's events as lines of text; `jobs.progress.displays` shows them."""

import math

from rich.console import Console

from nightpress.jobs.progress.displays import Display, display
from nightpress.pipelines.formatting import duration, plural, size
from nightpress.pipelines.training.events import (
    CheckpointSaved,
    DataRead,
    DataReady,
    Finished,
    LatentsCached,
    Resumed,
    SamplesWritten,
    StepDone,
    Stopped,
    Stopping,
    TrainingEvent,
    Watching,
)

SMOOTHING = 0.9
"""Weight of the earlier rows in the loss and the rate that are shown."""

MAX_BAD_LISTED = 10


def display_for(console: Console) -> Display[TrainingEvent]:
    """A live display on a terminal, plain lines elsewhere."""
    return display(console, TrainingProgressText())


class TrainingProgressText:
    """Turns a training run's events into text, and keeps count of its progress."""

    def __init__(self) -> None:
        self._done = self._total = 0
        self._loss, self._rate = Smoothed(), Smoothed()
        self._left_s: float | None = None
        self._num_read = 0
        self._cached: LatentsCached | None = None
        self._checkpoint: int | None = None
        self._sheet = ""

    def add(self, event: TrainingEvent) -> str | None:
        """Record an event; returns a line to print, if the event is worth one."""
        match event:
            case DataRead():
                self._num_read = max(self._num_read, event.num_images)
            case DataReady():
                self._num_read = 0
            case Resumed():
                self._done = self._checkpoint = event.step
            case LatentsCached():
                self._cached = event
            case StepDone():
                self._add_step(event)
            case CheckpointSaved():
                self._checkpoint = event.step
            case SamplesWritten():
                self._sheet = event.path
        return event_line(event)

    def _add_step(self, event: StepDone) -> None:
        row = event.metrics
        self._done, self._total = row.step, event.max_train_steps
        self._loss.add(row.loss)
        self._rate.add(row.images_per_s)
        if self._rate.value:
            images_a_step = row.num_images / row.step
            self._left_s = (self._total - self._done) * images_a_step / self._rate.value

    def share(self) -> tuple[int, int]:
        """Steps done and all steps; before the first step, pictures encoded and all images."""
        if not self._total and self._cached is not None:
            return self._cached.done, self._cached.total
        return self._done, self._total

    def line(self) -> str:
        """`step 500 / 10,000 · loss 0.1234 · 52.1 images/s · 40 min left · checkpoint 500`."""
        if not self._total:
            return self._line_before()
        parts = [
            f"step {self._done:,} / {self._total:,}",
            f"loss {self._loss.value:.4g}",
            f"{self._rate.value:.1f} images/s",
            "" if self._left_s is None else f"{duration(self._left_s)} left",
            "" if self._checkpoint is None else f"checkpoint {self._checkpoint:,}",
            self._sheet,
        ]
        return " · ".join(part for part in parts if part)

    def _line_before(self) -> str:
        """The progress before the first step."""
        if self._cached is not None:
            return f"{self._cached.done:,} / {self._cached.total:,} pictures encoded"
        return f"{plural(self._num_read, 'picture')} read" if self._num_read else ""


class Smoothed:
    """An exponential moving average, corrected for the bias towards its start.

    A value that is not finite is shown while it is the latest, and left out of the average.
    """

    def __init__(self) -> None:
        self._total = self._weight = self._last = 0.0

    def add(self, value: float) -> None:
        """Add a value."""
        self._last = value
        if math.isfinite(value):
            self._total = SMOOTHING * self._total + value
            self._weight = SMOOTHING * self._weight + 1

    @property
    def value(self) -> float:
        """The average; 0 before the first value."""
        if not math.isfinite(self._last):
            return self._last
        return self._total / self._weight if self._weight else 0.0


def event_line(event: TrainingEvent) -> str | None:
    """The event as text; None if it is not worth a line."""
    match event:
        case Watching():
            return (
                f"this training run is held by {event.holder}; watching for "
                f"{event.silence_s:.0f} s whether that process is still alive"
            )
        case DataReady():
            return _data_lines(event)
        case Resumed():
            return f"resuming from step {event.step:,}"
        case CheckpointSaved():
            return f"step {event.step:,}: {event.path} ({size(event.num_bytes)})"
        case SamplesWritten():
            return f"step {event.step:,}: {event.path}"
        case Stopping():
            return "stopping after this step; a second interruption stops at once"
        case Stopped():
            return f"stopped at step {event.step:,}, and saved a checkpoint"
        case Finished():
            return f"step {event.step:,}: the model is in {event.path}/"
        case _:
            return None


def _data_lines(event: DataReady) -> str:
    lines = [f"{plural(event.num_images, 'picture')} to train on"]
    lines += [f"warning: {warning}" for warning in event.warnings]
    if event.num_bad:
        lines.append(f"warning: {plural(event.num_bad, 'picture')} cannot be used:")
        listed = event.bad[:MAX_BAD_LISTED]
        lines += [f"  {bad}" for bad in listed]
        if event.num_bad > len(listed):
            lines.append(f"  and {event.num_bad - len(listed):,} more")
    return "\n".join(lines)
