"""Sampling with an exact denoiser reproduces the distribution of the data.

For Gaussian data the best denoiser is a formula, so samplers, prediction targets and the forward
process can be tested together, without a network or training.
"""

import inspect
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from nightpress.diffusion_core.errors import SettingsError
from nightpress.diffusion_core.models import samplers
from nightpress.diffusion_core.models.samplers import DIFFUSION_SAMPLERS
from nightpress.diffusion_core.sampling import schedulers
from nightpress.diffusion_core.theory.guidance import guide
from nightpress.diffusion_core.theory.noise import FlowPath, NoiseProcess, NoiseSchedule
from nightpress.diffusion_core.theory.prediction import PREDICTION_TYPES, PredictionType, target

DIFFUSION_KINDS: tuple[PredictionType, ...] = ("epsilon", "v_prediction", "sample")
# A schedule that ends in 99.97% noise: nearly the pure noise that samplers start from.
LONG = NoiseSchedule(beta_end=0.02)
NUM = 4000


@dataclass(frozen=True)
class Mixture:
    """A mixture of equally likely Gaussians with one variance."""

    means: Tensor
    variance: float

    def best_prediction(
        self, kind: PredictionType, process: NoiseProcess, x_t: Tensor, timesteps: Tensor
    ) -> Tensor:
        """The prediction with the least squared error: the mean target, given x_t (B, 1, 1, 1).

        Around one mean m, x0 and x_t are jointly normal: E[x0 | x_t] = m + gain (x_t - alpha m),
        and x_t has the variance alpha^2 v + sigma^2. Means are weighted by the likelihood of x_t.
        """
        alpha, sigma = process.alpha_sigma(timesteps)
        total = alpha**2 * self.variance + sigma**2
        away = x_t - alpha * self.means
        shares = torch.softmax(-(away**2) / (2 * total), dim=3)
        x0 = (shares * (self.means + alpha * self.variance / total * away)).sum(3, keepdim=True)
        noise = (shares * (sigma / total * away)).sum(3, keepdim=True)
        return target(kind, x0, noise, alpha, sigma)

    def consistent_prediction(
        self, kind: PredictionType, process: NoiseProcess, x_t: Tensor, timesteps: Tensor
    ) -> Tensor:
        """The prediction of a consistency model: where the probability flow from x_t ends.

        For one Gaussian that flow keeps the number of standard deviations from the mean.
        """
        alpha, sigma = process.alpha_sigma(timesteps)
        (mean,) = self.means
        total = alpha**2 * self.variance + sigma**2
        x0 = mean + (self.variance / total) ** 0.5 * (x_t - alpha * mean)
        return target(kind, x0, (x_t - alpha * x0) / sigma, alpha, sigma)

    @property
    def std(self) -> float:
        return float((self.means.var(correction=0) + self.variance) ** 0.5)


TWO = Mixture(torch.tensor([-1.5, 0.9]), variance=0.1)
ONE = Mixture(torch.tensor([0.7]), variance=0.25)
POINT = Mixture(torch.tensor([0.7]), variance=0.0)


def config_of(process: NoiseProcess, kind: PredictionType) -> dict[str, Any]:
    if isinstance(process, FlowPath):
        return {"_class_name": "FlowMatchEulerDiscreteScheduler", **process.scheduler_config()}
    return {
        "_class_name": "DDPMScheduler",
        **process.scheduler_config(),
        "prediction_type": kind,
        "timestep_spacing": "trailing",
        "clip_sample": False,
    }


