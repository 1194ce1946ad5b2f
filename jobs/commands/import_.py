"""`nightpress import`."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import click

from nightpress.jobs.commands.common import json_option, storage_option, storage_options
from nightpress.jobs.commands.json_output import print_result
from nightpress.pipelines.campaign.importing.importer import (
    LISTS_FOLDER,
    Imported,
    import_lists,
)
from nightpress.pipelines.campaign.importing.output_text import Kind
from nightpress.pipelines.campaign.importing.reading import TOOL_NAMES
from nightpress.pipelines.errors import problem_lines
from nightpress.pipelines.formatting import plural
from nightpress.pipelines.storage.urls import public

HEADINGS: dict[Kind, str] = {
    "converted": "converted",
    "kept as text": "kept as text",
    "not converted": "left out",
}


@click.command("import")
@click.argument("folder")
@click.option(
    "-o", "--output", required=True, metavar="URL", help="The folder to write, a new one."
)
@click.option(
    "--from",
    "tool",
    type=click.Choice(list(TOOL_NAMES)),
    help="Whose syntax the entries have. [default: SwarmUI's, if there are tags such as "
    "<random:...>]",
)
@click.option(
    "--wrap",
    default="__",
    show_default=True,
    metavar="TEXT",
    help="What stands around the name of a list in sd-dynamic-prompts.",
)
@click.option(
    "--leave-out",
    is_flag=True,
    help="Leave out what cannot be converted, instead of writing nothing; it stays in the lists as "
    "comments.",
)
@storage_option
@json_option
def command(
    folder: str,
    output: str,
    tool: Any,
    wrap: str,
    leave_out: bool,
    storage_overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Turn FOLDER, a wildcard folder of SwarmUI or sd-dynamic-prompts, into lists of a campaign.

    Writes the lists in nightpress's syntax and a campaign that uses one of them, and says what was
    changed, what was kept as text, and what could not be converted. If there is anything of the
    last kind, nothing is written and the exit code is 2, unless --leave-out is given. FOLDER and
    the output may be any fsspec URLs; the folder itself is not changed.
    """
    if not wrap.strip():
        raise click.UsageError("--wrap needs a text such as __")
    imported = import_lists(
        folder,
        output,
        tool=tool,
        wrap=wrap,
        leave_out=leave_out,
        options=storage_options(storage_overrides),
    )
    if as_json:
        print_result(_values(imported))
    else:
        click.echo("\n".join(lines(imported)))


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
