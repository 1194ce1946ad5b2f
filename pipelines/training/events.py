"""What happens while a network is trained, as the loop tells it and a display shows it."""

from dataclasses import dataclass

from nightpress.pipelines.training.metrics import StepMetrics


@dataclass(frozen=True)
class Watching:
    """An earlier start is watched for a while: does it still work on the run?"""

    holder: str
    silence_s: float


@dataclass(frozen=True)
class DataRead:
    """Pictures read and checked so far; told only where they were not packed before."""

    num_images: int


@dataclass(frozen=True)
class DataReady:
    """The pictures are packed and can be read."""

    num_images: int
    num_bad: int
    bad: tuple[str, ...]
    """The first of those that cannot be used: name and reason."""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class LatentsCached:
    """Pictures encoded so far, of those to encode."""

    done: int
    total: int


@dataclass(frozen=True)
class Resumed:
    """Training goes on from the checkpoint of this step."""

    step: int


@dataclass(frozen=True)
class StepDone:
    """A row of metrics."""

    metrics: StepMetrics
    max_train_steps: int


@dataclass(frozen=True)
class CheckpointSaved:
    """A checkpoint is in the store; `path` is relative to the run."""

    step: int
    path: str
    num_bytes: int


@dataclass(frozen=True)
class SamplesWritten:
    """A sheet of samples is in the store; `path` is relative to the run."""

    step: int
    path: str


@dataclass(frozen=True)
class Stopping:
    """The wish to stop was heard; the step in hand is finished and kept."""


@dataclass(frozen=True)
class Stopped:
    """Training ended early, as asked, with a checkpoint of this step."""

    step: int


@dataclass(frozen=True)
class Finished:
    """The trained model is in the store; `path` is relative to the run."""

    step: int
    path: str


TrainingEvent = (
    Watching
    | DataRead
    | DataReady
    | LatentsCached
    | Resumed
    | StepDone
    | CheckpointSaved
    | SamplesWritten
    | Stopping
    | Stopped
    | Finished
)
