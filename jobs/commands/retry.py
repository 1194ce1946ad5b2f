"""`nightpress retry`."""

import json
from dataclasses import asdict

import click
from rich.console import Console

from nightpress.jobs.commands.common import (
    json_option,
    open_images_argument,
    remaking_options,
    run_argument,
    stop_politely,
    storage_option,
    working_spec,
)
from nightpress.jobs.commands.exit_codes import SOME_FAILED
from nightpress.jobs.progress.lines import display_for
from nightpress.jobs.runs.repair import RepairResult, failed_amendments, remake
from nightpress.pipelines.formatting import plural


@click.command("retry")
@run_argument
@storage_option
@remaking_options
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    run: str,
    storage: tuple[str, ...],
    address: str | None,
    max_failures: str | None,
    take_over: bool,
    as_json: bool,
) -> None:
    """Make the failed rows of RUN again, and no others: its URL, or its job file.

    What is made takes the place of the failure in the metadata. Rows of shards that are not
    committed yet are for `nightpress run`. A job file also says on which cluster; a URL means the
    one that the run was begun on.
    """
    opened = open_images_argument(run, storage)
    stop_politely()
    spec = working_spec(opened, run, address, max_failures)
    failed = failed_amendments(opened)
    if failed:
        with display_for(Console(stderr=True)) as display:
            result = remake(opened, spec, failed, display.show, take_over=take_over)
    else:
        result = RepairResult(opened.url, 0, 0, 0, 0, 0)
    click.echo(json.dumps(asdict(result)) if as_json else summary(result))
    if result.num_failed:
        ctx.exit(SOME_FAILED)


def summary(result: RepairResult) -> str:
    """How it ended."""
    if not result.num_rows:
        return f"{result.url}: no committed row has failed"
    tried = plural(result.num_rows, "row")
    return f"{tried} tried again: {result.num_ok:,} ok now, {result.num_failed:,} failed again"
