"""Show how denoising works: a strip and an animation of one image, or a comparison of samplers.

Runs in this process, without Ray, because there is only one image. `diffusion_core.inspection`
records what happens in the model, `pipelines.reporting.step_pictures` draws it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from nightpress.diffusion_core.acceleration.numerics import fix_numerics
from nightpress.diffusion_core.errors import SettingsError
from nightpress.diffusion_core.inspection.sampler_study import (
    SamplerResult,
    SamplerStudy,
    check_sampler,
    plan_study,
    run_study,
)
from nightpress.diffusion_core.inspection.trajectory import Frame, OnStep, frames, no_progress
from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.diffusion_core.models.loading import LoadedModel, describe, load
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.sampling.request import ImageRequest, SamplingParams
from nightpress.diffusion_core.silence_libraries import errors_only
from nightpress.pipelines.formatting import duration, plural
from nightpress.pipelines.manifest.prompt_checks import PromptChecker
from nightpress.pipelines.manifest.prompt_reading import TAG_ALLOWED
from nightpress.pipelines.models.location import locate
from nightpress.pipelines.reporting.step_pictures import (
    StepPicture,
    animation,
    save_animation,
    strip,
    table,
)
from nightpress.pipelines.storage import require_answers

__all__ = [
    "ImageSetup",
    "SamplerComparison",
    "SamplerResult",
    "SamplerStudy",
    "StepBar",
    "StepsResult",
    "as_values",
    "compare_samplers",
    "explanation",
    "plan_study",
    "result_line",
    "show_steps",
    "terminal_table",
]

MAX_FRAMES = 21
"""Frames unless more are requested: they fill two bands of a strip."""

LEGEND = "Above: the denoiser's input. Below: the image that it predicts."


@dataclass(frozen=True)
class ImageSetup:
    """The model, prompt and settings that make one image."""

    spec: ModelSpec
    info: ModelInfo
    folder: Path
    request: ImageRequest
    params: SamplingParams

    @classmethod
    def of(
        cls,
        spec: ModelSpec,
        request: ImageRequest,
        *,
        width: int | None = None,
        height: int | None = None,
        guidance_scale: float | None = None,
    ) -> Self:
        """Find the model; settings that are None get the model's own values.

        Raises:
            ModelError: there is no such model, or it is not supported.
            SettingsError: the model does not take the prompts as they are, or has no size of its
                own and none was given.
        """
        with errors_only():
            require_answers([spec.source, *spec.added_sources])
            folder = locate(spec)
            info = describe(folder, spec)
        _require_images(info)
        if request.negative_prompt and not info.takes_negative_prompt:
            raise SettingsError(f"{info.source}: {info.pipeline} takes no negative prompt")
        if guidance_scale is not None and guidance_scale > 1 and not info.takes_guidance:
            raise SettingsError(
                f"{info.source}: {info.pipeline} takes no guidance; {guidance_scale:g} would have "
                "no effect"
            )
        checker = PromptChecker(spec.prompts, info.prompts)
        for name in ("prompt", "negative_prompt"):
            problem = checker.problem(getattr(request, name))
            if problem is not None:  # there is no job file that could allow it
                raise SettingsError(f"{name}: {_without_job_keys(checker, problem)}")
        params = SamplingParams(
            width=_side(info, "width", width),
            height=_side(info, "height", height),
            num_inference_steps=info.num_inference_steps,
            guidance_scale=info.guidance_scale if guidance_scale is None else guidance_scale,
        )
        return cls(spec, info, folder, request, params)

    def with_sampler(self, scheduler: str | None, num_inference_steps: int | None) -> Self:
        """The same image with another sampler and number of steps; None keeps the current one."""
        settings = {"scheduler": scheduler, "num_inference_steps": num_inference_steps}
        changes: dict[str, Any] = {k: v for k, v in settings.items() if v is not None}
        return replace(self, params=replace(self.params, **changes))

    @property
    def title(self) -> str:
        """`a red apple | builtin, guidance 3, seed 0`."""
        facts = f"{self.info.source}, guidance {self.params.guidance_scale:g}"
        return f"{self.request.prompt} | {facts}, seed {self.request.seed}"

    @property
    def sampler(self) -> str:
        """`20 steps of ddim`."""
        own = self.params.scheduler == "default"
        name = "the model's own sampler" if own else self.params.scheduler
        return f"{plural(self.params.num_inference_steps, 'step')} of {name}"

    def load(self) -> LoadedModel:
        """Load the model, on the accelerator if there is one."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        fix_numerics(1 if device == "cpu" else 0)  # as in an actor: they decide the last bits
        return load(self.folder, self.spec, device)


def _without_job_keys(checker: PromptChecker, problem: str) -> str:
    return problem.removesuffix(checker.length_allowed).removesuffix(TAG_ALLOWED)


@dataclass(frozen=True)
class StepsResult:
    """The frames of one image, and the files that show them."""

    frames: tuple[Frame, ...]
    strip: Path
    animation: Path


@dataclass(frozen=True)
class SamplerComparison:
    """The results of a study, and the file that shows them."""

    study: SamplerStudy
    results: tuple[SamplerResult, ...]
    table: Path


