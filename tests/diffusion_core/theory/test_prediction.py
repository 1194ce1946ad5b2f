"""Properties of the four prediction targets."""

import itertools

import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor

from nightpress.diffusion_core.errors import SettingsError
from nightpress.diffusion_core.sampling.scheduler_config import prediction_type_of
from nightpress.diffusion_core.theory.noise import NoiseSchedule, add_noise, flow_alpha_sigma
from nightpress.diffusion_core.theory.prediction import (
    PREDICTION_TYPES,
    PredictionType,
    convert,
    error_scales,
    target,
    to_noise,
    to_x0,
)

PATHS = {
    "variance preserving": NoiseSchedule().alpha_sigma(torch.tensor([5, 300, 900])),
    "straight": flow_alpha_sigma(torch.tensor([0.05, 0.5, 0.9])),
    "neither": (torch.full((3, 1, 1, 1), 0.3), torch.full((3, 1, 1, 1), 2.0)),
}


def pair() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randn(3, 4, 8, 8, generator=generator)
    return x0, torch.randn(3, 4, 8, 8, generator=generator)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_data_and_noise_are_recovered_from_a_perfect_output(
    kind: PredictionType, path: str
) -> None:
    (x0, noise), (alpha, sigma) = pair(), PATHS[path]
    x_t = add_noise(x0, noise, alpha, sigma)
    output = target(kind, x0, noise, alpha, sigma)
    torch.testing.assert_close(to_x0(kind, output, x_t, alpha, sigma), x0, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        to_noise(kind, output, x_t, alpha, sigma), noise, atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize(
    ("kind", "wanted"), list(itertools.permutations(PREDICTION_TYPES, 2)), ids="-".join
)
def test_every_output_converts_to_another_type_and_back(
    kind: PredictionType, wanted: PredictionType
) -> None:
    (x_t, output), (alpha, sigma) = pair(), PATHS["neither"]
    there = convert(kind, wanted, output, x_t, alpha, sigma)
    back = convert(wanted, kind, there, x_t, alpha, sigma)
    torch.testing.assert_close(back, output, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_recovered_data_and_noise_mix_to_the_network_input(
    kind: PredictionType,
) -> None:
    (x_t, output), (alpha, sigma) = pair(), PATHS["variance preserving"]
    x0, noise = to_x0(kind, output, x_t, alpha, sigma), to_noise(kind, output, x_t, alpha, sigma)
    if kind in ("epsilon", "sample"):  # by definition of what is left over
        torch.testing.assert_close(add_noise(x0, noise, alpha, sigma), x_t, atol=1e-3, rtol=1e-3)
    else:
        torch.testing.assert_close(target(kind, x0, noise, alpha, sigma), output)


def test_v_agrees_with_diffusers() -> None:
    x0, noise = pair()
    scheduler, timesteps = DDPMScheduler(beta_schedule="scaled_linear"), torch.tensor([5, 300, 900])
    schedule = NoiseSchedule(beta_start=1e-4, beta_end=0.02)
    ours = target("v_prediction", x0, noise, *schedule.alpha_sigma(timesteps))
    torch.testing.assert_close(
        ours, scheduler.get_velocity(x0, noise, timesteps), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_x0_agrees_with_diffusers(kind: PredictionType) -> None:
    x_t, output = pair()
    scheduler = DDPMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type=kind,
        clip_sample=False,
    )
    scheduler.set_timesteps(1000)
    alpha, sigma = NoiseSchedule().alpha_sigma(torch.tensor([400]))
    theirs = scheduler.step(
        output, 400, x_t, generator=torch.Generator().manual_seed(0)
    ).pred_original_sample
    torch.testing.assert_close(to_x0(kind, output, x_t, alpha, sigma), theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_error_scales_are_the_effect_of_a_unit_error(kind: PredictionType, path: str) -> None:
    (x_t, output), (alpha, sigma) = pair(), PATHS[path]
    for read, scale in zip((to_x0, to_noise), error_scales(kind, alpha, sigma), strict=True):
        moved = read(kind, output + 1, x_t, alpha, sigma) - read(kind, output, x_t, alpha, sigma)
        torch.testing.assert_close(moved.abs(), scale.expand_as(moved), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", ["v_prediction", "flow_prediction", "sample"])
def test_at_pure_noise_every_type_but_epsilon_determines_x0(kind: PredictionType) -> None:
    (x0, noise), alpha, sigma = pair(), torch.zeros(3, 1, 1, 1), torch.ones(3, 1, 1, 1)
    output = target(kind, x0, noise, alpha, sigma)
    torch.testing.assert_close(to_x0(kind, output, noise, alpha, sigma), x0)
    assert not torch.isfinite(to_x0("epsilon", noise, noise, alpha, sigma)).any()


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_the_prediction_type_is_read_from_the_scheduler_config(kind: PredictionType) -> None:
    assert prediction_type_of(DDPMScheduler(prediction_type=kind).config) == kind
    flow = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
    assert prediction_type_of(flow) == "flow_prediction"
    with pytest.raises(
        SettingsError, match="prediction_type 'score': must be one of epsilon, v_pred"
    ):
        prediction_type_of({"prediction_type": "score"})
