"""Compare samplers and numbers of steps with a reference of very many steps.

All samplers start from the same noise, so the deterministic ones approach the same image and can be
compared with it pixel by pixel. DDPM adds fresh noise at every step and ends at a different image,
so it is also compared with itself under other noise.
"""

import itertools
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from nightpress.diffusion_core.conditioning.spec import Pixels
from nightpress.diffusion_core.errors import SettingsError
from nightpress.diffusion_core.inspection.trajectory import (
    OnStep,
    StepCall,
    WatchedSampler,
    no_progress,
)
from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.sampling import schedulers
from nightpress.diffusion_core.sampling.request import ImageRequest, SamplingParams
from nightpress.diffusion_core.theory.psnr import mean_squared_error, psnr_db

STEP_COUNTS = (5, 10, 20, 50)
SAMPLERS = ("ddim", "dpmsolver++", "unipc", "euler", "heun")
FLOW_SAMPLERS = ("flow-euler", "dpmsolver++", "unipc")

REFERENCES = ("ddim", "flow-euler")
"""Deterministic samplers that converge to the exact solution as the steps increase."""

WARM_UP_STEPS = 2


@dataclass(frozen=True)
class SamplerTrial:
    """One sampler at one number of steps."""

    scheduler: str
    num_inference_steps: int
    other_step_noise: bool = False
    """Whether the noise added at each step has another seed than in the plain trial."""

    @property
    def name(self) -> str:
        """`ddim`, `ddpm, other noise`."""
        return f"{self.scheduler}, other noise" if self.other_step_noise else self.scheduler

    def __str__(self) -> str:
        """`ddim 20`."""
        return f"{self.name} {self.num_inference_steps}"


@dataclass(frozen=True)
class SamplerResult:
    """The image of a trial, its cost, and its distance from the trial it is compared with."""

    trial: SamplerTrial
    compared_with: SamplerTrial
    num_evaluations: int
    """Denoiser calls; second-order samplers make two in each step."""
    seconds: float
    """For denoising and decoding the image; the prompt is encoded before."""
    rmse: float
    """Root mean squared difference of the pixels, in levels from 0 to 255."""
    fault: str | None
    """As in `SampledBatch`; the image is black then."""
    pixels: Pixels

    @property
    def psnr(self) -> float:
        """PSNR in dB against `compared_with`; infinite for equal images."""
        return psnr_db(self.rmse**2)


@dataclass(frozen=True)
class SamplerStudy:
    """The trials to run: the references first, then every sampler at every number of steps."""

    reference: SamplerTrial
    stochastic: tuple[SamplerTrial, ...]
    """DDPM at the reference's number of steps, twice with different noise; empty for a flow."""
    samplers: tuple[str, ...]
    step_counts: tuple[int, ...]

    @property
    def trials(self) -> list[SamplerTrial]:
        """All trials in the order in which they run."""
        pairs = itertools.product(self.samplers, self.step_counts)
        return [self.reference, *self.stochastic, *itertools.starmap(SamplerTrial, pairs)]


def plan_study(
    info: ModelInfo,
    samplers: Sequence[str] = (),
    step_counts: Sequence[int] | None = None,
    reference_steps: int | None = None,
) -> SamplerStudy:
    """The trials for a model; arguments that are left out get defaults that suit the model.

    Raises:
        SettingsError: the model does not support a sampler or a number of steps, or has no
            deterministic sampler.
    """
    reference = next((name for name in REFERENCES if name in info.samplers), None)
    if reference is None:
        raise SettingsError(
            f"{info.source} supports only the samplers {', '.join(info.samplers)}; none of them is "
            "deterministic, so there is no reference"
        )
    suitable = FLOW_SAMPLERS if reference == "flow-euler" else SAMPLERS
    names = tuple(samplers) or tuple(name for name in suitable if name in info.samplers)
    most = reference_steps or info.max_steps
    counts = tuple(step_counts or STEP_COUNTS)
    for name, count in itertools.product(names, counts):
        check_sampler(info, name, count)
    check_sampler(info, reference, most)
    ddpm = [SamplerTrial("ddpm", most), SamplerTrial("ddpm", most, other_step_noise=True)]
    stochastic = tuple(ddpm) if "ddpm" in info.samplers else ()
    return SamplerStudy(SamplerTrial(reference, most), stochastic, names, counts)


def check_sampler(info: ModelInfo, sampler: str, num_inference_steps: int) -> None:
    """Check that a model supports a sampler and that the sampler can take that many steps.

    Raises:
        SettingsError: it does not; the message says what is allowed.
    """
    if sampler not in info.samplers:
        raise SettingsError(
            f"scheduler {sampler!r}: {info.source} supports {', '.join(info.samplers)}"
        )
    most = schedulers.max_steps(sampler, info.max_steps)
    if not 1 <= num_inference_steps <= most:
        raise SettingsError(f"steps {num_inference_steps}: {sampler} takes 1 to {most}")


def run_study(
    study: SamplerStudy,
    model: LoadedModel,
    request: ImageRequest,
    params: SamplingParams,
    on_step: OnStep = no_progress,
) -> Iterator[SamplerResult]:
    """Run the trials of a study; yields each result as soon as it is known.

    The trials replace `scheduler` and `num_inference_steps` of `params`.

    Raises:
        SettingsError, SamplingError: as `Sampler.sample` does.
    """
    sampler, images = WatchedSampler(model), dict[SamplerTrial, Pixels]()
    warm_up = replace(study.reference, num_inference_steps=WARM_UP_STEPS)
    sampler.sample([request], _with_trial(params, warm_up)).settled()
    for trial in study.trials:
        # The second trial of a stochastic pair is compared with the first.
        plain = replace(trial, other_step_noise=False)
        compared_with = plain if trial.other_step_noise else study.reference
        counter = _CallCounter(on_step)
        sampler.watch = counter
        sampler.step_noise = request.seed + 1 if trial.other_step_noise else None
        started_at = time.perf_counter()
        batch = sampler.sample([request], _with_trial(params, trial)).settled()
        seconds = time.perf_counter() - started_at
        images[trial] = pixels = batch.pixels[0]
        distance, fault = rmse(pixels, images[compared_with]), batch.faults[0]
        yield SamplerResult(trial, compared_with, counter.calls, seconds, distance, fault, pixels)


class _CallCounter:
    """Counts the denoiser calls of one trial and reports them."""

    def __init__(self, on_step: OnStep) -> None:
        self.calls = 0
        self._on_step = on_step

    def __call__(self, call: StepCall) -> None:
        self._on_step(self.calls, len(call.scheduler.timesteps))
        self.calls += 1


def _with_trial(params: SamplingParams, trial: SamplerTrial) -> SamplingParams:
    return replace(params, scheduler=trial.scheduler, num_inference_steps=trial.num_inference_steps)


def rmse(image: Pixels, other: Pixels) -> float:
    """Root mean squared difference of two images, in levels from 0 to 255."""
    return math.sqrt(mean_squared_error(image, other))