def sampled(
    data: Mixture,
    sampler: str,
    process: NoiseProcess,
    kind: PredictionType,
    num_steps: int,
    spacing: str = "trailing",
) -> Tensor:
    """(NUM,) numbers that the sampler makes from noise with the best denoiser.

    `lcm` does not solve an equation: its model maps noise to the image in one step, so it gets that
    map instead.
    """
    config = {**config_of(process, kind), "timestep_spacing": spacing}
    scheduler = schedulers.make(sampler, config)
    scheduler.set_timesteps(num_steps)
    generator = Generator().manual_seed(0)
    x_t = torch.randn(NUM, 1, 1, 1, generator=generator)
    x_t = x_t * getattr(scheduler, "init_noise_sigma", 1.0)
    takes = inspect.signature(scheduler.step).parameters
    noise = {"generator": generator} if "generator" in takes else {}
    predict = data.consistent_prediction if sampler == "lcm" else data.best_prediction
    for t in scheduler.timesteps:
        seen = (
            scheduler.scale_model_input(x_t, t) if hasattr(scheduler, "scale_model_input") else x_t
        )
        timesteps = t if isinstance(process, FlowPath) else t.round().long()
        prediction = predict(kind, process, seen, timesteps.reshape(1))
        x_t = scheduler.step(prediction, t, x_t, **noise).prev_sample
    return x_t.flatten()


PROCESSES = {
    "usual": LONG,
    "zero terminal SNR": NoiseSchedule(zero_terminal_snr=True),
    "cosine": NoiseSchedule(kind="squaredcos_cap_v2"),
}


def steps_for(sampler: str) -> int:
    """Enough for the samplers of first order that add noise, or take their largest steps first."""
    return 100 if sampler.startswith(("ddpm", "euler-")) else 50


EVERY_KIND = [
    pytest.param(name, kind, marks=[] if "usual" in name or kind[0] == "v" else pytest.mark.slow)
    for name in PROCESSES
    for kind in DIFFUSION_KINDS
]


@pytest.mark.parametrize(("name", "kind"), EVERY_KIND)
@pytest.mark.parametrize("sampler", DIFFUSION_SAMPLERS[1:])
def test_every_sampler_reproduces_a_gaussian_or_is_refused(
    sampler: str, name: str, kind: PredictionType
) -> None:
    process = PROCESSES[name]
    config = config_of(process, kind)
    if sampler not in samplers.compatible_samplers(config, "StableDiffusionPipeline", False):
        with pytest.raises(SettingsError, match="does not work with this model: it"):
            schedulers.make(sampler, config)
        return
    numbers = sampled(ONE, sampler, process, kind, steps_for(sampler))
    assert numbers.mean().item() == pytest.approx(0.7, abs=0.05)
    assert numbers.std().item() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("spacing", ["leading", "linspace"])
@pytest.mark.parametrize("sampler", DIFFUSION_SAMPLERS[1:])
def test_every_sampler_reproduces_a_gaussian_with_any_spacing(sampler: str, spacing: str) -> None:
    numbers = sampled(ONE, sampler, LONG, "v_prediction", steps_for(sampler), spacing)
    assert numbers.mean().item() == pytest.approx(0.7, abs=0.05)
    assert numbers.std().item() == pytest.approx(0.5, abs=0.05)


def test_what_is_refused_is_only_what_cannot_converge() -> None:
    refused = {
        name: {
            kind: " ".join(
                sampler
                for sampler in DIFFUSION_SAMPLERS[1:]
                if samplers.why_not(sampler, config_of(process, kind))
            )
            for kind in DIFFUSION_KINDS
        }
        for name, process in PROCESSES.items()
    }
    ancestral = "euler-ancestral euler-ancestral-trailing"
    karras = "dpmsolver++-karras dpmsolver-sde-karras"
    heun = "heun heun-karras heun-trailing unipc-karras"
    large = f"{karras} {heun}"
    from_noise = f"ddpm ddpm-trailing ddim ddim-trailing {large} lcm"
    with_ancestral = f"{karras} {ancestral} {heun}"
    assert refused == {
        "usual": {"epsilon": "", "v_prediction": "", "sample": ancestral},
        "zero terminal SNR": {
            "epsilon": from_noise,
            "v_prediction": large,
            "sample": with_ancestral,
        },
        "cosine": {"epsilon": large, "v_prediction": large, "sample": with_ancestral},
    }


