"""`nightpress convert`."""

from dataclasses import asdict
from typing import get_args

import click

from nightpress.diffusion_core.models.spec import DType
from nightpress.jobs.commands.common import (
    json_option,
    pickles_by_option,
    sigterm_as_ctrl_c,
    storage_option,
    storage_options,
)
from nightpress.jobs.commands.json_output import print_and_exit
from nightpress.jobs.errors import OK
from nightpress.jobs.runs.convert import ConvertedModel, convert
from nightpress.pipelines.formatting import size


@click.command("convert")
@click.argument("file")
@click.argument("folder")
@click.option(
    "--config",
    metavar="FOLDER",
    help="Folder, or its URL, with configurations and tokenizers, as model.config of a job.",
)
@click.option(
    "--dtype",
    type=click.Choice(get_args(DType)),
    default="auto",
    show_default=True,
    help="Type of the weights; auto keeps that of FILE, or float32 of quantised ones.",
)
@click.option("--allow-pickle", is_flag=True, help="FILE may be a pickle. Unpickling runs code.")
@storage_option
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    file: str,
    folder: str,
    config: str | None,
    dtype: DType,
    allow_pickle: bool,
    storage_overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Write FILE, a model in one file, as the diffusers folder FOLDER, which must not exist.

    A run with FOLDER makes the images of a run with FILE, and its actors need not convert anything.
    Weights that a GGUF file has quantised are dequantised. FOLDER is complete or is not there.
    """
    sigterm_as_ctrl_c()
    with pickles_by_option():
        made = convert(
            file,
            folder,
            config=config,
            dtype=dtype,
            allow_pickle=allow_pickle,
            storage=storage_options(storage_overrides),
        )
    print_and_exit(ctx, OK, asdict(made), as_text(made), as_json)


def as_text(made: ConvertedModel) -> str:
    """What was written."""
    width = max(len(each.name) for each in made.networks)
    lines = [f"{made.source}: {made.family}"]
    lines += [f"note: {note}" for note in made.notes]
    lines += [
        f"wrote {each.name:<{width}}  {size(each.num_bytes)}, {each.dtype}"
        for each in made.networks
    ]
    lines.append(f"{made.folder}: {made.pipeline}, {size(made.num_bytes)}")
    return "\n".join(lines)
