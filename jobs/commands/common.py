"""What several commands share: the job argument and its overrides."""

from collections.abc import Callable
from typing import Any

import click

from pipelines.runs import Run, open_run
from pipelines.spec import RunSpec

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

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")


def job_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """JOB, --set and --address."""
    return job_argument(set_option(address_option(function)))


def read_job(job: str, overrides: tuple[str, ...], address: str | None = None) -> RunSpec:
    """The job file with its overrides; `--address` stands above both."""
    spec = RunSpec.from_file(job, overrides)
    if address is None:
        return spec
    return spec.model_copy(update={"cluster": spec.cluster.model_copy(update={"address": address})})


run_argument = click.argument("run")

storage_option = click.option(
    "--storage",
    multiple=True,
    metavar="PROTOCOL.OPTION=VALUE",
    help="An fsspec option, such as --storage s3.endpoint_url=http://127.0.0.1:8333.",
)


def open_run_argument(run: str, storage: tuple[str, ...]) -> Run:
    """The run at a URL, or the one that a job file makes."""
    if run.endswith((".yaml", ".yml")):
        spec = RunSpec.from_file(run, tuple(f"storage.{option}" for option in storage))
        return open_run(spec.url, spec.storage)
    # A job that only lends its parser: the options follow the same rules as in a job file.
    lender = RunSpec.from_dict(
        {"name": "run", "manifest": run, "output": run},
        tuple(f"storage.{option}" for option in storage),
        where="--storage",
    )
    return open_run(run, lender.storage)
