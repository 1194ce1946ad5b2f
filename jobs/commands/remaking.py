"""What `retry` and `verify --repair` share: where rows are made again, and when that stops."""

from collections.abc import Callable
from typing import Any

import click

from jobs.commands.common import address_option, is_job_file, take_over_option, with_address
from pipelines.runs import Run
from pipelines.spec import RunSpec

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
