"""Opening the run of images that a caller names by URL or job."""

import json

from nightpress.pipelines.errors import RunNotFound
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.run_directory.record import RUN_FILE, read_record
from nightpress.pipelines.storage import Options, Store
from nightpress.pipelines.training.layout import TRAIN_FILE

ImageTarget = str | Run | RunSpec
"""A run of images: the URL of its directory, the opened run, or its job."""


def open_images(target: ImageTarget, storage: Options | None = None) -> Run:
    """Open a run of images.

    Args:
        target: the run; an opened one is returned as it is.
        storage: fsspec options by protocol, for a URL; a job has its own.

    Raises:
        RunNotFound: there is no run, or it is a training run.
        StoreError: the store does not answer.
    """
    match target:
        case Run():
            return target
        case RunSpec():
            return _open_job(target)
    store = Store(target, storage or {})
    store.require_answer()
    record = read_record(store)
    if record is not None:
        return Run(store, record)
    if store.present([TRAIN_FILE]):
        raise RunNotFound(f"{store.url}: this is a training run, not a run of images")
    raise no_run(store)


def no_run(store: Store) -> RunNotFound:
    """The error about a folder that holds no run at all."""
    return RunNotFound(
        f"{store.url}: no run here (found neither {RUN_FILE} nor {TRAIN_FILE}); give the URL of a "
        "run directory, which is <output>/<name>, or the job file"
    )


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
