"""`nightpress models`."""

import sys
from collections.abc import Sequence
from dataclasses import asdict

import click
from rich.console import Console
from rich.table import Table

from nightpress.jobs.commands.common import json_option, storage_option, storage_options
from nightpress.jobs.commands.json_output import print_result
from nightpress.jobs.runs.list_models import ModelSummary, list_models
from nightpress.pipelines.formatting import size

MAX_WIDTH = 400
"""Characters of a line where no terminal has a width."""


@click.command("models")
@click.argument("sources", nargs=-1, metavar="[SOURCE]...")
@click.option(
    "--config",
    metavar="FOLDER",
    help="Folder, or its URL, with configurations and tokenizers for the models in one file.",
)
@storage_option
@json_option
def command(
    sources: tuple[str, ...], config: str | None, storage_overrides: tuple[str, ...], as_json: bool
) -> None:
    """List the models that a job on this machine can use.

    SOURCE is `builtin`, `hub` for the hub's cache on this machine, a hub id in it, a file, or a
    folder or URL, below which all models are listed; without any, `builtin` and `hub`. No weight
    is loaded and no hub is asked. What cannot be used is listed with the reason.
    """
    found = list_models(sources, config=config, storage=storage_options(storage_overrides))
    if as_json:
        print_result({"models": [asdict(model) for model in found]})
        return
    if not found:
        click.echo("no models")
        return
    width = None if sys.stdout.isatty() else MAX_WIDTH
    # The name of a folder may hold what rich would read as markup.
    console = Console(width=width, highlight=False, markup=False, emoji=False)
    console.print(table_of(found))
    for model in found:
        for line in (*model.notes, *filter(None, [model.reason])):
            click.echo(f"{_shown(model.source)}: {_shown(line)}")


def table_of(models: Sequence[ModelSummary]) -> Table:
    """One line for each model."""
    table = Table(box=None, header_style="")
    for name in ("model", "is", "size", "float32", "bfloat16", "modes", "licence", "ready"):
        is_number = name in ("float32", "bfloat16")
        table.add_column(name, justify="right" if is_number else "left", no_wrap=True)
    for model in models:
        table.add_row(*_cells(model))
    return table


def _cells(model: ModelSummary) -> list[str]:
    in_memory = model.weight_bytes
    return [
        _shown(model.source),
        model.family or model.pipeline or "",
        "" if model.width is None else f"{model.width} x {model.height}",
        *(size(in_memory[each]) if each in in_memory else "" for each in ("float32", "bfloat16")),
        ", ".join(model.modes),
        _shown(model.licence or ""),
        "yes" if model.is_ready else "no",
    ]


def _shown(text: str) -> str:
    """A text of a model, which may be anybody's, without what would steer a terminal."""
    return "".join(each if each.isprintable() else "\ufffd" for each in text)
