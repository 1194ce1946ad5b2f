"""`nightpress steps`."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from nightpress.diffusion_core.errors import SettingsError
from nightpress.diffusion_core.models.sampler_spellings import read_sampler
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.sampling.request import ImageRequest
from nightpress.jobs.commands.common import json_option, pickles_by_option, require_writable
from nightpress.jobs.commands.json_output import print_result
from nightpress.pipelines.job.spec import MAX_SEED

if TYPE_CHECKING:
    from nightpress.jobs.steps import ImageSetup, SamplerStudy


class Names(click.ParamType[tuple[str, ...]]):
    """Names separated by commas."""

    name = "NAME[,NAME...]"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """Split at commas; empty names are refused."""
        names = tuple(name.strip() for name in str(value).split(","))
        if not all(names):
            self.fail(f"{value!r} has an empty name", param, ctx)
        return names


class Samplers(Names):
    """Samplers, also in the spelling of A1111 and ComfyUI; what is none is refused later."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """Split at commas, and turn other programs' names into ours."""
        return tuple(map(_our_name, super().convert(value, param, ctx)))


def _our_name(text: str) -> str:
    try:
        return read_sampler(text).name
    except SettingsError:
        return text


class Counts(click.ParamType[tuple[int, ...]]):
    """Positive whole numbers separated by commas."""

    name = "N[,N...]"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Split at commas; anything but whole numbers is refused."""
        if isinstance(value, tuple):
            return value
        if not re.fullmatch(r"\s*[0-9]{1,6}\s*(,\s*[0-9]{1,6}\s*)*", str(value)):
            self.fail(f"{value!r} is not a list of whole numbers such as 5,10,20", param, ctx)
        return tuple(int(part) for part in str(value).split(","))


@click.command("steps")
@click.argument("prompt")
@click.option(
    "--model",
    default="builtin",
    show_default=True,
    help="`builtin`, a folder, a file, a hub id or a URL.",
)
@click.option(
    "--config",
    metavar="FOLDER",
    help="For a model in one file: folder, or its URL, with what the file lacks.",
)
@click.option(
    "--allow-pickle",
    is_flag=True,
    help="The model's weights may be pickles. Unpickling runs code.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, MAX_SEED),
    default=0,
    show_default=True,
    help="Seed of the initial noise.",
)
@click.option(
    "--steps",
    type=Counts(),
    help="Number of denoising steps. [default: the model's own; with --sweep 5,10,20,50]",
)
@click.option(
    "--scheduler",
    type=Samplers(),
    help="Sampler. [default: the model's own; with --sweep several that suit it]",
)
@click.option(
    "--guidance-scale",
    type=click.FloatRange(0),
    help="Guidance scale. [default: the model's own]",
    metavar="SCALE",
)
@click.option("--negative-prompt", default="", help="What the image should not show.")
@click.option("--width", type=click.IntRange(1), help="In pixels. [default: the model's own]")
@click.option("--height", type=click.IntRange(1), help="In pixels. [default: the model's own]")
@click.option(
    "--frames",
    type=click.IntRange(2, 1000),
    help="Number of frames, evenly spaced over the steps. [default: all, at most 21]",
)
@click.option("--sweep", is_flag=True, help="Compare samplers and numbers of steps instead.")
@click.option(
    "--reference-steps",
    type=click.IntRange(1),
    help="Steps of the --sweep reference. [default: as many as the model was trained with]",
)
@json_option
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="PNG to write; the GIF is written beside it. [default: named after the prompt]",
)
def command(
    prompt: str,
    model: str,
    config: str | None,
    allow_pickle: bool,
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
    """Show how PROMPT becomes an image, from pure noise, step by step.

    Writes frames as a PNG strip and as an animated GIF: above the noisy input of the network, below
    the image that it predicts. With --sweep, compares samplers and numbers of steps instead, and
    writes a table of their images with the time of each and its distance to a long reference.
    """
    path = output or Path(f"{_slug(prompt)}-{'sweep' if sweep else 'steps'}.png")
    _require_writable(path, animated=not sweep)
    _require_compatible_options(sweep, scheduler, steps, frames, reference_steps)
    from nightpress.jobs.steps import ImageSetup, plan_study  # loads torch; --help should not

    spec = ModelSpec(source=model, config=config, allow_pickle=allow_pickle)
    request, size = ImageRequest(prompt, negative_prompt, seed), {"width": width, "height": height}
    with pickles_by_option():
        setup = ImageSetup.of(spec, request, **size, guidance_scale=guidance_scale)
    if sweep:
        study = plan_study(setup.info, scheduler or (), steps, reference_steps)
        _compare_samplers(setup, study, path, as_json)
    else:
        sampler, count = scheduler[0] if scheduler else None, steps[0] if steps else None
        setup = setup.with_sampler(sampler, count)
        _show_steps(setup, path, frames, as_json)


def _show_steps(setup: "ImageSetup", path: Path, num_frames: int | None, as_json: bool) -> None:
    from nightpress.jobs.steps import StepBar, show_steps

    with StepBar(Console(stderr=True)) as bar:
        result = show_steps(setup, path, num_frames, bar.on_step)
    num_frames = len(result.frames)
    if as_json:
        values = {"png": str(path), "gif": str(result.animation), "num_frames": num_frames}
        sigmas = [round(frame.sigma, 6) for frame in result.frames]
        print_result(values | {"sigmas": sigmas})
    else:
        click.echo(f"wrote {path} and {result.animation}, {num_frames} frames each")


def _compare_samplers(
    setup: "ImageSetup", study: "SamplerStudy", path: Path, as_json: bool
) -> None:
    from nightpress.jobs import steps

    with steps.StepBar(Console(stderr=True)) as bar:
        comparison = steps.compare_samplers(
            setup, study, path, bar.on_step, lambda result: bar.print(steps.result_line(result))
        )
    if as_json:
        trials = [steps.as_values(result) for result in comparison.results]
        print_result({"png": str(path), "trials": trials})
        return
    Console().print(steps.terminal_table(comparison.results), highlight=False)
    click.echo(f"\n{steps.explanation(study)}\nwrote {path}")


def _require_compatible_options(
    sweep: bool,
    scheduler: tuple[str, ...] | None,
    steps: tuple[int, ...] | None,
    frames: int | None,
    reference_steps: int | None,
) -> None:
    """Refuse options that only make sense with, or without, --sweep."""
    if sweep and frames is not None:
        raise click.UsageError(
            "--frames cannot be used with --sweep, which shows finished images only"
        )
    if not sweep and reference_steps is not None:
        raise click.UsageError("--reference-steps requires --sweep")
    for name, values in (("--steps", steps), ("--scheduler", scheduler)):
        if not sweep and values is not None and len(values) > 1:
            raise click.UsageError(f"{name} takes one value, or several with --sweep")


def _require_writable(path: Path, animated: bool) -> None:
    if path.suffix.lower() != ".png":
        raise click.UsageError(f"-o {path}: the output is a PNG, so its name must end in .png")
    require_writable("-o", path)
    if animated:
        require_writable("-o", path.with_suffix(".gif"))


def _slug(prompt: str) -> str:
    """The start of a file name, from the prompt: `a-red-apple`."""
    words = re.findall(r"[a-z0-9]+", prompt.lower())
    return "-".join(words)[:60].strip("-") or "prompt"
