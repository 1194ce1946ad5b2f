"""What several commands share: the job argument and its overrides."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from pipelines.errors import RunNotFound, StoreDenied, StoreMissing
from pipelines.job_file import read_yaml
from pipelines.run_record import RUN_FILE, read_record
from pipelines.runs import Run, open_run
from pipelines.spec import RunSpec
from pipelines.storage import QUICK, Options, Store
from pipelines.training.record import TRAIN_FILE
from pipelines.training.runs import TrainingRun, open_training
from pipelines.training.spec import TrainSpec, read_train_spec

S = TypeVar("S", RunSpec, TrainSpec)

job_argument = click.argument("job", type=click.Path(dir_okay=False))

set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Replace a key of the job file, such as --set batch.size=8; may be repeated.",
)

address_option = click.option(
    "--address",
    metavar="ADDRESS",
    help="Of the Ray cluster to join. [default: RAY_ADDRESS, else a local Ray]",
)

take_over_option = click.option(
    "--take-over", is_flag=True, help="Push aside another start that works on the same."
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")


def job_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """JOB, --set and --address."""
    return job_argument(set_option(address_option(function)))


def stop_politely() -> None:
    """Have a scheduler's polite stop end a command like Ctrl-C: in words, with exit code 4."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def require_writable(option: str, path: Path) -> None:
    """See before any work that a file which is asked for can be written.

    Args:
        option: that names the file, such as `--out`.
        path: on this machine.

    Raises:
        StoreMissing: there is no folder for it.
        StoreDenied: it is a folder itself, or nobody lets us write there.
    """
    try:
        if not path.parent.is_dir():
            raise StoreMissing(f"{option} {path}: {path.parent} is no folder")
        if path.is_dir():
            raise StoreDenied(f"{option} {path}: a folder, where a file is to be written")
        asked = path if path.exists() else path.parent
    except OSError as error:  # too long a name, or above it a folder that is closed to us
        raise StoreDenied(f"{option} {path}: {error.strerror}") from error
    if not os.access(asked, os.W_OK):
        raise StoreDenied(f"{option} {path}: permission denied")


def read_job(job: str, overrides: tuple[str, ...], address: str | None = None) -> RunSpec:
    """The job file with its overrides; `--address` stands above both."""
    return with_address(RunSpec.from_file(job, overrides), address)


def with_address(spec: S, address: str | None) -> S:
    """The job on the cluster that the command line names, if it names one."""
    if address is None:
        return spec
    cluster = spec.cluster.model_copy(update={"address": address})
    moved: S = spec.model_copy(update={"cluster": cluster})
    return moved


run_argument = click.argument("run")

storage_option = click.option(
    "--storage",
    multiple=True,
    metavar="PROTOCOL.OPTION=VALUE",
    help="An fsspec option, such as --storage s3.endpoint_url=http://127.0.0.1:8333.",
)


def storage_options(storage: tuple[str, ...]) -> Options:
    """The values of `--storage`, by the rules of a job file's `storage`."""
    # A job that only lends its parser.
    job = {"name": "run", "manifest": "none", "output": "none"}
    return RunSpec.from_dict(job, _as_overrides(storage), where="--storage").storage


def _as_overrides(storage: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"storage.{option}" for option in storage)


def is_job_file(run: str) -> bool:
    """Whether what was typed for a run is its job file, and not its URL."""
    return run.endswith((".yaml", ".yml"))


def open_run_argument(run: str, storage: tuple[str, ...]) -> Run | TrainingRun:
    """The run or training at a URL, or the one that a job file makes.

    Raises:
        RunNotFound: there is neither.
    """
    if is_job_file(run):
        return _open_job(Path(run), _as_overrides(storage))
    store = Store(run, storage_options(storage))
    require_answer(store)
    record = read_record(store)
    found = Run(store, record) if record is not None else open_training(store)
    if found is None:
        raise RunNotFound(
            f"{store.url}: no run here (neither {RUN_FILE} nor {TRAIN_FILE} is there)"
        )
    return found


def require_answer(store: Store) -> None:
    """Find out in seconds, and not in minutes, that a store does not answer a person.

    Raises:
        StoreError: it does not.
    """
    store.patient(QUICK).size(RUN_FILE)


def open_images_argument(run: str, storage: tuple[str, ...]) -> Run:
    """As `open_run_argument`, where only a run of images will do.

    Raises:
        RunNotFound: it is a training, or nothing.
    """
    opened = open_run_argument(run, storage)
    if isinstance(opened, TrainingRun):
        raise RunNotFound(f"{opened.url}: a training, and not a run of images")
    return opened


def _open_job(path: Path, overrides: tuple[str, ...]) -> Run | TrainingRun:
    if "recipe" not in read_yaml(path):
        spec = RunSpec.from_file(path, overrides)
        require_answer(Store(spec.url, spec.storage))
        return open_run(spec.url, spec.storage)
    job = read_train_spec(path, overrides)
    store = Store(job.url, job.storage)
    require_answer(store)
    found = open_training(store, job)
    if found is None:
        raise RunNotFound(f"{job.url}: no training here ({TRAIN_FILE} is missing)")
    return found
