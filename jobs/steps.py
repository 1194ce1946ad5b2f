"""Denoising made visible: from a prompt to a strip, an animation, or a study of samplers.

Runs in this process, without Ray: there is one image. What happens in a model `diffusion_core`
knows, and how it looks `pipelines.reporting.step_pictures`; this joins them.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from nightpress.diffusion_core.errors import SettingsError
from nightpress.diffusion_core.inspection import sampler_study, trajectory
from nightpress.diffusion_core.inspection.sampler_study import Study, TrialResult, plan_study
from nightpress.diffusion_core.inspection.trajectory import Frame, OnStep
from nightpress.diffusion_core.models.loading import (
    LoadedModel,
    ModelInfo,
    ModelSpec,
    describe,
    load,
)
from nightpress.diffusion_core.sampling.request import ImageRequest, SamplingParams
from nightpress.pipelines.formatting import duration, plural
from nightpress.pipelines.models.location import locate
from nightpress.pipelines.reporting.step_pictures import (
    StepPicture,
    animation,
    save_animation,
    strip,
    table,
)

__all__ = [
    "StepBar",
    "Study",
    "Subject",
    "as_values",
    "explanation",
    "line",
    "plan_study",
    "show_steps",
    "study_samplers",
    "terminal_table",
]

MOST_FRAMES = 21
"""Unless more are asked for: two bands of a strip."""

LEGEND = "Above: what the network sees. Below: the picture that it expects."


@dataclass(frozen=True)
class Subject:
    """What is made: one image, of one model, with one noise."""

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
        """Find the model, and let it fill in what is left open.

        Raises:
            ModelError: there is no such model, or it cannot be driven.
            SettingsError: a size or negative prompt that it cannot do, or no size at all.
        """
        folder = locate(spec)
        info = describe(folder, spec)
        if request.negative_prompt and not info.takes_negative_prompt:
            raise SettingsError(f"{info.source}: {info.pipeline} takes no negative prompt")
        params = SamplingParams(
            width=_side(info, "width", width),
            height=_side(info, "height", height),
            num_inference_steps=info.num_inference_steps,
            guidance_scale=info.guidance_scale if guidance_scale is None else guidance_scale,
        )
        return cls(spec, info, folder, request, params)

    def sampled_by(self, scheduler: str | None, num_inference_steps: int | None) -> Self:
        """The same with another sampler and number of steps; None keeps what is."""
        asked = {"scheduler": scheduler, "num_inference_steps": num_inference_steps}
        changes: dict[str, Any] = {k: v for k, v in asked.items() if v is not None}
        return replace(self, params=replace(self.params, **changes))

    @property
    def title(self) -> str:
        """`a red apple | builtin, guidance 3, seed 0`."""
        facts = f"{self.info.source}, guidance {self.params.guidance_scale:g}"
        return f"{self.request.prompt} | {facts}, seed {self.request.seed}"

    @property
    def way(self) -> str:
        """`20 steps of ddim`."""
        own = self.params.scheduler == "default"
        sampler = "the model's own sampler" if own else self.params.scheduler
        return f"{plural(self.params.num_inference_steps, 'step')} of {sampler}"

    def load(self) -> LoadedModel:
        """The model in memory, on the accelerator if there is one."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cpu":
            torch.set_num_threads(1)  # as an actor has: their number decides the last bits
        return load(self.folder, self.spec, device)


def show_steps(
    subject: Subject, path: Path, num_frames: int | None = None, on_step: OnStep = trajectory.silent
) -> list[Frame]:
    """Write the strip to `path` and the animation beside it, as GIF; returns the frames.

    Raises:
        SettingsError: a sampler or number of steps that the model cannot do.
        SamplingError, UnsupportedModel: as `trajectory.frames` does.
    """
    params = subject.params
    sampler_study.check(subject.info, params.scheduler, params.num_inference_steps)
    model = subject.load()
    number = num_frames or min(MOST_FRAMES, params.num_inference_steps + 1)
    frames = list(trajectory.frames(model, subject.request, params, number, on_step))
    pictures = [
        StepPicture(Image.fromarray(f.noisy), Image.fromarray(f.guess), caption(f)) for f in frames
    ]
    strip(pictures, f"{subject.title}, {subject.way}. {LEGEND}").save(path)
    save_animation(animation(pictures, subject.request.prompt), path.with_suffix(".gif"))
    return frames


def caption(frame: Frame) -> str:
    """`3/20  sigma 0.942`."""
    return f"{frame.step}/{frame.num_steps}  sigma {frame.sigma:.3f}"


def study_samplers(
    subject: Subject, study: Study, path: Path, on_step: OnStep = trajectory.silent
) -> Iterator[TrialResult]:
    """Make the trials of a study, yielding each; at the end the table of pictures is written."""
    model = subject.load()
    results = []
    for result in sampler_study.conduct(study, model, subject.request, subject.params, on_step):
        results.append(result)
        yield result
    picture_table(results, subject.title).save(path)


def picture_table(results: list[TrialResult], title: str) -> Image.Image:
    """Samplers down, numbers of steps across; those with noise of their own come last."""
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


def verdict(result: TrialResult) -> str:
    """`31.2 dB`, `reference`, or what is wrong with the picture."""
    if result.fault is not None:
        return result.fault
    if result.trial == result.compared_with:
        return "reference"
    return "the same" if math.isinf(result.psnr) else f"{result.psnr:.1f} dB"


def line(result: TrialResult) -> str:
    """`ddim 20: 0.4 s, 31.2 dB`."""
    return f"{result.trial}: {duration(result.seconds)}, {verdict(result)}"


def terminal_table(results: list[TrialResult]) -> Table:
    """The figures of a study."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    made.add_column("sampler")
    for name in ("steps", "network calls", "seconds", "RMSE of 255", "PSNR dB"):
        made.add_column(name, justify="right")
    made.add_column("compared with")
    for result in results:
        made.add_row(
            result.trial.name,
            str(result.trial.num_inference_steps),
            str(result.num_evaluations),
            f"{result.seconds:.2f}",
            f"{result.rmse:.2f}",
            verdict(result).removesuffix(" dB"),
            str(result.compared_with),
        )
    return made


def explanation(study: Study) -> str:
    """What the figures mean, in a sentence or two."""
    said = f"Distances are to {study.reference}, from the same noise."
    if study.stochastic:
        said += (
            " ddpm adds noise of its own at every step, so it ends at another picture; the row "
            '"other noise" is its distance to itself.'
        )
    return said


def as_values(result: TrialResult) -> dict[str, object]:
    """A result as JSON-ready values; `psnr_db` is null for equal pictures."""
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
    """A bar on a terminal, and nothing elsewhere: `on_step` of one sampling after the other."""

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

    def say(self, text: str) -> None:
        """A line that stays."""
        self._progress.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def on_step(self, done: int, total: int) -> None:
        """Move on."""
        self._progress.update(self._task, completed=done + 1, total=total)


def _side(info: ModelInfo, name: str, asked: int | None) -> int:
    """Width or height in pixels; the sampler itself looks at multiples."""
    own = getattr(info, name)
    if asked is None and own is None:
        raise SettingsError(f"{info.source} does not say its own {name}; give --{name}")
    return int(asked if asked is not None else own)
