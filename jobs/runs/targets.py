"""Opening the run that a caller names by URL or job."""

import json

from nightpress.pipelines.errors import RunNotFound
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.run_directory.record import RUN_FILE, read_record
from nightpress.pipelines.storage import Options, Store
from nightpress.pipelines.training.record import TRAIN_FILE
from nightpress.pipelines.training.runs import TrainingRun, open_training
from nightpress.pipelines.training.spec import TrainSpec

ImageTarget = str | Run | RunSpec
"""A run of images: the URL of its directory, the opened run, or its job."""

Target = ImageTarget | TrainingRun | TrainSpec
"""A run of images, or a training run."""


def open_images(target: ImageTarget, storage: Options | None = None) -> Run:
    """Open a run of images.

    Args:
        target: the run; an opened one is returned as it is.
        storage: fsspec options by protocol, for a URL; a job has its own.

    Raises:
        RunNotFound: there is no run, or it is a training run.
        StoreError: the store does not answer.
    """
    opened = open_any(target, storage)
    if isinstance(opened, TrainingRun):
        raise RunNotFound(f"{opened.url}: this is a training run, not a run of images")
    return opened


def open_any(target: Target, storage: Options | None = None) -> Run | TrainingRun:
    """Open a run of images or a training run; see `open_images`."""
    match target:
        case Run() | TrainingRun():
            return target
        case RunSpec():
            return _open_job(target)
        case TrainSpec():
            return _open_training_job(target)
    store = Store(target, storage or {})
    store.require_answer()
    record = read_record(store)
    found = Run(store, record) if record is not None else open_training(store)
    if found is None:
        raise RunNotFound(
            f"{store.url}: no run here (found neither {RUN_FILE} nor {TRAIN_FILE}); give the URL "
            "of a run directory, which is <output>/<name>, or the job file"
        )
    return found


def failure_limit(limit: int | str | None, where: str) -> int | str | None:
    """A failure limit such as 100 or `5%`, checked as a job file's `cluster.max_failures`.

    Args:
        limit: a number or percentage, as text too; None for no limit.
        where: what an error message calls it.

    Raises:
        SpecError: it is neither.
    """
    if limit is None:
        return None
    job = {"name": "run", "output": "none"}  # the rest of a job, which is not read
    text = str(limit)
    value = text if text.isdecimal() else json.dumps(text)  # in quotes it is no other YAML
    override = f"cluster.max_failures={value}"
    return RunSpec.from_dict(job, (override,), where=where).cluster.max_failures


def _open_job(job: RunSpec) -> Run:
    store = Store(job.url, job.storage)
    store.require_answer()
    record = read_record(store)
    if record is None:
        raise RunNotFound(
            f"{store.url}: no run here ({RUN_FILE} is missing); nightpress run starts it"
        )
    return Run(store, record)


def _open_training_job(job: TrainSpec) -> TrainingRun:
    store = Store(job.url, job.storage)
    store.require_answer()
    found = open_training(store)
    if found is None:
        raise RunNotFound(
            f"{job.url}: no training run here ({TRAIN_FILE} is missing); nightpress train starts it"
        )
    return found
