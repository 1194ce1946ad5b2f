"""`nightpress export`."""

import sys
from dataclasses import asdict

import click
from rich.console import Console

from nightpress.jobs.commands.common import (
    address_option_of,
    json_option,
    sigterm_as_ctrl_c,
    storage_option,
    take_over_option,
)
from nightpress.jobs.commands.export_picks import or_of_a_run, pick_options
from nightpress.jobs.commands.image_choice import choice_options
from nightpress.jobs.commands.json_output import print_and_exit
from nightpress.jobs.commands.times import night_options
from nightpress.jobs.errors import OK
from nightpress.jobs.progress.exporting import display_for
from nightpress.jobs.runs.export import ExportResult, export
from nightpress.pipelines.export.spec import ExportSpec
from nightpress.pipelines.formatting import duration, plural, size


@click.command("export")
@click.argument("file", metavar="FILE|RUN")
@choice_options
@pick_options
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a key of FILE, such as --set output=other-folder. May be repeated.",
)
@address_option_of("cluster.address of FILE, else RAY_ADDRESS, else a local Ray that is started")
@take_over_option
@storage_option
@night_options
@json_option
@click.pass_context
@or_of_a_run
def command(
    ctx: click.Context,
    file: str,
    overrides: tuple[str, ...],
    address: str | None,
    take_over: bool,
    as_json: bool,
) -> None:
    """Write a training set as the YAML file FILE says, or copies of chosen images of RUN.

    A set is a folder of its own, in a layout that other tools read. The same command goes on after
    an interruption, and brings the set up to date when its runs have changed: only what changed is
    written again. It takes --set, --address and --take-over.

    RUN is the URL of a run directory, or its job file. Its images are chosen by what reviewers said
    (--picked), by --where, --ids or --selection. Their copies in --to have the ratings in XMP, and
    picks.csv beside them lists them. The images of the run stay as they are, and nothing that lies
    in --to is replaced, unless --update brings an earlier export up to date. The exit code is 3 if
    an image is missing or damaged.
    """
    spec = ExportSpec.from_file(file, overrides)
    if address is not None:
        cluster = spec.cluster.model_copy(update={"address": address})
        spec = spec.model_copy(update={"cluster": cluster})
    sigterm_as_ctrl_c()
    with display_for(Console(file=sys.stderr)) as display:
        result = export(spec, display.show, take_over=take_over)
    print_and_exit(ctx, OK, asdict(result), as_text(result), as_json)


def as_text(result: ExportResult) -> str:
    """What the export holds, for a person."""
    total = sum(result.num_images.values())
    splits = ", ".join(f"{split} {number:,}" for split, number in result.num_images.items())
    lines = [f"{plural(total, 'image')}, {size(result.num_bytes)}: {splits}"]
    lines += [
        f"{plural(number, 'image')} left out: {reason}"
        for reason, number in sorted(result.num_dropped.items())
    ]
    if result.num_rows_apart:
        rows = plural(result.num_rows_apart, "prompt")
        lines.append(f"{rows} without a pair: the images are in several shards of the run")
    written = plural(result.num_written, "shard")
    lines.append(f"{written} of {result.num_shards:,} written now in {duration(result.elapsed_s)}")
    return "\n".join([*lines, "", f"set      {result.url}", f"card     {result.url}/README.md"])
