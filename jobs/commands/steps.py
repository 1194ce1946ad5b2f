"""`nightpress steps`."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from nightpress.diffusion_core.models.loading import ModelSpec
from nightpress.diffusion_core.sampling.request import ImageRequest
from nightpress.diffusion_core.silence_libraries import errors_only
from nightpress.jobs.commands.common import json_option, require_writable
from nightpress.pipelines.job.spec import MAX_SEED

if TYPE_CHECKING:
    from nightpress.jobs.steps import Study, Subject


class Names(click.ParamType[tuple[str, ...]]):
    """Names separated by commas."""

    name = "NAME[,NAME...]"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """Split; empty names are refused."""
        names = tuple(name.strip() for name in str(value).split(","))
        if not all(names):
            self.fail(f"{value!r} has an empty name", param, ctx)
        return names


class Counts(click.ParamType[tuple[int, ...]]):
    """Positive whole numbers separated by commas."""

    name = "N[,N...]"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Split and count."""
        if isinstance(value, tuple):
            return value
        if not re.fullmatch(r"\s*[0-9]{1,6}\s*(,\s*[0-9]{1,6}\s*)*", str(value)):
            self.fail(f"{value!r} is no list of whole numbers such as 5,10,20", param, ctx)
        return tuple(int(part) for part in str(value).split(","))


@click.command("steps")
@click.argument("prompt")
@click.option(
    "--model", default="builtin", show_default=True, help="`builtin`, a folder, a hub id, or a URL."
)
@click.option("--seed", type=click.IntRange(0, MAX_SEED), default=0, show_default=True)
@click.option(
    "--steps",
    type=Counts(),
    help="Denoising steps. [default: the model's own; with --sweep 5,10,20,50]",
)
@click.option(
    "--scheduler",
    type=Names(),
    help="The sampler. [default: the model's own; with --sweep all that suit it]",
)
@click.option(
    "--guidance-scale", type=click.FloatRange(0), help="[default: the model's own]", metavar="SCALE"
)
@click.option("--negative-prompt", default="", help="What to steer away from.")
@click.option("--width", type=click.IntRange(1), help="Pixels. [default: the model's own]")
@click.option("--height", type=click.IntRange(1), help="Pixels. [default: the model's own]")
@click.option(
    "--frames",
    type=click.IntRange(2, 1000),
    help="Moments to show, evenly spread. [default: all, at most 21]",
)
@click.option("--sweep", is_flag=True, help="Compare samplers and step counts instead.")
@click.option(
    "--reference-steps",
    type=click.IntRange(1),
    help="Of the sweep's reference. [default: as many as the model was trained with]",
)
@json_option
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The PNG to write; the GIF goes beside it. [default: named after the prompt]",
)
def command(
    prompt: str,
    model: str,
    seed: int,
    steps: tuple[int, ...] | None,
    scheduler: tuple[str, ...] | None,
    guidance_scale: float | None,
    negative_prompt: str,
    width: int | None,
    height: int | None,
    frames: int | None,
    sweep: bool,
    reference_steps: int | None,
    as_json: bool,
    output: Path | None,
) -> None:
    """Show how PROMPT becomes a picture, from noise to the end, step by step.

    Writes a strip of moments as PNG and all of them as GIF: above what the network sees, below the
    picture that it expects. With --sweep it writes a table of samplers and numbers of steps, with
    the time that each took and its distance to a reference of very many steps.
    """
    path = output or Path(f"{_slug(prompt)}-{'sweep' if sweep else 'steps'}.png")
    _require_writable(path, animated=not sweep)
    _require_fitting(sweep, scheduler, steps, frames, reference_steps)
    from nightpress.jobs import (
        steps as making,  # loads the frameworks, which help and usage do without
    )

    with errors_only():
        subject = making.Subject.of(
            ModelSpec(source=model),
            ImageRequest(prompt, negative_prompt, seed),
            width=width,
            height=height,
            guidance_scale=guidance_scale,
        )
        if sweep:
            study = making.plan_study(subject.info, scheduler or (), steps, reference_steps)
            _sweep(subject, study, path, as_json)
        else:
            sampler = scheduler[0] if scheduler else None
            count = steps[0] if steps else None
            _show(subject.sampled_by(sampler, count), path, frames, as_json)


def _show(subject: "Subject", path: Path, num_frames: int | None, as_json: bool) -> None:
    from nightpress.jobs import steps as making

    with making.StepBar(Console(stderr=True)) as bar:
        frames = making.show_steps(subject, path, num_frames, bar.on_step)
    animation = path.with_suffix(".gif")
    if as_json:
        values = {"png": str(path), "gif": str(animation), "num_frames": len(frames)}
        click.echo(json.dumps(values | {"sigmas": [round(frame.sigma, 6) for frame in frames]}))
    else:
        click.echo(f"wrote {path} and {animation}, {len(frames)} moments each")


def _sweep(subject: "Subject", study: "Study", path: Path, as_json: bool) -> None:
    from nightpress.jobs import steps as making

    results = []
    with making.StepBar(Console(stderr=True)) as bar:
        for result in making.study_samplers(subject, study, path, bar.on_step):
            results.append(result)
            bar.say(making.line(result))
    if as_json:
        values = {"png": str(path), "trials": [making.as_values(result) for result in results]}
        click.echo(json.dumps(values))
        return
    Console().print(making.terminal_table(results), highlight=False)
    click.echo(f"\n{making.explanation(study)}\nwrote {path}")


def _require_fitting(
    sweep: bool,
    scheduler: tuple[str, ...] | None,
    steps: tuple[int, ...] | None,
    frames: int | None,
    reference_steps: int | None,
) -> None:
    """Options of the one use are refused in the other."""
    if sweep and frames is not None:
        raise click.UsageError("--frames does not go with --sweep, which shows finished pictures")
    if not sweep and reference_steps is not None:
        raise click.UsageError("--reference-steps goes with --sweep only")
    for name, values in (("--steps", steps), ("--scheduler", scheduler)):
        if not sweep and values is not None and len(values) > 1:
            raise click.UsageError(f"{name} takes one value; with --sweep it takes several")


def _require_writable(path: Path, animated: bool) -> None:
    if path.suffix.lower() != ".png":
        raise click.UsageError(f"-o {path}: the picture is a PNG; let its name end in .png")
    require_writable("-o", path)
    if animated:
        require_writable("-o", path.with_suffix(".gif"))


def _slug(prompt: str) -> str:
    """The prompt as the beginning of a file name: `a-red-apple`."""
    words = re.findall(r"[a-z0-9]+", prompt.lower())
    return "-".join(words)[:60].strip("-") or "prompt"
