"""`nightpress reproduce`."""

from dataclasses import asdict
from pathlib import Path

import click

from nightpress.jobs.commands.common import (
    allow_pickle_option,
    json_option,
    require_writable,
    storage_option,
    storage_options,
)
from nightpress.jobs.commands.json_output import print_and_exit
from nightpress.jobs.errors import OK, SOME_FAILED
from nightpress.jobs.runs.reproduce import ReproduceResult, reproduce
from nightpress.pipelines.records import ImageFacts


@click.command("reproduce")
@click.argument("image")
@click.option("--model", metavar="SOURCE", help="Where the model is now. [default: as recorded]")
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda"]),
    help="Device to sample on. [default: the run's own]",
)
@click.option(
    "--inputs-root",
    metavar="URL",
    help="Where relative paths of its pictures start now. [default: as in the run's job]",
)
@click.option(
    "--read-inputs",
    is_flag=True,
    help="Read its pictures from the places that IMAGE itself names, if no run names them.",
)
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="File to write the new image to."
)
@allow_pickle_option
@storage_option
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    image: str,
    model: str | None,
    device: str | None,
    inputs_root: str | None,
    read_inputs: bool,
    out: Path | None,
    allow_pickle: bool,
    storage_overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Make IMAGE, a path or URL, again from its embedded metadata, and compare the two.

    Prints whether the new image is bit-exact or by how much it differs; if the pixels differ, the
    exit code is 3. LoRAs, ControlNets, IP-Adapters, threads and the quality of a lossy format are
    taken from the run that holds the image. Pictures that it was made from are read from where the
    run's plan names them; if the bytes of one have changed, nothing is made. For an image in a
    pack, append its name to the pack's, as in RUN/images/shard-00000-0123456789abcdef.tar/0_00.png.
    """
    if out is not None:
        require_writable("--out", out)
    options = storage_options(storage_overrides)
    result = reproduce(
        image,
        model=model,
        device=device,
        inputs_root=inputs_root,
        read_inputs=read_inputs,
        allow_pickle=allow_pickle,
        storage=options,
    )
    if out is not None:
        write_image(out, result.image)
    code = OK if result.comparison.same_pixels else SOME_FAILED
    print_and_exit(ctx, code, asdict(result.comparison), describe(result), as_json)


def write_image(out: Path, image: bytes) -> None:
    """Write the new image.

    Raises:
        click.FileError: it cannot be written.
    """
    try:
        out.write_bytes(image)
    except OSError as error:
        raise click.FileError(str(out), error.strerror) from error


def describe(result: ReproduceResult) -> str:
    """What made the image, and how the new one compares."""
    facts = result.facts
    made_with = (
        f"{facts.image_id}: {facts.model} {facts.model_fingerprint[:12]}, seed {facts.seed}, "
        f"{facts.num_inference_steps} steps of {facts.scheduler}, {facts.dtype}"
        f"{f', {facts.speed}' if facts.speed else ''}"
    )
    return "\n".join([made_with, *_conditions(facts), str(result.comparison)])


def _conditions(facts: ImageFacts) -> list[str]:
    """How pictures conditioned the image, and its passes, as lines; none for text alone."""
    lines = []
    if facts.inputs:
        strength = "" if facts.strength is None else f" at strength {facts.strength:g}"
        roles = ", ".join(each.role for each in facts.inputs)
        lines.append(f"mode {facts.mode}{strength}, from {roles}, each with the recorded sha256")
    lines += [
        f"pass from {each.from_width} x {each.from_height} to {each.width} x {each.height}: "
        f"{each.num_inference_steps} steps at strength {each.strength:g}"
        for each in facts.passes
    ]
    return lines
