"""What more steps buy: samplers and step counts against a reference of very many steps.

Owns what is compared with what. All samplers start from the same noise, so the deterministic ones
make for the same picture and can be compared with it pixel by pixel. DDPM adds noise of its own at
every step: it ends at another picture of the same kind, and is compared with itself as well.
"""

import itertools
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from nightpress.diffusion_core.errors import SettingsError
from nightpress.diffusion_core.inspection.trajectory import OnStep, StepCall, WatchedSampler, silent
from nightpress.diffusion_core.models.loading import LoadedModel, ModelInfo
from nightpress.diffusion_core.sampling import schedulers
from nightpress.diffusion_core.sampling.request import ImageRequest, SamplingParams
from nightpress.diffusion_core.sampling.sampler import Pixels

STEP_COUNTS = (5, 10, 20, 50)
SAMPLERS = ("ddim", "dpmsolver++", "unipc", "euler", "heun")
FLOW_SAMPLERS = ("flow-euler", "dpmsolver++", "unipc")

REFERENCES = ("ddim", "flow-euler")
"""Deterministic, and known to end at the solution when steps are many."""

WARM_UP_STEPS = 2


@dataclass(frozen=True)
class Trial:
    """One sampler at one number of steps."""

    scheduler: str
    num_inference_steps: int
    other_step_noise: bool = False
    """Whether the noise that is added on the way is not that of the plain trial."""

    @property
    def name(self) -> str:
        """`ddim`, `ddpm, other noise`."""
        return f"{self.scheduler}, other noise" if self.other_step_noise else self.scheduler

    def __str__(self) -> str:
        """`ddim 20`."""
        return f"{self.name} {self.num_inference_steps}"


@dataclass(frozen=True)
class TrialResult:
    """What a trial made and took, and how far it ended from the trial it is compared with."""

    trial: Trial
    compared_with: Trial
    num_evaluations: int
    """Of the network; samplers of second order ask it twice a step."""
    seconds: float
    """For the image: denoising and decoding, with the prompt encoded before."""
    rmse: float
    """Root mean squared difference of the pixels, in levels of 0 to 255."""
    fault: str | None
    """As in `SampledBatch`; the picture is black then."""
    pixels: Pixels

    @property
    def psnr(self) -> float:
        """Of the difference, in dB; infinite for equal pictures."""
        return math.inf if self.rmse == 0 else 20 * math.log10(255 / self.rmse)


@dataclass(frozen=True)
class Study:
    """Which trials are made: the references first, then samplers times step counts."""

    reference: Trial
    stochastic: tuple[Trial, ...]
    """The same number of steps with noise on the way, twice; none for a flow."""
    samplers: tuple[str, ...]
    step_counts: tuple[int, ...]

    @property
    def trials(self) -> list[Trial]:
        """In the order in which they are made."""
        grid = [Trial(name, count) for name in self.samplers for count in self.step_counts]
        return [self.reference, *self.stochastic, *grid]


def plan_study(
    info: ModelInfo,
    samplers: Sequence[str] = (),
    step_counts: Sequence[int] | None = None,
    reference_steps: int | None = None,
) -> Study:
    """The trials for a model; what is left open becomes what suits it.

    Raises:
        SettingsError: a sampler that does not fit, a number of steps that one cannot take, or a
            model with no deterministic sampler.
    """
    reference = next((name for name in REFERENCES if name in info.samplers), None)
    if reference is None:
        raise SettingsError(
            f"{info.source} samples with {', '.join(info.samplers)}; none of them is deterministic "
            "and fit for a reference"
        )
    usual = FLOW_SAMPLERS if reference == "flow-euler" else SAMPLERS
    names = tuple(samplers) or tuple(name for name in usual if name in info.samplers)
    most = reference_steps or info.max_steps
    counts = tuple(step_counts or STEP_COUNTS)
    for name, count in itertools.product(names, counts):
        check(info, name, count)
    check(info, reference, most)
    ddpm = [Trial("ddpm", most), Trial("ddpm", most, other_step_noise=True)]
    stochastic = tuple(ddpm) if "ddpm" in info.samplers else ()
    return Study(Trial(reference, most), stochastic, names, counts)


def check(info: ModelInfo, sampler: str, num_inference_steps: int) -> None:
    """Refuse a sampler that does not fit a model, or a number of steps that it cannot take.

    Raises:
        SettingsError: with what is allowed.
    """
    if sampler not in info.samplers:
        raise SettingsError(
            f"scheduler {sampler!r}: {info.source} samples with {', '.join(info.samplers)}"
        )
    most = schedulers.max_steps(sampler, info.max_steps)
    if not 1 <= num_inference_steps <= most:
        raise SettingsError(f"steps {num_inference_steps}: {sampler} takes 1 to {most}")


def conduct(
    study: Study,
    model: LoadedModel,
    request: ImageRequest,
    params: SamplingParams,
    on_step: OnStep = silent,
) -> Iterator[TrialResult]:
    """Make the trials; yields each result when it is there.

    `scheduler` and `num_inference_steps` of `params` are those of the trials.

    Raises:
        SettingsError, SamplingError: as `Sampler.sample` does.
    """
    sampler, made = WatchedSampler(model), dict[Trial, Pixels]()
    warm_up = replace(study.reference, num_inference_steps=WARM_UP_STEPS)
    sampler.sample([request], _settings(params, warm_up))
    for trial in study.trials:
        # The second of a stochastic pair is compared with the first.
        against = replace(trial, other_step_noise=False)
        against = against if trial.other_step_noise else study.reference
        counter = Counter(on_step)
        sampler.watch = counter
        sampler.step_noise = request.seed + 1 if trial.other_step_noise else None
        began = time.perf_counter()
        batch = sampler.sample([request], _settings(params, trial))
        seconds = time.perf_counter() - began
        made[trial] = pixels = batch.pixels[0]
        distance, fault = rmse(pixels, made[against]), batch.faults[0]
        yield TrialResult(trial, against, counter.calls, seconds, distance, fault, pixels)


class Counter:
    """Counts the calls of the network in one trial, and tells of them."""

    def __init__(self, on_step: OnStep) -> None:
        self.calls = 0
        self._on_step = on_step

    def __call__(self, call: StepCall) -> None:
        """Take one call."""
        self._on_step(self.calls, len(call.scheduler.timesteps))
        self.calls += 1


def _settings(params: SamplingParams, trial: Trial) -> SamplingParams:
    return replace(params, scheduler=trial.scheduler, num_inference_steps=trial.num_inference_steps)


def rmse(one: Pixels, other: Pixels) -> float:
    """Root mean squared difference of two pictures, in levels of 0 to 255."""
    difference = one.astype(np.float64) - other.astype(np.float64)
    return float(np.sqrt(np.mean(difference**2)))
