"""`nightpress deliver`."""

from dataclasses import asdict
from typing import Any, Literal

import click
from rich.console import Console

from nightpress.jobs.commands.common import (
    image_target,
    json_option,
    sigterm_as_ctrl_c,
    storage_option,
    storage_options,
)
from nightpress.jobs.commands.copy_lines import already_there, what_is_missing
from nightpress.jobs.commands.image_choice import ImageChoice, choice_options
from nightpress.jobs.commands.json_output import print_and_exit
from nightpress.jobs.commands.times import Night, night_options
from nightpress.jobs.errors import OK, SOME_FAILED
from nightpress.jobs.progress.lines import display_for
from nightpress.jobs.runs.deliver import Delivery, deliver
from nightpress.pipelines.formatting import plural
from nightpress.pipelines.image_files.client_copies import CopySpec
from nightpress.pipelines.image_files.copy_signing import CopySigning


@click.command("deliver")
@click.argument("run")
@click.option("--to", required=True, metavar="URL", help="Folder or URL of the copies.")
@choice_options
@click.option("--selection", metavar="NAME", help="Images of a selection of the run.")
@click.option(
    "--embed",
    type=click.Choice(["minimal", "none"]),
    default="minimal",
    show_default=True,
    help="minimal: the marking as AI-generated and the texts below; none: no metadata.",
)
@click.option("--creator", metavar="TEXT", help="Who made the images, for dc:creator.")
@click.option("--rights", metavar="TEXT", help="Copyright or licence, for dc:rights.")
@click.option("--credit", metavar="TEXT", help="Credit line, for photoshop:Credit.")
@click.option("--label", metavar="TEXT", help="A label to draw into the lower left corner.")
@click.option(
    "--certificate",
    metavar="PEM",
    help="Sign the copies with this certificate; the key comes from the environment.",
)
@click.option(
    "--algorithm",
    type=click.Choice(["es256", "ed25519"]),
    default="es256",
    show_default=True,
    help="Algorithm of the key.",
)
@click.option("--tsa", metavar="URL", help="Have this authority put a time stamp on signatures.")
@storage_option
@night_options
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    run: str,
    to: str,
    chosen: ImageChoice,
    selection: str | None,
    certificate: str | None,
    algorithm: Literal["es256", "ed25519"],
    tsa: str | None,
    storage_overrides: tuple[str, ...],
    night: Night,
    as_json: bool,
    **copies: Any,
) -> None:
    """Make copies of RUN's images for clients, without the prompts and models that made them.

    RUN is the URL of a run directory, or its job file. delivered.parquet beside the copies says
    which image each is of. Nothing that lies there is replaced; the same command goes on with an
    interrupted delivery. The exit code is 3 if an image of the run is missing or damaged.
    """
    target = image_target(run, storage_overrides, night)
    sigterm_as_ctrl_c()
    with display_for(Console(stderr=True)) as display:
        result = deliver(
            target,
            to,
            display.show,
            **chosen,
            selection=selection,
            copies=CopySpec(**copies),
            signing=CopySigning(certificate, algorithm, tsa),
            storage=storage_options(storage_overrides),
        )
    code = OK if result.is_complete else SOME_FAILED
    print_and_exit(ctx, code, asdict(result), as_text(result), as_json)


def as_text(result: Delivery) -> str:
    """What was delivered, and what could not be."""
    lines = what_is_missing(result)
    kept = already_there(result)
    lines.append(f"{plural(result.num_copies, 'image')} in {result.url}{kept}")
    if result.table is None:
        lines.append(
            f"not complete: {plural(result.num_findings, 'image')} cannot be copied; run the same "
            "command again when they are there"
        )
    return "\n".join(lines)
