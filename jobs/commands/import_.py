"""`nightpress import`."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

import click

from nightpress.jobs.commands.common import json_option, storage_option, storage_options
from nightpress.jobs.commands.imported_images import image_lines, image_values
from nightpress.jobs.commands.json_output import print_result
from nightpress.jobs.errors import OK, SOME_FAILED
from nightpress.pipelines.campaign.importing.dynamic_prompts import DEFAULT_WRAP
from nightpress.pipelines.campaign.importing.importer import (
    LISTS_FOLDER,
    Imported,
    import_lists,
)
from nightpress.pipelines.campaign.importing.output_text import Kind
from nightpress.pipelines.campaign.importing.reading import TOOL_NAMES
from nightpress.pipelines.errors import problem_lines
from nightpress.pipelines.formatting import plural
from nightpress.pipelines.image_files.importing.importer import import_images
from nightpress.pipelines.manifest.expansion import OUTPUT_SUFFIXES
from nightpress.pipelines.storage.urls import public

HEADINGS: dict[Kind, str] = {
    "converted": "converted",
    "kept as text": "kept as text",
    "not converted": "left out",
}


@click.command("import")
@click.argument("source")
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="URL",
    help="A manifest to write (.csv, .jsonl or .parquet), or for word lists a new folder.",
)
@click.option(
    "--model",
    metavar="SOURCE",
    help="The model that the job for imported images names. [default: what the images call it]",
)
@click.option(
    "--loras",
    metavar="URL",
    help="The folder with the LoRAs of imported images. [default: where the run starts]",
)
@click.option(
    "--from",
    "tool",
    type=click.Choice(list(TOOL_NAMES)),
    help="Whose syntax the entries of word lists have. [default: SwarmUI's, if there are tags such "
    "as <random:...>]",
)
@click.option(
    "--wrap",
    default=DEFAULT_WRAP,
    show_default=True,
    metavar="TEXT",
    help="What stands around the name of a list in sd-dynamic-prompts.",
)
@click.option(
    "--leave-out",
    is_flag=True,
    help="Leave out entries of word lists that cannot be converted, instead of writing nothing; "
    "they stay in the lists as comments.",
)
@storage_option
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    source: str,
    output: str,
    model: str | None,
    loras: str | None,
    tool: Any,
    wrap: str,
    leave_out: bool,
    storage_overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Turn images or word lists of other programs into a manifest, or lists of a campaign.

    If the output is a manifest, SOURCE is an image of A1111, Forge, ComfyUI or nightpress, a text
    of A1111's parameters, a graph of ComfyUI, or a folder of these. Writes a row for each, a job
    beside the manifest, and notes of what could not be carried over.

    Otherwise SOURCE is a wildcard folder of SwarmUI or sd-dynamic-prompts. Writes its lists in
    nightpress's syntax and a campaign that uses one of them. If something could not be converted,
    nothing is written and the exit code is 2, unless --leave-out is given.

    SOURCE and the output may be any fsspec URLs; the source itself is not changed.
    """
    options = storage_options(storage_overrides)
    if output.lower().endswith(OUTPUT_SUFFIXES):
        _refuse(ctx, ("tool", "wrap", "leave_out"), "word lists")
        images = import_images(source, output, model=model, loras=loras, options=options)
        _print(as_json, image_values(images), image_lines(images))
        ctx.exit(SOME_FAILED if images.not_read else OK)
    _refuse(ctx, ("model", "loras"), "images, whose output is a manifest")
    if not wrap.strip():
        raise click.UsageError("--wrap needs a text such as __")
    imported = import_lists(
        source, output, tool=tool, wrap=wrap, leave_out=leave_out, options=options
    )
    _print(as_json, _values(imported), lines(imported))


def _refuse(ctx: click.Context, names: tuple[str, ...], what: str) -> None:
    """Refuse options that the other kind of import has."""
    for name in names:
        if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            option = {"tool": "from", "leave_out": "leave-out"}.get(name, name)
            raise click.UsageError(f"--{option} is for {what}")


def _print(as_json: bool, values: dict[str, Any], text: Iterable[str]) -> None:
    if as_json:
        print_result(values)
    else:
        click.echo("\n".join(text))


def lines(imported: Imported) -> Iterator[str]:
    """What was said about the folder, and what was written."""
    for kind, heading in HEADINGS.items():
        problems = [each.problem for each in imported.findings if each.kind == kind]
        if problems:
            yield f"{heading}:"
            yield from (f"  {line}" for line in problem_lines(problems))
    if imported.skipped:
        yield "not read:"
        yield from (f"  {each}" for each in imported.skipped)
    left_out = f", {imported.num_left_out:,} left out" if imported.num_left_out else ""
    yield (
        f"read as {TOOL_NAMES[imported.tool]}: {plural(imported.num_lists, 'list')}, "
        f"{_entries(imported.num_entries)}{left_out}"
    )
    url = public(imported.url)
    campaign = f"{url}/{imported.campaign}"
    yield f"wrote {url}/{LISTS_FOLDER}/ and {campaign}; next: nightpress expand {campaign}"


def _entries(number: int) -> str:
    return f"{number:,} {'entry' if number == 1 else 'entries'}"


def _values(imported: Imported) -> dict[str, Any]:
    findings = [{"kind": each.kind, **asdict(each.problem)} for each in imported.findings]
    return {
        **asdict(imported),
        "num_left_out": imported.num_left_out,
        "findings": findings,
    }
