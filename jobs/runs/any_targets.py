"""Opening what a caller names by URL or job: a run of images or a training run."""

from nightpress.jobs.runs.targets import ImageTarget, no_run, open_images
from nightpress.pipelines.errors import RunNotFound
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.run_directory.record import read_record
from nightpress.pipelines.storage import Options, Store
from nightpress.pipelines.training.layout import TRAIN_FILE
from nightpress.pipelines.training.runs import TrainingRun, open_training
from nightpress.pipelines.training.spec import TrainSpec

Target = ImageTarget | TrainingRun | TrainSpec
"""A run of images, or a training run."""


def open_any(target: Target, storage: Options | None = None) -> Run | TrainingRun:
    """Open a run of images or a training run; see `open_images`."""
    match target:
        case TrainingRun():
            return target
        case Run() | RunSpec():
            return open_images(target)
        case TrainSpec():
            return _open_training_job(target)
    store = Store(target, storage or {})
    store.require_answer()
    record = read_record(store)
    found = Run(store, record) if record is not None else open_training(store)
    if found is None:
        raise no_run(store)
    return found


def _open_training_job(job: TrainSpec) -> TrainingRun:
    store = Store(job.url, job.storage)
    store.require_answer()
    found = open_training(store)
    if found is None:
        raise RunNotFound(
            f"{job.url}: no training run here ({TRAIN_FILE} is missing); nightpress train starts it"
        )
    return found
