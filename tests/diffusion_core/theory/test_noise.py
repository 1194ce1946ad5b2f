"""Properties of the forward process, and agreement with diffusers' schedulers."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr
from torch import Tensor

from nightpress.diffusion_core.errors import SettingsError
from nightpress.diffusion_core.sampling.scheduler_config import process_of
from nightpress.diffusion_core.theory import noise
from nightpress.diffusion_core.theory.noise import FlowPath, NoiseProcess, NoiseSchedule

SCHEDULES = [
    NoiseSchedule(kind="linear", beta_start=1e-4, beta_end=0.02),
    NoiseSchedule(kind="scaled_linear"),
    NoiseSchedule(kind="squaredcos_cap_v2"),
    NoiseSchedule(kind="scaled_linear", zero_terminal_snr=True),
    NoiseSchedule(num_steps=50, kind="linear", beta_start=0.01, beta_end=0.2),
]
PATHS = [FlowPath(), FlowPath(shift=3.0), FlowPath(num_steps=50, shift=0.5)]


def sample(seed: int) -> Tensor:
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def twin(schedule: NoiseSchedule) -> DDPMScheduler:
    """The diffusers scheduler of the same process."""
    return DDPMScheduler(**schedule.scheduler_config())


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
def test_adding_noise_agrees_with_diffusers(schedule: NoiseSchedule) -> None:
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


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_the_straight_path_agrees_with_diffusers(path: FlowPath) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(**path.scheduler_config())
    timesteps = scheduler.timesteps[[0, 10, path.num_steps // 2, path.num_steps - 1]]
    x0, drawn = sample(0), sample(1)
    x_t = noise.add_noise(x0, drawn, *path.alpha_sigma(timesteps))
    torch.testing.assert_close(x_t, scheduler.scale_noise(x0, timesteps, drawn))


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_shifted_times_agree_with_diffusers(path: FlowPath) -> None:
    theirs = FlowMatchEulerDiscreteScheduler(**path.scheduler_config()).timesteps
    fractions = torch.arange(path.num_steps, 0, -1) / path.num_steps
    torch.testing.assert_close(path.timesteps_at(fractions), theirs)


@pytest.mark.parametrize("schedule", SCHEDULES[:3], ids=str)
def test_sigma_over_alpha_is_the_sigma_of_diffusers_euler(
    schedule: NoiseSchedule,
) -> None:
    scheduler = EulerDiscreteScheduler(**schedule.scheduler_config())
    alpha, sigma = schedule.alpha_sigma(scheduler.timesteps.long())
    torch.testing.assert_close(
        (sigma / alpha).flatten(), scheduler.sigmas[:-1].float(), rtol=2e-3, atol=1e-5
    )


@pytest.mark.parametrize("schedule", SCHEDULES[:3], ids=str)
def test_zero_terminal_snr_agrees_with_diffusers(schedule: NoiseSchedule) -> None:
    betas = schedule.betas()
    torch.testing.assert_close(
        noise.rescale_to_zero_terminal_snr(betas), rescale_zero_terminal_snr(betas)
    )


@pytest.mark.parametrize("process", [*SCHEDULES, *PATHS], ids=str)
def test_timesteps_rise_from_data_to_noise(process: NoiseProcess) -> None:
    timesteps = process.timesteps_at(torch.linspace(0, 1, 1001))
    assert bool((timesteps.diff() >= 0).all())
    alpha, sigma = process.alpha_sigma(timesteps)
    assert alpha[0].item() > 0.99
    assert sigma[-1].item() > 0.99
    assert bool(torch.isfinite(alpha + sigma).all())


@pytest.mark.parametrize("process", [*SCHEDULES, *PATHS], ids=str)
def test_a_timestep_is_recovered_from_its_noise_to_signal_ratio(process: NoiseProcess) -> None:
    timesteps = process.timesteps_at(torch.tensor([0.05, 0.3, 0.55, 0.9]))
    alpha, sigma = process.alpha_sigma(timesteps)
    torch.testing.assert_close(process.timesteps_of((sigma / alpha).log().flatten()), timesteps)


@pytest.mark.parametrize("process", [*SCHEDULES, *PATHS], ids=str)
def test_ratios_out_of_range_give_the_ends(process: NoiseProcess) -> None:
    ends = process.timesteps_of(torch.tensor([-float("inf"), float("inf")]))
    assert torch.equal(ends, process.timesteps_at(torch.tensor([0.0, 1.0])))


@pytest.mark.parametrize(
    "scheduler", [DDPMScheduler, DDIMScheduler, EulerDiscreteScheduler, DPMSolverMultistepScheduler]
)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_a_schedule_is_recovered_from_the_schedulers_made_for_it(
    schedule: NoiseSchedule, scheduler: Callable[..., Any]
) -> None:
    assert process_of(scheduler(**schedule.scheduler_config()).config) == schedule


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_a_path_is_recovered_from_the_schedulers_made_for_it(path: FlowPath) -> None:
    made = FlowMatchEulerDiscreteScheduler(**path.scheduler_config())
    assert process_of({**made.config, "_class_name": type(made).__name__}) == path
    solver = DPMSolverMultistepScheduler(
        num_train_timesteps=path.num_steps,
        use_flow_sigmas=True,
        prediction_type="flow_prediction",
        flow_shift=path.shift,
    )
    assert process_of(solver.config) == path


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"beta_schedule": "sigmoid"},
            "beta_schedule 'sigmoid': must be one of linear, scaled_linear",
        ),
        (
            {"beta_schedule": "linear", "trained_betas": np.array([0.1, 0.2])},
            "beta_schedule trained_betas: must be one of",
        ),
    ],
)
def test_unknown_beta_schedules_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        process_of(config)


def test_unit_variance_data_keeps_unit_variance_when_noised() -> None:
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randn(2, 4, 64, 64, generator=generator)
    drawn = torch.randn(2, 4, 64, 64, generator=generator)
    alpha, sigma = NoiseSchedule().alpha_sigma(torch.tensor([200, 700]))
    variance = noise.add_noise(x0, drawn, alpha, sigma).var(dim=(1, 2, 3))
    torch.testing.assert_close(variance, torch.ones(2), atol=0.05, rtol=0)
