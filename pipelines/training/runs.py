"""Read a training run and its progress from its run directory, on any machine."""

from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median

from nightpress.pipelines.storage import Store
from nightpress.pipelines.training.layout import (
    MODEL_FOLDER,
    asked_steps,
    checkpoint_path,
    checkpoint_steps,
    finished_step,
    sample_sheet_path,
    sample_sheet_steps,
)
from nightpress.pipelines.training.metrics import StepMetrics, metrics_rows, read_metrics
from nightpress.pipelines.training.record import TrainRecord, read_record
from nightpress.pipelines.training.spec import TrainSpec

RATE_ROWS = 20
"""Number of metrics rows whose median is the reported rate."""


@dataclass(frozen=True)
class Checkpoint:
    """The latest checkpoint, from which a stopped training run resumes."""

    step: int
    path: str
    """Relative to the run directory, like all paths here."""
    num_bytes: int
    at: str | None
    """When its last metrics were measured: UTC, ISO 8601; None without metrics."""


@dataclass(frozen=True)
class TrainingProgress:
    """The progress of a training run, according to its run directory."""

    step: int
    """The step of the latest checkpoint; later steps are not stored yet."""
    max_train_steps: int
    loss: float | None
    """From the last row of metrics up to `step`."""
    images_per_s: float | None
    left_s: float | None
    """Seconds left at that rate; 0 at the end, None without a rate."""
    checkpoint: Checkpoint | None
    samples: str | None
    """Path of the latest sample sheet."""
    model: str | None
    """Path of the trained model's folder; if the job was made longer, from before that."""
    complete: bool
    """Whether all steps are done and the model is written."""


@dataclass(frozen=True)
class TrainingRun:
    """A run directory of `nightpress train`; opened by `open_training`."""

    store: Store
    record: TrainRecord
    spec: TrainSpec
    """The current job if the caller knows it, otherwise that of the latest start."""

    @property
    def url(self) -> str:
        """URL of the run directory."""
        return self.store.url

    @property
    def recipe(self) -> str:
        """`autoencoder`, `denoiser` or `lora`."""
        return str(self.record.spec.as_dict()["recipe"])

    def progress(self) -> TrainingProgress:
        """Read the current progress.

        Raises:
            CheckpointError: the metrics table is damaged.
            StoreError: the store cannot be reached.
        """
        steps, sheets = checkpoint_steps(self.store), sample_sheet_steps(self.store)
        step = steps[-1] if steps else 0
        rows = [row for row in metrics_rows(read_metrics(self.store)) if row.step <= step]
        rate = median(row.images_per_s for row in rows[-RATE_ROWS:]) if rows else None
        model = MODEL_FOLDER if self.store.list(MODEL_FOLDER) else None
        total = self.spec.training.max_train_steps
        return TrainingProgress(
            step=step,
            max_train_steps=total,
            loss=rows[-1].loss if rows else None,
            images_per_s=rate,
            left_s=self._left_s(step, rate),
            checkpoint=self._checkpoint(step, rows) if steps else None,
            samples=sample_sheet_path(sheets[-1]) if sheets else None,
            model=model,
            complete=finished_step(self.store) >= total,
        )

    def _left_s(self, step: int, images_per_s: float | None) -> float | None:
        options = self.spec.training
        left = max(0, options.max_train_steps - step) * options.train_batch_size
        return left / images_per_s if images_per_s else None

    def _checkpoint(self, step: int, rows: list[StepMetrics]) -> Checkpoint:
        at = rows[-1].at.astimezone(UTC).isoformat(timespec="seconds") if rows else None
        num_bytes = self.store.size(checkpoint_path(step)) or 0
        return Checkpoint(step, checkpoint_path(step), num_bytes, at)


def open_training(store: Store, spec: TrainSpec | None = None) -> TrainingRun | None:
    """Open the training run in a run directory, finished or not; None if none has begun.

    Args:
        store: the run directory.
        spec: the job whose number of steps counts; that of the latest start if None.

    Raises:
        RunNotFound: `train.json` is not the record of a training run.
        UnsupportedFormat: it was written in a newer format.
        StoreError: the store cannot be reached.
    """
    record = read_record(store)
    return (
        None if record is None else TrainingRun(store, record, spec or _last_asked(store, record))
    )


def _last_asked(store: Store, record: TrainRecord) -> TrainSpec:
    """The job as the latest start was asked for it: only the number of steps may have changed."""
    steps = asked_steps(store)
    if steps is None:
        return record.spec
    training = record.spec.training.model_copy(update={"max_train_steps": steps})
    return record.spec.model_copy(update={"training": training})


def age_s(at: str) -> float:
    """Seconds since a recorded time, UTC and ISO 8601."""
    return (datetime.now(UTC) - datetime.fromisoformat(at)).total_seconds()
