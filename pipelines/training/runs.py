"""A training as its reader sees it: the job, and how far it is.

Everything comes from the store, so any machine can look. Writes nothing.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median

from nightpress.pipelines.storage import Store
from nightpress.pipelines.training.layout import (
    MODEL_FOLDER,
    finished_step,
    path_of,
    sheet_path,
    sheets_of,
    steps_of,
)
from nightpress.pipelines.training.metrics import StepMetrics, read_metrics, rows_of
from nightpress.pipelines.training.record import TrainRecord, read_record
from nightpress.pipelines.training.spec import TrainSpec

RATE_ROWS = 20
"""The last rows of metrics, whose median is the rate."""


@dataclass(frozen=True)
class Checkpoint:
    """The last one; a training that is stopped goes on from it."""

    step: int
    path: str
    """Relative to the run, like the other paths."""
    num_bytes: int
    at: str | None
    """UTC, ISO 8601, of the metrics written with it; None where there are none."""


@dataclass(frozen=True)
class TrainingProgress:
    """How far a training is, by what is in its store."""

    step: int
    """Of the last checkpoint: what came after it is not in the store."""
    max_train_steps: int
    loss: float | None
    """Of the last row of metrics up to there."""
    images_per_s: float | None
    left_s: float | None
    """At that rate; 0 at the end, None without a rate."""
    checkpoint: Checkpoint | None
    samples: str | None
    """The last sheet."""
    model: str | None
    """Folder of the trained model; after a longer job has begun, the shorter one's."""
    complete: bool
    """All steps are done, and the model is written."""


@dataclass(frozen=True)
class TrainingRun:
    """One run directory of `nightpress train`; `open_training` makes it."""

    store: Store
    record: TrainRecord
    spec: TrainSpec
    """The job that goes on: the record's, unless the job file says otherwise by now."""

    @property
    def url(self) -> str:
        """Of the run directory."""
        return self.store.url

    @property
    def recipe(self) -> str:
        """`autoencoder`, `denoiser` or `lora`."""
        return str(self.record.spec.as_dict()["recipe"])

    def progress(self) -> TrainingProgress:
        """How far it is now.

        Raises:
            CheckpointError: the table of metrics is damaged.
            StoreError: the store cannot be reached.
        """
        steps, sheets = steps_of(self.store), sheets_of(self.store)
        step = steps[-1] if steps else 0
        rows = [row for row in rows_of(read_metrics(self.store)) if row.step <= step]
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
            samples=sheet_path(sheets[-1]) if sheets else None,
            model=model,
            complete=finished_step(self.store) >= total,
        )

    def _left_s(self, step: int, images_per_s: float | None) -> float | None:
        options = self.spec.training
        left = max(0, options.max_train_steps - step) * options.train_batch_size
        return left / images_per_s if images_per_s else None

    def _checkpoint(self, step: int, rows: list[StepMetrics]) -> Checkpoint:
        at = rows[-1].at.astimezone(UTC).isoformat(timespec="seconds") if rows else None
        num_bytes = self.store.size(path_of(step)) or 0
        return Checkpoint(step, path_of(step), num_bytes, at)


def open_training(store: Store, spec: TrainSpec | None = None) -> TrainingRun | None:
    """The training in a run directory, finished or not; None where none has begun.

    Args:
        store: of the run directory.
        spec: the job as its file says it by now, where that is known.

    Raises:
        RunNotFound: it is no training of this version.
        StoreError: the store cannot be reached.
    """
    record = read_record(store)
    return None if record is None else TrainingRun(store, record, spec or record.spec)


def age_s(at: str) -> float:
    """Seconds since a moment of a record."""
    return (datetime.now(UTC) - datetime.fromisoformat(at)).total_seconds()
