"""`nightpress retry`."""

from dataclasses import asdict

import click

from nightpress.jobs.commands.common import (
    RemakeOptions,
    image_target,
    json_option,
    repair_options,
    run_argument,
    sigterm_as_ctrl_c,
    storage_option,
    storage_options,
)
from nightpress.jobs.commands.json_output import print_and_exit
from nightpress.jobs.commands.log_format import LogFormat, log_format_option
from nightpress.jobs.commands.run_display import run_display
from nightpress.jobs.commands.times import Night, night_options
from nightpress.jobs.errors import OK, SOME_FAILED
from nightpress.jobs.runs.repair import RepairResult
from nightpress.jobs.runs.retry import retry
from nightpress.pipelines.formatting import plural


@click.command("retry")
@run_argument
@storage_option
@night_options
@repair_options
@log_format_option
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    run: str,
    storage_overrides: tuple[str, ...],
    night: Night,
    remake: RemakeOptions,
    log_format: LogFormat,
    as_json: bool,
) -> None:
    """Make the failed rows of RUN again, and no others.

    RUN is the URL of a run directory, or its job file. A row that succeeds replaces its failure in
    the metadata. Rows of shards that are not committed yet are left to `nightpress run`. A job file
    also names the cluster to use; with a URL, it is --address, RAY_ADDRESS or a local Ray.
    """
    target = image_target(run, storage_overrides, night)
    storage = storage_options(storage_overrides)
    sigterm_as_ctrl_c()
    with run_display(log_format) as display:
        result = retry(
            target,
            display.show,
            **remake,
            storage=storage,
        )
    code = SOME_FAILED if result.num_failed else OK
    print_and_exit(ctx, code, asdict(result), summary(result), as_json)


def summary(result: RepairResult) -> str:
    """How many rows were tried, and how they turned out."""
    left = "those that are not made yet are left to nightpress run"
    rejected = ""
    if result.num_rejected:
        images = plural(result.num_rejected, "image")
        rejected = f"; {images} rejected by the gates: the same draws would end in the same way"
    if not result.num_rows and rejected:
        return f"{result.url}: nothing to retry{rejected} ({left})"
    if not result.num_rows:
        return f"{result.url}: nothing to retry: no image has failed ({left})"
    tried = plural(result.num_rows, "row")
    return (
        f"{tried} tried again: {result.num_ok:,} ok now, {result.num_failed:,} failed again"
        f"{rejected}"
    )