def test_a_process_that_a_samplers_class_cannot_express_leaves_only_the_models_own() -> None:
    base = config_of(LONG, "v_prediction")
    for changed, left in (
        ({"snr_shift_scale": 3.0}, ("default",)),
        (
            {"sigma_min": 0.002, "sigma_max": 80.0, "timestep_type": "continuous"},
            ("default", "euler", "euler-karras", "euler-trailing"),
        ),
    ):
        names = samplers.compatible_samplers(base | changed, "StableDiffusionXLPipeline", False)
        assert names == left


@pytest.mark.parametrize("sampler", ["ddim", "dpmsolver++", "unipc", "euler", "heun"])
def test_every_sampler_reproduces_both_modes_of_a_mixture(sampler: str) -> None:
    numbers = sampled(TWO, sampler, LONG, "v_prediction", num_steps=50)
    left = numbers < -0.3
    assert left.float().mean().item() == pytest.approx(0.5, abs=0.05)
    assert numbers[left].mean().item() == pytest.approx(-1.5, abs=0.05)
    assert numbers[~left].mean().item() == pytest.approx(0.9, abs=0.05)
    assert numbers.std().item() == pytest.approx(TWO.std, abs=0.05)


@pytest.mark.parametrize("path", [FlowPath(), FlowPath(shift=3.0)], ids=str)
@pytest.mark.parametrize("sampler", ["flow-euler", "dpmsolver++", "dpmsolver-sde", "unipc"])
def test_a_flow_carries_noise_to_the_mixture(sampler: str, path: FlowPath) -> None:
    numbers = sampled(TWO, sampler, path, "flow_prediction", num_steps=100)
    left = numbers < -0.3
    assert left.float().mean().item() == pytest.approx(0.5, abs=0.05)
    assert numbers.std().item() == pytest.approx(TWO.std, abs=0.05)


@pytest.mark.parametrize("sampler", ["ddim", "dpmsolver++", "euler", "heun"])
@pytest.mark.parametrize("kind", DIFFUSION_KINDS)
def test_if_there_is_one_image_all_noise_becomes_that_image(
    sampler: str, kind: PredictionType
) -> None:
    numbers = sampled(POINT, sampler, LONG, kind, num_steps=20)
    torch.testing.assert_close(numbers, torch.full((NUM,), 0.7), atol=0.05, rtol=0)


def test_on_a_straight_path_one_step_is_enough_for_one_image() -> None:
    numbers = sampled(POINT, "flow-euler", FlowPath(), "flow_prediction", num_steps=1)
    torch.testing.assert_close(numbers, torch.full((NUM,), 0.7), atol=1e-5, rtol=0)


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpmsolver++", "euler"])
def test_with_zero_terminal_snr_v_is_finite_and_starts_from_pure_noise(sampler: str) -> None:
    process = NoiseSchedule(zero_terminal_snr=True)
    numbers = sampled(ONE, sampler, process, "v_prediction", num_steps=100)
    assert bool(torch.isfinite(numbers).all())
    assert numbers.mean().item() == pytest.approx(0.7, abs=0.05)
    assert numbers.std().item() == pytest.approx(0.5, abs=0.05)


def test_more_steps_come_nearer_to_the_distribution() -> None:
    errors = [
        abs(sampled(ONE, "ddim", LONG, "epsilon", num_steps).std().item() - 0.5)
        for num_steps in (3, 10, 100)
    ]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_guidance_between_gaussians_moves_along_the_line_through_their_means(
    kind: PredictionType,
) -> None:
    wide, near = Mixture(torch.tensor([0.0]), 0.25), Mixture(torch.tensor([0.6]), 0.25)
    x_t, timestep = (
        torch.randn(64, 1, 1, 1, generator=Generator().manual_seed(0)),
        torch.tensor([400]),
    )
    predictions = [data.best_prediction(kind, LONG, x_t, timestep) for data in (near, wide)]
    further = Mixture(torch.tensor([0.6 * 4.0]), 0.25).best_prediction(kind, LONG, x_t, timestep)
    torch.testing.assert_close(
        guide(predictions[0], predictions[1], 4.0), further, atol=1e-4, rtol=1e-4
    )
