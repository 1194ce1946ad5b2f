"""`nightpress expand`."""

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict

import click

from nightpress.jobs.commands.common import json_option, storage_option, storage_options
from nightpress.jobs.commands.json_output import print_result
from nightpress.jobs.runs.expand import Counts, DrawnText, Expansion, expand
from nightpress.pipelines.campaign.combining import MAX_ROWS
from nightpress.pipelines.formatting import plural
from nightpress.pipelines.manifest.expansion import (
    OUTPUT_SUFFIXES,
    ChangedRow,
    ManifestDifference,
)

DEFAULT_SHOWN = 10

MAX_SHOWN = 10_000


@click.command("expand")
@click.argument("file")
@click.option("--count", is_flag=True, help="Print how many rows there are, without making them.")
@click.option(
    "--show",
    "num_shown",
    type=click.IntRange(1, MAX_SHOWN),
    metavar="N",
    help="Print the first N rows, and mark in each what was drawn, that is chosen at random. "
    "[default: 10]",
)
@click.option(
    "-o",
    "--output",
    metavar="OUT",
    help="Write all rows into a new .parquet, .csv or .jsonl file, at any URL.",
)
@click.option(
    "--diff",
    "old",
    metavar="OLD",
    help="Print which rows come, go, change and stay, compared with another manifest.",
)
@storage_option
@json_option
def command(
    file: str,
    count: bool,
    num_shown: int | None,
    output: str | None,
    old: str | None,
    storage_overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show what the campaign FILE stands for, before anything is made.

    A campaign is a manifest in the form of axes, word lists and templates; `nightpress run`,
    `plan` and `preview` take it as it is.
    """
    chosen = sum([count, num_shown is not None, output is not None, old is not None])
    if chosen > 1:
        raise click.UsageError("give one of --count, --show, -o and --diff")
    if output is not None and not output.lower().endswith(OUTPUT_SUFFIXES):
        allowed = ", ".join(OUTPUT_SUFFIXES)
        raise click.UsageError(f"-o {output}: the name must end in one of {allowed}")
    expansion = expand(file, storage=storage_options(storage_overrides))
    if output is not None:
        _write(expansion, output, as_json)
    elif old is not None:
        _print_difference(expansion, old, as_json)
    elif count:
        _print_counts(expansion, as_json)
    else:
        _print_rows(expansion, num_shown or DEFAULT_SHOWN, as_json)


def _write(expansion: Expansion, output: str, as_json: bool) -> None:
    num_rows = expansion.write(output)
    if as_json:
        print_result({"output": output, "num_rows": num_rows})
    else:
        click.echo(f"wrote {plural(num_rows, 'row')} to {output}")


def _print_counts(expansion: Expansion, as_json: bool) -> None:
    counts = expansion.counts()
    if as_json:
        print_result(asdict(counts))
    else:
        click.echo("\n".join(count_lines(counts)))


def count_lines(counts: Counts) -> list[str]:
    """How many rows there are, one step a line."""
    lines = [("axis " + name, f"{plural(number, 'value')}") for name, number in counts.axes.items()]
    lines.append(("combinations", f"{counts.num_combinations:,}"))
    if counts.num_allowed != counts.num_combinations:
        lines.append(("allowed by rules", f"{counts.num_allowed:,}"))
    lines += [
        (f"texts of {name}", f"{number:,} for each combination")
        for name, number in counts.texts.items()
    ]
    for number, why in (
        (counts.num_without_text, "rules about the text"),
        (counts.num_repeated, "duplicates"),
    ):
        if number:
            lines.append(("left out", f"{plural(number, 'row')}: {why}"))
    limit = f", more than the {MAX_ROWS:,} of one manifest; set draw.rows"
    lines.append(("rows", f"{counts.num_rows:,}{limit if counts.is_too_large else ''}"))
    width = max(len(name) for name, _ in lines)
    return [f"{name:<{width}}  {value}" for name, value in lines]


def _print_rows(expansion: Expansion, number: int, as_json: bool) -> None:
    rows = list(expansion.show(number))
    num_rows = expansion.num_rows
    if as_json:
        values = [
            {"id": row_id} | {name: _as_values(text) for name, text in texts.items()}
            for row_id, texts in rows
        ]
        print_result({"num_rows": num_rows, "rows": values})
        return
    for row_id, texts in rows:
        click.echo(click.style(row_id, bold=True))
        for name, text in texts.items():
            label = "" if name == "prompt" else f"{name}: "
            click.echo(f"  {label}{styled(text)}")
    if len(rows) < num_rows:
        click.echo(f"... {len(rows):,} of {plural(num_rows, 'row')}")


def styled(text: DrawnText) -> str:
    """A text with what was drawn in colour; where there is no colour, in brackets."""
    if sys.stdout.isatty() and "NO_COLOR" not in os.environ:
        pieces = [click.style(t, fg="cyan", underline=True) if d else t for t, d in text.pieces]
    else:
        pieces = [f"[{piece}]" if is_drawn else piece for piece, is_drawn in text.pieces]
    return "".join(pieces)


def _as_values(text: DrawnText) -> dict[str, object]:
    drawn = [piece for piece, is_drawn in text.pieces if is_drawn]
    return {"text": str(text), "drawn": drawn}


def _print_difference(expansion: Expansion, old: str, as_json: bool) -> None:
    difference = expansion.compare(old)
    if as_json:
        print_result(asdict(difference) | {"num_stayed": difference.num_stayed})
    else:
        click.echo("\n".join(difference_lines(difference)))


def difference_lines(difference: ManifestDifference) -> list[str]:
    """Which rows come, go, change and stay."""
    lines = [
        f"come     {difference.num_came:,}{_ids(difference.num_came, difference.came)}",
        f"go       {difference.num_went:,}{_ids(difference.num_went, difference.went)}",
        f"change   {difference.num_changed:,}",
        *_changes(difference.num_changed, difference.changed),
    ]
    if difference.num_redrawn:
        note = "only what was drawn differs; a run that grows keeps what it has"
        lines.append(f"redrawn  {difference.num_redrawn:,}: {note}")
        lines += _changes(difference.num_redrawn, difference.redrawn)
    return [*lines, f"stay     {difference.num_stayed:,}"]


def _ids(number: int, ids: Sequence[str]) -> str:
    if not number:
        return ""
    more = f" and {number - len(ids):,} more" if number > len(ids) else ""
    return f": {', '.join(ids)}{more}"


def _changes(number: int, changes: Sequence[ChangedRow]) -> list[str]:
    lines = []
    for each in changes:
        others = f" (and {', '.join(each.columns[1:])})" if len(each.columns) > 1 else ""
        lines.append(f"  {each.id}, {each.columns[0]}{others}: {each.old!r} -> {each.new!r}")
    return lines + ([f"  ... and {number - len(changes):,} more"] if number > len(changes) else [])
