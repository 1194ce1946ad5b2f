"""Arguments and options that several commands share, and how they are read."""

import math
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

import click

from nightpress.diffusion_core.errors import UnsafeWeights
from nightpress.jobs.commands.times import Night
from nightpress.jobs.runs.extend_options import CHANGED, ExtendOptions
from nightpress.jobs.runs.targets import failure_limit
from nightpress.pipelines.errors import RunNotFound, SpecError, StoreDenied, StoreMissing
from nightpress.pipelines.job.night import NIGHT_KEYS, PLACEHOLDER, uses_night
from nightpress.pipelines.job.reader import apply_overrides, read_yaml
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.run_directory.record import RUN_FILE
from nightpress.pipelines.storage import Options, is_url
from nightpress.pipelines.training.layout import TRAIN_FILE

if TYPE_CHECKING:  # most commands are given jobs that make images
    from nightpress.pipelines.training.spec import TrainSpec

S = TypeVar("S", RunSpec, "TrainSpec")

TONIGHT = Night()

job_argument = click.argument("job", type=click.Path(dir_okay=False))

set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a key of the job file, such as --set output=other-folder. May be repeated.",
)


def address_option_of(default: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """--address, with what the command does without it."""
    return click.option(
        "--address", metavar="ADDRESS", help=f"Ray cluster to join. [default: {default}]"
    )


address_option = address_option_of(
    "cluster.address of the job file, else RAY_ADDRESS, else a local Ray that is started"
)

take_over_option = click.option(
    "--take-over", is_flag=True, help="Take over from a running process."
)


class Money(click.ParamType[float]):
    """An amount of money above zero, without its currency."""

    name = "amount"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Parse a number."""
        try:
            amount = float(value)
        except ValueError:
            amount = math.nan
        if not (math.isfinite(amount) and amount > 0):
            self.fail(f"{value!r} is not an amount above zero, such as 40 or 12.50", param, ctx)
        return amount


budget_option = click.option(
    "--budget",
    type=Money(),
    metavar="AMOUNT",
    help="Stop at a shard boundary, with exit code 4, before the run costs more than this, in the "
    "currency of the job's key cost. All its starts count: the first command, and each one that "
    "resumed it.",
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")


def job_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """JOB, --set and --address."""
    return job_argument(set_option(address_option(function)))


def sigterm_as_ctrl_c() -> None:
    """Make SIGTERM end the command as Ctrl-C does: with a message and exit code 4."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def require_writable(option: str, path: Path | None) -> None:
    """Check before any work that an output file can be written.

    Args:
        option: the option that names the file, such as `--out`.
        path: the file, on this machine; None for none.

    Raises:
        StoreMissing: its folder does not exist.
        StoreDenied: it is a folder, or may not be written.
    """
    if path is None:
        return
    try:
        if not path.parent.is_dir():
            raise StoreMissing(f"{option} {path}: {path.parent} is not a folder")
        if path.is_dir():
            raise StoreDenied(f"{option} {path}: this is a folder, not a file")
        existing = path if path.exists() else path.parent
    except OSError as error:  # the name is too long, or a folder above it may not be read
        raise StoreDenied(f"{option} {path}: {error.strerror}") from error
    if not os.access(existing, os.W_OK):
        raise StoreDenied(f"{option} {path}: permission denied")


def read_job(
    job: str,
    overrides: tuple[str, ...],
    address: str | None = None,
    night: Night = TONIGHT,
) -> RunSpec:
    """Read a job file with its overrides; `--address` wins over both.

    Raises:
        SpecError: it is not a valid job, or it has no `{night}` for the date of `night`.
    """
    spec = with_address(
        RunSpec.from_file(job, overrides, night=night.given, zone=night.zone), address
    )
    if night.given is not None:
        _require_use_of_night(Path(job), overrides)
    return spec


def _require_use_of_night(job: Path, overrides: tuple[str, ...]) -> None:
    values = read_yaml(job)
    values.setdefault("name", job.name)
    apply_overrides(values, overrides)
    if not uses_night(values):
        raise SpecError(
            f"--night: {job} has no {PLACEHOLDER} in {', '.join(NIGHT_KEYS)}, so it is the same "
            "job on every night"
        )


def with_limit(overrides: tuple[str, ...], max_failures: int | str | None) -> tuple[str, ...]:
    """The overrides, with the value of --max-failures if there is one."""
    return (
        overrides if max_failures is None else (*overrides, f"cluster.max_failures={max_failures}")
    )


def with_address(spec: S, address: str | None) -> S:
    """The job with the cluster address from the command line, if there is one."""
    if address is None:
        return spec
    cluster = spec.cluster.model_copy(update={"address": address})
    moved: S = spec.model_copy(update={"cluster": cluster})
    return moved


JOB_SUFFIXES = (".yaml", ".yml")

run_argument = click.argument("run")

storage_option = click.option(
    "--storage",
    "storage_overrides",
    multiple=True,
    metavar="PROTOCOL.OPTION=VALUE",
    help="An fsspec option, such as --storage s3.endpoint_url=http://127.0.0.1:8333. "
    "May be repeated.",
)


def storage_options(overrides: tuple[str, ...]) -> Options:
    """The values of `--storage`, checked as a job file's `storage`."""
    job = {"name": "run", "output": "none"}  # the rest of a job, which is not read
    return RunSpec.from_dict(job, _of_storage(overrides), where="--storage").storage


def _of_storage(overrides: tuple[str, ...]) -> tuple[str, ...]:
    """The values of `--storage` as overrides of a job.

    Raises:
        SpecError: one is not of that form, or replaces what another has set.
    """
    for override in overrides:
        key, equals, _ = override.partition("=")
        if not equals or not all(part.strip() for part in key.split(".")):
            raise SpecError(
                f"--storage {override}: must be PROTOCOL.OPTION=VALUE, such as "
                "s3.endpoint_url=http://127.0.0.1:8333"
            )
    of_a_job = tuple(f"storage.{override}" for override in overrides)
    try:
        apply_overrides({}, of_a_job)
    except SpecError as error:
        text = str(error).replace("--set storage.", "--storage ")
        raise SpecError(text.replace(": storage.", ": ")) from error
    return of_a_job


@contextmanager
def pickles_by_option() -> Iterator[None]:
    """Make a refusal of pickled weights name --allow-pickle, for commands without a job file."""
    try:
        yield
    except UnsafeWeights as error:
        key = "set `model.allow_pickle: true`"
        raise UnsafeWeights(str(error).replace(key, "give --allow-pickle")) from error


def run_target(
    run: str,
    storage_overrides: tuple[str, ...],
    night: Night = TONIGHT,
) -> "str | RunSpec | TrainSpec":
    """What RUN means: the job in a file, or the URL of a run directory.

    Raises:
        RunNotFound: it is a file of a run directory.
        SpecError: it is a file that is not a job, or no job that has a `{night}` for its date.
    """
    path = _job_file(run)
    if path is None or not _is_training(path):
        return image_target(run, storage_overrides, night)
    if night.given is not None:
        raise SpecError(f"--night: {run} is a training job, which has no {PLACEHOLDER}")
    from nightpress.pipelines.training.spec import read_train_spec

    return read_train_spec(path, _of_storage(storage_overrides))


def image_target(
    run: str,
    storage_overrides: tuple[str, ...],
    night: Night = TONIGHT,
) -> str | RunSpec:
    """As `run_target`, for commands that only work on runs of images.

    Raises:
        RunNotFound: it is a file of a run directory, or a training job.
        SpecError: it is a file that is not a job.
    """
    path = _job_file(run)
    if path is None:
        if night.given is not None:
            raise SpecError(f"--night: {run} is one run; only a job file has a {PLACEHOLDER}")
        return run
    if _is_training(path):
        raise RunNotFound(f"{run}: this is a training job, not a run of images")
    return read_job(str(path), _of_storage(storage_overrides), night=night)


def _job_file(run: str) -> Path | None:
    """The job file that RUN names; None if it names a run directory."""
    path = Path(run)
    if is_url(run) or path.is_dir() or not (path.is_file() or path.suffix in JOB_SUFFIXES):
        return None
    if path.name in (RUN_FILE, TRAIN_FILE):
        raise RunNotFound(f"{run}: this is a file of a run; name its folder, {path.parent}")
    return path


def _is_training(path: Path) -> bool:
    return "recipe" in read_yaml(path)


def max_failures_option(help_text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """--max-failures, with the help text of its command."""
    return click.option(
        "--max-failures",
        metavar="N|N%",
        callback=lambda context, option, value: failure_limit(value, "--max-failures"),
        help=help_text,
    )


_repair_failures_option = max_failures_option(
    "Stop early when more rows than this have failed again: a number, or a share of the finished "
    "rows such as 5%. The job's own limit does not apply."
)


allow_pickle_option = click.option(
    "--allow-pickle",
    is_flag=True,
    help="Load pickled weights, which runs code, if the run was made with them, and run the Python "
    "files that score its images. A run's own record is not enough to allow that.",
)


class RemakeOptions(TypedDict):
    """How images of a run are made again; keyword arguments of `retry`, `again` and `verify`."""

    address: str | None
    max_failures: int | str | None
    allow_pickle: bool
    take_over: bool


def repair_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--address, --max-failures, --allow-pickle, --take-over; the command gets them as `remake`."""

    @wraps(command)
    def with_options(
        *args: Any,
        address: str | None,
        max_failures: int | str | None,
        allow_pickle: bool,
        take_over: bool,
        **others: Any,
    ) -> Any:
        remake = RemakeOptions(
            address=address,
            max_failures=max_failures,
            allow_pickle=allow_pickle,
            take_over=take_over,
        )
        return command(*args, remake=remake, **others)

    options = allow_pickle_option(take_over_option(with_options))
    return address_option(_repair_failures_option(options))


def extend_options(help_text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """--extend, with the help text of its command, and --changed; it gets them as `growing`."""
    extend = click.option("--extend", is_flag=True, help=help_text)
    changed = click.option(
        "--changed",
        type=click.Choice(CHANGED),
        default="refuse",
        show_default=True,
        help="With --extend, what to do if rows have changed under the same id: refuse, or make "
        "their images again as new variants beside the old ones.",
    )

    def decorated(command: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(command)
        def with_options(*args: Any, extend: bool, changed: str, **others: Any) -> Any:
            return command(*args, growing=ExtendOptions.of(extend, changed), **others)

        return extend(changed(with_options))

    return decorated


EXTEND = "Add the images that the manifest has gained since the run was planned."
"""The help text of --extend for commands that make images."""
