"""What a person sees while a network is trained.

Owns the words. How they are shown, `jobs.progress.displays` knows.
"""

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
"""Weight of the rows before in the loss and the rate that are shown."""

MAX_BAD_NAMED = 10


def display_for(console: Console) -> Display[TrainingEvent]:
    """A live display where the console is a terminal, plain lines where it is not."""
    return display(console, TrainingTeller())


class TrainingTeller:
    """The words for a training's events."""

    def __init__(self) -> None:
        self._done = self._total = 0
        self._loss, self._rate = Smoothed(), Smoothed()
        self._left_s: float | None = None
        self._num_read = 0
        self._cached: LatentsCached | None = None
        self._checkpoint: int | None = None
        self._sheet = ""

    def add(self, event: TrainingEvent) -> str | None:
        """Take an event into account; what is news comes back as text."""
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
        return news(event)

    def _add_step(self, event: StepDone) -> None:
        row = event.metrics
        self._done, self._total = row.step, event.max_train_steps
        self._loss.add(row.loss)
        self._rate.add(row.images_per_s)
        if self._rate.value:
            images_a_step = row.num_images / row.step
            self._left_s = (self._total - self._done) * images_a_step / self._rate.value

    def share(self) -> tuple[int, int]:
        """Steps done, of all; pictures encoded, of all, before the first step."""
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
        """What goes on before the first step."""
        if self._cached is not None:
            return f"{self._cached.done:,} / {self._cached.total:,} pictures encoded"
        return f"{plural(self._num_read, 'picture')} read" if self._num_read else ""


class Smoothed:
    """An exponential moving average without a bias towards its start.

    What is not finite is told while it is the last value, and has no part in the average.
    """

    def __init__(self) -> None:
        self._total = self._weight = self._last = 0.0

    def add(self, value: float) -> None:
        """Take a value."""
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


def news(event: TrainingEvent) -> str | None:
    """The event as text, where it is worth some."""
    match event:
        case Watching():
            return (
                f"this training was begun by {event.holder}; watching for {event.silence_s:.0f} s "
                "whether it still is"
            )
        case DataReady():
            return _data_news(event)
        case Resumed():
            return f"going on from step {event.step:,}"
        case CheckpointSaved():
            return f"step {event.step:,}: {event.path} ({size(event.num_bytes)})"
        case SamplesWritten():
            return f"step {event.step:,}: {event.path}"
        case Stopping():
            return "stopping after the step in hand; a second interruption stops at once"
        case Stopped():
            return f"stopped at step {event.step:,}, with a checkpoint"
        case Finished():
            return f"step {event.step:,}: the model is in {event.path}/"
        case _:
            return None


def _data_news(event: DataReady) -> str:
    lines = [f"{plural(event.num_images, 'picture')} to train on"]
    lines += [f"warning: {warning}" for warning in event.warnings]
    if event.num_bad:
        lines.append(f"warning: {plural(event.num_bad, 'picture')} cannot be used:")
        named = event.bad[:MAX_BAD_NAMED]
        lines += [f"  {bad}" for bad in named]
        if event.num_bad > len(named):
            lines.append(f"  and {event.num_bad - len(named):,} more")
    return "\n".join(lines)
