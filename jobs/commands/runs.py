"""`nightpress runs`."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime

import click
from rich.console import Console
from rich.table import Table

from nightpress.jobs.commands.common import json_option, storage_option, storage_options
from nightpress.jobs.commands.json_output import print_result
from nightpress.jobs.runs.list_runs import RunSummary, list_runs
from nightpress.pipelines.formatting import duration
from nightpress.pipelines.job.cost_section import money

MAX_WIDTH = 400
"""Characters of a line where no terminal has a width."""

RIGHT = ("code", "images", "failed", "starts", "cost", "an image")


@click.command("runs")
@click.argument("output")
@storage_option
@json_option
def command(output: str, storage_overrides: tuple[str, ...], as_json: bool) -> None:
    """List the runs in OUTPUT, the folder that a job's key `output` names.

    For each run: how it stands, the exit code of the last `nightpress run`, how many images are
    done, how long all its starts took together, and what they cost. Everything is read from the
    store.
    """
    runs = list_runs(output, storage=storage_options(storage_overrides))
    if as_json:
        print_result({"output": output, "runs": [asdict(run) for run in runs]})
        return
    width = None if sys.stdout.isatty() else MAX_WIDTH
    # The name of a folder may hold what rich would read as markup.
    console = Console(width=width, highlight=False, markup=False, emoji=False)
    console.print(table_of(runs))
    for run in runs:
        if run.reason:
            click.echo(f"{_shown(run.name)}: {_shown(run.reason)}")


def table_of(runs: Sequence[RunSummary]) -> Table:
    """One line for each run."""
    names = ["run", "state", "code", "images", "failed", "began", "took", "starts"]
    has_cost = any(run.cost is not None for run in runs)
    names += ["cost", "an image"] if has_cost else []
    table = Table(box=None, header_style="")
    for name in names:
        is_number = name in RIGHT
        table.add_column(name, justify="right" if is_number else "left", no_wrap=True)
    for run in runs:
        cells = _cells(run) + (_cost_cells(run) if has_cost else [])
        table.add_row(*cells)
    return table


def _cells(run: RunSummary) -> list[str]:
    done = "" if run.num_done is None else f"{run.num_done:,}"
    is_all = run.num_done == run.num_images
    return [
        _shown(run.name),
        run.state,
        "" if run.exit_code is None else str(run.exit_code),
        done if is_all else f"{done} of {run.num_images:,}",
        f"{run.num_failed:,}" if run.num_failed else "",
        "" if run.created_at is None else _moment(run.created_at),
        "" if run.duration_s is None else duration(run.duration_s),
        f"{run.num_starts:,}" if run.num_starts else "",
    ]


def _cost_cells(run: RunSummary) -> list[str]:
    cost = run.cost
    if cost is None:
        return ["", ""]
    each = "" if cost.per_image is None else money(cost.per_image, cost.currency)
    return [money(cost.amount, cost.currency), each]


def _shown(text: str) -> str:
    """A text of a run, which may be anybody's, without what would steer a terminal."""
    return "".join(each if each.isprintable() else "\ufffd" for each in text)


def _moment(iso: str) -> str:
    """`2026-11-28 22:00 UTC`."""
    return datetime.fromisoformat(iso).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
