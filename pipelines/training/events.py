"""Events of a training run, emitted by the loop and shown by a progress display."""

from dataclasses import dataclass

from nightpress.pipelines.training.metrics import StepMetrics


@dataclass(frozen=True)
class WaitingForLease:
    """Another process may still hold the run directory; its heartbeat is being watched."""

    holder: str
    silence_s: float


@dataclass(frozen=True)
class WaitingForRoom:
    """The cluster has no room for the workers yet; `text` says what they need and what it has."""

    text: str


@dataclass(frozen=True)
class ImagesRead:
    """Images read and checked so far; not emitted if they were packed before."""

    num_images: int


@dataclass(frozen=True)
class DataReady:
    """The images are packed and can be read."""

    num_images: int
    num_bad: int
    bad: tuple[str, ...]
    """The first images that cannot be used: name and reason."""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class LatentsCached:
    """Images encoded so far, and how many there are in total."""

    done: int
    total: int


@dataclass(frozen=True)
class CaptionsCut:
    """The model does not read the end of some captions."""

    num_images: int
    """Images that have such a caption."""
    example: str
    """What is lost of the first one."""


@dataclass(frozen=True)
class Resumed:
    """Training resumes from the checkpoint of this step."""

    step: int
    damaged: tuple[str, ...] = ()
    """Newer checkpoints that are not whole: the paths that they were moved to."""


@dataclass(frozen=True)
class StepDone:
    """A new row of metrics."""

    metrics: StepMetrics
    max_train_steps: int


@dataclass(frozen=True)
class CheckpointSaved:
    """A checkpoint was written; `path` is relative to the run directory."""

    step: int
    path: str
    num_bytes: int


@dataclass(frozen=True)
class SamplesWritten:
    """A sample sheet was written; `path` is relative to the run directory."""

    step: int
    path: str


@dataclass(frozen=True)
class StopRequested:
    """The workers were asked to stop; they finish the current step and save a checkpoint."""


@dataclass(frozen=True)
class Stopped:
    """Training stopped early, as requested, with a checkpoint of this step."""

    step: int


@dataclass(frozen=True)
class Finished:
    """The trained model was written; `path` is relative to the run directory."""

    step: int
    path: str


TrainingEvent = (
    WaitingForLease
    | WaitingForRoom
    | ImagesRead
    | DataReady
    | LatentsCached
    | CaptionsCut
    | Resumed
    | StepDone
    | CheckpointSaved
    | SamplesWritten
    | StopRequested
    | Stopped
    | Finished
)
