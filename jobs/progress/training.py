"""The text that shows the progress of a training run; `jobs.progress.displays` prints it."""

import math

from rich.console import Console

from nightpress.jobs.progress.displays import Display, display
from nightpress.pipelines.formatting import duration, plural, size
from nightpress.pipelines.training.events import (
    CaptionsCut,
    CheckpointSaved,
    DataReady,
    Finished,
    ImagesRead,
    LatentsCached,
    Resumed,
    SamplesWritten,
    StepDone,
    Stopped,
    StopRequested,
    TrainingEvent,
    WaitingForLease,
    WaitingForRoom,
)

SMOOTHING = 0.9
"""Weight of the previous rows in the displayed loss and rate."""

MAX_BAD_LISTED = 10
"""Unusable images that are named; the others are counted."""


def display_for(console: Console) -> Display[TrainingEvent]:
    """A live display if the console is a terminal, otherwise plain lines."""
    return display(console, TrainingProgressText())


class TrainingProgressText:
    """Formats the events of a training run and its current progress."""

    def __init__(self) -> None:
        self._done = self._total = 0
        self._loss, self._rate = MovingAverage(), MovingAverage()
        self._left_s: float | None = None
        self._num_read = 0
        self._cached: LatentsCached | None = None
        self._checkpoint: int | None = None
        self._sheet = ""

    def add(self, event: TrainingEvent) -> str | None:
        """Update the progress with an event; return its message, if it has one."""
        match event:
            case ImagesRead():
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
            images_per_step = row.num_images / row.step
            self._left_s = (self._total - self._done) * images_per_step / self._rate.value

    def share(self) -> tuple[int, int]:
        """Steps done and in total; before the first step, images encoded and in total."""
        if not self._total and self._cached is not None:
            return self._cached.done, self._cached.total
        return self._done, self._total

    def line(self) -> str:
        """`step 500 / 10,000 · loss 0.1234 · 52.1 images/s · 40 min left · checkpoint 500`."""
        if not self._total:
            return self._preparation_line()
        parts = [
            f"step {self._done:,} / {self._total:,}",
            f"loss {self._loss.value:.4g}",
            f"{self._rate.value:.1f} images/s",
            "" if self._left_s is None else f"{duration(self._left_s)} left",
            "" if self._checkpoint is None else f"checkpoint {self._checkpoint:,}",
            self._sheet,
        ]
        return " · ".join(part for part in parts if part)

    def _preparation_line(self) -> str:
        """The progress before the first step."""
        if self._cached is not None:
            return f"{self._cached.done:,} / {self._cached.total:,} images encoded"
        return f"{plural(self._num_read, 'image')} read" if self._num_read else ""


class MovingAverage:
    """An exponential moving average with bias correction.

    A value that is not finite is shown until the next one, but does not enter the average.
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
        """The average, or the last value if it is not finite; 0 before the first value."""
        if not math.isfinite(self._last):
            return self._last
        return self._total / self._weight if self._weight else 0.0


def event_line(event: TrainingEvent) -> str | None:
    """The message to print for an event, if it has one."""
    match event:
        case WaitingForLease():
            return (
                f"{event.holder} may still be working on this training run; "
                f"watching its heartbeat for {event.silence_s:.0f} s"
            )
        case WaitingForRoom():
            return f"warning: {event.text}"
        case DataReady():
            return _data_lines(event)
        case CaptionsCut():
            return (
                f"warning: {plural(event.num_images, 'image')} with a caption that is longer than "
                f"the model reads; the first one ends before {event.example!r:.80}"
            )
        case Resumed():
            return "\n".join(
                [
                    *(f"warning: damaged checkpoint, kept as {path}" for path in event.damaged),
                    f"resuming from step {event.step:,}",
                ]
            )
        case CheckpointSaved():
            return f"step {event.step:,}: wrote {event.path} ({size(event.num_bytes)})"
        case SamplesWritten():
            return f"step {event.step:,}: wrote {event.path}"
        case StopRequested():
            return "stopping after this step; interrupt again to stop at once"
        case Stopped():
            return f"stopped at step {event.step:,}, with a checkpoint"
        case Finished():
            return f"step {event.step:,}: wrote the model to {event.path}/"
        case _:
            return None


def _data_lines(event: DataReady) -> str:
    lines = [f"training on {plural(event.num_images, 'image')}"]
    lines += [f"warning: {warning}" for warning in event.warnings]
    if event.num_bad:
        lines.append(f"warning: {plural(event.num_bad, 'image')} cannot be used:")
        listed = event.bad[:MAX_BAD_LISTED]
        lines += [f"  {bad}" for bad in listed]
        if event.num_bad > len(listed):
            lines.append(f"  and {event.num_bad - len(listed):,} more")
    return "\n".join(lines)
