"""`nightpress fid`."""

from dataclasses import asdict

import click
from rich.console import Console

from nightpress.jobs.commands.common import (
    image_target,
    json_option,
    storage_option,
    storage_options,
)
from nightpress.jobs.commands.json_output import print_and_exit
from nightpress.jobs.errors import OK
from nightpress.jobs.progress.lines import display_for
from nightpress.jobs.runs.fid import FidResult, fid
from nightpress.jobs.runs.image_sets import SUFFIXES
from nightpress.pipelines.job.spec import RunSpec


@click.command("fid")
@click.argument("images", metavar="SET")
@click.option(
    "--reference",
    required=True,
    metavar="SET",
    help="Images to compare with: a run, a folder, or image, Parquet or tar files.",
)
@click.option("--where", metavar="CONDITION", help="Condition on the metadata of the run SET.")
@click.option("--selection", metavar="NAME", help="A selection of the run SET.")
@storage_option
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    images: str,
    reference: str,
    where: str | None,
    selection: str | None,
    storage_overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Measure the Frechet Inception distance (FID) of the images of SET from reference images.

    SET is a run, given as its URL or job file; or a folder, a file or a pattern of PNG, JPEG and
    WebP files, of Parquet files with a column image, and of tar files, so an export as well.
    Nothing is written. FID is biased for few images: below 2,048 it says so.
    """
    targets = [set_target(each, storage_overrides) for each in (images, reference)]
    with display_for(Console(stderr=True)) as display:
        result = fid(
            targets[0],
            targets[1],
            display.show,
            where=where,
            selection=selection,
            storage=storage_options(storage_overrides),
        )
    print_and_exit(ctx, OK, asdict(result), as_text(result), as_json)


def set_target(images: str, storage_overrides: tuple[str, ...]) -> str | RunSpec:
    """What SET means: a job in a file, or a URL."""
    is_files = images.lower().endswith(SUFFIXES)  # no job has such a name
    return images if is_files else image_target(images, storage_overrides)


def as_text(result: FidResult) -> str:
    """The distance, of how many images it is, and how it was measured."""
    lines = [
        f"FID {result.fid:.4g}",
        f"images     {result.num_images:,} of {result.url}",
        f"reference  {result.num_reference:,} of {result.reference}",
        f"features   {result.network}, on {result.device}",
        f"resized    {result.resize}",
    ]
    return "\n".join([*lines, *(f"warning: {each}" for each in result.warnings)])
