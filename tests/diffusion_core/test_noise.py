"""Laws of the forward process, and agreement with the schedulers that walk it back."""

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from diffusion_core import noise
from diffusion_core.noise import NoiseSchedule

SCHEDULES = [
    NoiseSchedule(kind="linear", beta_start=1e-4, beta_end=0.02),
    NoiseSchedule(kind="scaled_linear"),
    NoiseSchedule(kind="squaredcos_cap_v2"),
    NoiseSchedule(kind="scaled_linear", zero_terminal_snr=True),
    NoiseSchedule(num_steps=50, kind="linear", beta_start=0.01, beta_end=0.2),
]


def sample(seed: int) -> Tensor:
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def twin(schedule: NoiseSchedule) -> DDPMScheduler:
    """Diffusers' scheduler of the same process."""
    return DDPMScheduler(
        num_train_timesteps=schedule.num_steps,
        beta_schedule=schedule.kind,
        beta_start=schedule.beta_start,
        beta_end=schedule.beta_end,
        rescale_betas_zero_snr=schedule.zero_terminal_snr,
    )


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_every_beta_lies_between_zero_and_one(schedule: NoiseSchedule) -> None:
    betas = schedule.betas()
    assert betas.shape == (schedule.num_steps,)
    assert bool(((betas > 0) & (betas <= 1)).all())


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_variance_is_preserved_at_every_step(schedule: NoiseSchedule) -> None:
    alpha, sigma = schedule.alpha_sigma(torch.arange(schedule.num_steps))
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(schedule.num_steps, 1, 1, 1))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_snr_only_falls(schedule: NoiseSchedule) -> None:
    ratio = noise.snr(*schedule.alpha_sigma(torch.arange(schedule.num_steps))).flatten()
    assert bool((ratio.diff() < 0).all())


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_noising_is_that_of_diffusers(schedule: NoiseSchedule) -> None:
    timesteps = torch.tensor([0, 7, schedule.num_steps // 2, schedule.num_steps - 1])
    x0, drawn = sample(0), sample(1)
    x_t = noise.add_noise(x0, drawn, *schedule.alpha_sigma(timesteps))
    torch.testing.assert_close(
        x_t, twin(schedule).add_noise(x0, drawn, timesteps), atol=2e-4, rtol=1e-3
    )


def test_zero_terminal_snr_ends_in_pure_noise_and_keeps_the_first_step() -> None:
    plain, rescaled = NoiseSchedule(), NoiseSchedule(zero_terminal_snr=True)
    alpha, sigma = rescaled.alpha_sigma(torch.tensor([999]))
    assert (alpha.item(), sigma.item()) == (0.0, 1.0)
    torch.testing.assert_close(rescaled.betas()[0], plain.betas()[0])


def test_the_straight_path_runs_from_data_to_noise() -> None:
    x0, drawn = sample(0), sample(1)
    alpha, sigma = noise.flow_alpha_sigma(torch.tensor([0.0, 0.25, 0.5, 1.0]))
    x_t = noise.add_noise(x0, drawn, alpha, sigma)
    assert torch.equal(x_t[0], x0[0])
    assert torch.equal(x_t[3], drawn[3])
    torch.testing.assert_close(alpha + sigma, torch.ones(4, 1, 1, 1))


def test_the_straight_path_is_that_of_diffusers() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler()
    times = scheduler.timesteps[[0, 100, 500, 999]]
    x0, drawn = sample(0), sample(1)
    x_t = noise.add_noise(x0, drawn, *noise.flow_alpha_sigma(times / 1000))
    torch.testing.assert_close(x_t, scheduler.scale_noise(x0, times, drawn))


def test_unit_variance_data_keeps_unit_variance_when_noised() -> None:
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randn(2, 4, 64, 64, generator=generator)
    drawn = torch.randn(2, 4, 64, 64, generator=generator)
    alpha, sigma = NoiseSchedule().alpha_sigma(torch.tensor([200, 700]))
    variance = noise.add_noise(x0, drawn, alpha, sigma).var(dim=(1, 2, 3))
    torch.testing.assert_close(variance, torch.ones(2), atol=0.05, rtol=0)