def show_steps(
    setup: ImageSetup, path: Path, num_frames: int | None = None, on_step: OnStep = no_progress
) -> StepsResult:
    """Write a strip of frames to `path`, and beside it an animation as GIF.

    Args:
        num_frames: at least 2; by default one for each step, up to `MAX_FRAMES`.
        on_step: called before every step.

    Raises:
        SettingsError: the model does not support the sampler or the number of steps.
        SamplingError, UnsupportedModel: as `trajectory.frames` does.
    """
    params = setup.params
    check_sampler(setup.info, params.scheduler, params.num_inference_steps)
    count = num_frames or min(MAX_FRAMES, params.num_inference_steps + 1)
    with errors_only():
        recorded = tuple(frames(setup.load(), setup.request, params, count, on_step))
    pictures = [
        StepPicture(Image.fromarray(frame.noisy), Image.fromarray(frame.guess), caption(frame))
        for frame in recorded
    ]
    strip(pictures, f"{setup.title}, {setup.sampler}. {LEGEND}").save(path)
    gif = path.with_suffix(".gif")
    save_animation(animation(pictures, setup.request.prompt), gif)
    return StepsResult(recorded, path, gif)


def caption(frame: Frame) -> str:
    """`3/20  sigma 0.942`."""
    return f"{frame.step}/{frame.num_steps}  sigma {frame.sigma:.3f}"


def compare_samplers(
    setup: ImageSetup,
    study: SamplerStudy,
    path: Path,
    on_step: OnStep = no_progress,
    on_result: Callable[[SamplerResult], None] = lambda result: None,
) -> SamplerComparison:
    """Run the trials of a study, and write the table of their images to `path`.

    Args:
        on_step: called before every step of every trial.
        on_result: called after every trial.

    Raises:
        SettingsError, SamplingError: as `Sampler.sample` does.
    """
    results = []
    with errors_only():
        for result in run_study(study, setup.load(), setup.request, setup.params, on_step):
            results.append(result)
            on_result(result)
    picture_table(results, setup.title).save(path)
    return SamplerComparison(study, tuple(results), path)


def picture_table(results: Sequence[SamplerResult], title: str) -> Image.Image:
    """Images by sampler and number of steps; DDPM, which adds noise at each step, comes last."""
    ordered = sorted(results, key=lambda result: result.trial.scheduler == "ddpm")
    rows = list(dict.fromkeys(result.trial.name for result in ordered))
    counts = sorted({result.trial.num_inference_steps for result in results})
    cells = {
        (result.trial.name, plural(result.trial.num_inference_steps, "step")): (
            Image.fromarray(result.pixels),
            f"{duration(result.seconds)}  {verdict(result)}",
        )
        for result in results
    }
    return table(rows, [plural(count, "step") for count in counts], cells, title)


def verdict(result: SamplerResult) -> str:
    """`31.2 dB`, `reference`, or what is wrong with the image."""
    if result.fault is not None:
        return result.fault
    if result.trial == result.compared_with:
        return "reference"
    return "the same" if math.isinf(result.psnr) else f"{result.psnr:.1f} dB"


def result_line(result: SamplerResult) -> str:
    """`ddim 20: 0.4 s, 31.2 dB`."""
    return f"{result.trial}: {duration(result.seconds)}, {verdict(result)}"


def terminal_table(results: Sequence[SamplerResult]) -> Table:
    """The figures of a study as a table for the terminal."""
    figures = Table(box=None, pad_edge=False, header_style="bold")
    figures.add_column("sampler")
    for name in ("steps", "network calls", "seconds", "RMSE of 255", "PSNR dB"):
        figures.add_column(name, justify="right")
    figures.add_column("compared with")
    for result in results:
        figures.add_row(
            result.trial.name,
            str(result.trial.num_inference_steps),
            str(result.num_evaluations),
            f"{result.seconds:.2f}",
            f"{result.rmse:.2f}",
            verdict(result).removesuffix(" dB"),
            str(result.compared_with),
        )
    return figures


def explanation(study: SamplerStudy) -> str:
    """What the figures mean, in a sentence or two."""
    text = f"Distances are to {study.reference}, from the same noise."
    if study.stochastic:
        text += (
            " ddpm adds fresh noise at every step, so it ends at another image; the row "
            '"other noise" compares two such images.'
        )
    return text


def as_values(result: SamplerResult) -> dict[str, object]:
    """A result as JSON-ready values; `psnr_db` is null for equal images."""
    return {
        "scheduler": result.trial.scheduler,
        "num_inference_steps": result.trial.num_inference_steps,
        "other_step_noise": result.trial.other_step_noise,
        "compared_with": str(result.compared_with),
        "num_evaluations": result.num_evaluations,
        "seconds": round(result.seconds, 4),
        "rmse": round(result.rmse, 4),
        "psnr_db": None if math.isinf(result.psnr) else round(result.psnr, 3),
        "fault": result.fault,
    }


class StepBar:
    """A progress bar for denoising steps on a terminal; elsewhere it shows nothing."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("denoising", total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def print(self, text: str) -> None:
        """Print a line above the bar."""
        self._progress.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def on_step(self, done: int, total: int) -> None:
        """Advance the bar."""
        self._progress.update(self._task, completed=done + 1, total=total)


def _require_images(info: ModelInfo) -> None:
    if info.clips is not None:
        raise SettingsError(
            f"{info.source}: {info.pipeline} makes clips, and the steps of a clip are not shown"
        )


def _side(info: ModelInfo, name: str, value: int | None) -> int:
    """Width or height in pixels; the sampler checks that it is a valid multiple."""
    own = getattr(info, name)
    if value is None and own is None:
        raise SettingsError(f"{info.source} has no {name} of its own; give --{name}")
    return int(value if value is not None else own)
