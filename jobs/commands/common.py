"""What several commands share: the job argument and its overrides."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from nightpress.pipelines.errors import RunNotFound, StoreDenied, StoreMissing
from nightpress.pipelines.job.reader import read_yaml
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.run_directory.reader import Run, open_run
from nightpress.pipelines.run_directory.record import RUN_FILE, read_record
from nightpress.pipelines.storage import QUICK, Options, Store
from nightpress.pipelines.training.record import TRAIN_FILE
from nightpress.pipelines.training.runs import TrainingRun, open_training
from nightpress.pipelines.training.spec import TrainSpec, read_train_spec

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
    store.with_policy(QUICK).size(RUN_FILE)


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


_max_failures_option = click.option(
    "--max-failures",
    metavar="N|N%",
    help="Stop early when more rows have failed again; the job's own limit does not count here.",
)


def remaking_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--address`, `--max-failures` and `--take-over`."""
    return address_option(_max_failures_option(take_over_option(function)))


def working_spec(run: Run, argument: str, address: str | None, max_failures: str | None) -> RunSpec:
    """The run's job, on the cluster where its rows are to be made again.

    Args:
        run: which.
        argument: what was typed for it. A job file says what the cluster is now; of a run
            directory it is the one that the run was begun on.
        address: stands above both.
        max_failures: of the remaking alone; None for no limit.

    Raises:
        SpecError: the limit, or the job file, says what cannot be.
    """
    cluster = RunSpec.from_file(argument).cluster if is_job_file(argument) else run.spec.cluster
    limit = None if max_failures is None else _limit(max_failures)
    cluster = cluster.model_copy(update={"max_failures": limit})
    return with_address(run.spec.model_copy(update={"cluster": cluster}), address)


def _limit(text: str) -> int | str | None:
    """As a job file's `cluster.max_failures`."""
    # A job that only lends its parser.
    job = {"name": "run", "manifest": "none", "output": "none"}
    spec = RunSpec.from_dict(job, (f"cluster.max_failures={text}",), where="--max-failures")
    return spec.cluster.max_failures
