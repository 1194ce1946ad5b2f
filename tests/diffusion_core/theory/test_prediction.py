"""Laws of the four prediction targets."""

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
def test_a_perfect_answer_gives_back_data_and_noise(kind: PredictionType, path: str) -> None:
    (x0, noise), (alpha, sigma) = pair(), PATHS[path]
    x_t = add_noise(x0, noise, alpha, sigma)
    answer = target(kind, x0, noise, alpha, sigma)
    torch.testing.assert_close(to_x0(kind, answer, x_t, alpha, sigma), x0, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        to_noise(kind, answer, x_t, alpha, sigma), noise, atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize(
    ("kind", "wanted"), list(itertools.permutations(PREDICTION_TYPES, 2)), ids="-".join
)
def test_any_answer_converts_to_another_target_and_back(
    kind: PredictionType, wanted: PredictionType
) -> None:
    (x_t, answer), (alpha, sigma) = pair(), PATHS["neither"]
    there = convert(kind, wanted, answer, x_t, alpha, sigma)
    back = convert(wanted, kind, there, x_t, alpha, sigma)
    torch.testing.assert_close(back, answer, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_data_and_noise_read_from_an_answer_mix_to_what_the_network_saw(
    kind: PredictionType,
) -> None:
    (x_t, answer), (alpha, sigma) = pair(), PATHS["variance preserving"]
    x0, noise = to_x0(kind, answer, x_t, alpha, sigma), to_noise(kind, answer, x_t, alpha, sigma)
    if kind in ("epsilon", "sample"):  # by definition of what is left over
        torch.testing.assert_close(add_noise(x0, noise, alpha, sigma), x_t, atol=1e-3, rtol=1e-3)
    else:
        torch.testing.assert_close(target(kind, x0, noise, alpha, sigma), answer)


def test_v_is_the_velocity_of_diffusers() -> None:
    x0, noise = pair()
    scheduler, timesteps = DDPMScheduler(beta_schedule="scaled_linear"), torch.tensor([5, 300, 900])
    schedule = NoiseSchedule(beta_start=1e-4, beta_end=0.02)
    ours = target("v_prediction", x0, noise, *schedule.alpha_sigma(timesteps))
    torch.testing.assert_close(
        ours, scheduler.get_velocity(x0, noise, timesteps), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_x0_is_what_diffusers_reads_from_the_same_answer(kind: PredictionType) -> None:
    x_t, answer = pair()
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
        answer, 400, x_t, generator=torch.Generator().manual_seed(0)
    ).pred_original_sample
    torch.testing.assert_close(to_x0(kind, answer, x_t, alpha, sigma), theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_a_unit_error_of_the_answer_shows_in_data_and_noise_by_its_scales(
    kind: PredictionType, path: str
) -> None:
    (x_t, answer), (alpha, sigma) = pair(), PATHS[path]
    for read, scale in zip((to_x0, to_noise), error_scales(kind, alpha, sigma), strict=True):
        moved = read(kind, answer + 1, x_t, alpha, sigma) - read(kind, answer, x_t, alpha, sigma)
        torch.testing.assert_close(moved.abs(), scale.expand_as(moved), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", ["v_prediction", "flow_prediction", "sample"])
def test_from_pure_noise_every_answer_but_epsilon_gives_a_picture(kind: PredictionType) -> None:
    (x0, noise), alpha, sigma = pair(), torch.zeros(3, 1, 1, 1), torch.ones(3, 1, 1, 1)
    answer = target(kind, x0, noise, alpha, sigma)
    torch.testing.assert_close(to_x0(kind, answer, noise, alpha, sigma), x0)
    assert not torch.isfinite(to_x0("epsilon", noise, noise, alpha, sigma)).any()


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_what_a_denoiser_answers_is_read_from_its_scheduler(kind: PredictionType) -> None:
    assert prediction_type_of(DDPMScheduler(prediction_type=kind).config) == kind
    flow = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
    assert prediction_type_of(flow) == "flow_prediction"
    with pytest.raises(
        SettingsError, match="prediction_type 'score': must be one of epsilon, v_pred"
    ):
        prediction_type_of({"prediction_type": "score"})
