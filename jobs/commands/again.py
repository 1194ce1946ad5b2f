"""`nightpress again`."""

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
from nightpress.jobs.commands.image_choice import ImageChoice, choice_options, require_choice
from nightpress.jobs.commands.json_output import print_and_exit
from nightpress.jobs.commands.log_format import LogFormat, log_format_option
from nightpress.jobs.commands.run_display import run_display
from nightpress.jobs.commands.times import Night, night_options
from nightpress.jobs.errors import OK, SOME_FAILED
from nightpress.jobs.runs.again import AgainResult, again
from nightpress.jobs.runs.again_request import settings_of
from nightpress.pipelines.formatting import duration, plural


@click.command("again")
@run_argument
@choice_options
@click.option(
    "-n",
    "--num-images",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Other variants to make of each image.",
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="A setting that is to differ, such as --set sampling.guidance_scale=6. May be repeated.",
)
@storage_option
@night_options
@repair_options
@log_format_option
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    run: str,
    chosen: ImageChoice,
    num_images: int,
    overrides: tuple[str, ...],
    storage_overrides: tuple[str, ...],
    night: Night,
    remake: RemakeOptions,
    log_format: LogFormat,
    as_json: bool,
) -> None:
    """Make other variants of chosen images of RUN, with new seeds; nothing is replaced.

    RUN is the URL of a run directory, or its job file. The images are chosen by --ids, by --where,
    or by what reviewers said, as with --rejected, which leaves out rows of which an image of a
    later round is picked. Each new one records in its metadata and in its file which of them is its
    parent. The run's manifest is not needed. After an interruption the same command goes on with
    it.
    """
    require_choice(chosen)
    target = image_target(run, storage_overrides, night)
    sigterm_as_ctrl_c()
    with run_display(log_format) as display:
        result = again(
            target,
            display.show,
            **chosen,
            num_images=num_images,
            settings=settings_of(overrides),
            **remake,
            storage=storage_options(storage_overrides),
        )
    code = SOME_FAILED if result.num_failed else OK
    print_and_exit(ctx, code, asdict(result), summary(result), as_json)


def summary(result: AgainResult) -> str:
    """What was made, and where it is."""
    failed = f", {result.num_failed:,} failed" if result.num_failed else ""
    return "\n".join(
        [
            f"{plural(result.num_images, 'other variant')} of "
            f"{plural(result.num_parents, 'image')}: {result.num_ok:,} ok{failed}",
            f"{result.num_made:,} made now in {duration(result.elapsed_s)}",
            "",
            f"edition   {result.edition} of {result.url}",
            f"images    {result.url}/images/",
            f"report    {result.url}/report.html",
        ]
    )
