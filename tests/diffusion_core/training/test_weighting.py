"""Properties of the times that a denoiser is trained at."""

import pytest
import torch
from diffusers.training_utils import compute_density_for_timestep_sampling
from torch import Generator, Tensor

from nightpress.diffusion_core.theory.noise import FlowPath, NoiseProcess, NoiseSchedule
from nightpress.diffusion_core.training import TimeSampling, times_from_uniform
from nightpress.diffusion_core.training.randomness import strata

PROCESSES: list[NoiseProcess] = [
    NoiseSchedule(),
    NoiseSchedule(num_steps=100, kind="linear", beta_start=1e-4, beta_end=0.2),
    FlowPath(),
    FlowPath(shift=3.0),
]
SAMPLINGS = [
    TimeSampling(),
    TimeSampling("logit_normal"),
    TimeSampling("snr", mean=-1.2, std=1.2),
    TimeSampling(shift=2.0),
]


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def even(num: int) -> Tensor:
    """The midpoints of equal strata."""
    return (torch.arange(num) + 0.5) / num


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
@pytest.mark.parametrize("process", PROCESSES, ids=str)
def test_times_rise_with_the_uniform_numbers_and_stay_in_range(
    process: NoiseProcess, sampling: TimeSampling
) -> None:
    uniform = torch.cat([torch.zeros(1), even(500), torch.ones(1)])
    timesteps = times_from_uniform(uniform, process, sampling)
    assert bool((timesteps.diff() >= 0).all())
    assert timesteps[0] >= 0
    assert timesteps[-1] <= process.num_steps
    alpha, sigma = process.alpha_sigma(timesteps)
    assert bool(torch.isfinite(alpha + sigma).all())


def test_uniform_times_hit_every_timestep_once() -> None:
    timesteps = times_from_uniform(even(1000), NoiseSchedule())
    assert torch.equal(timesteps, torch.arange(1000))


def test_a_shift_has_the_effect_of_a_shifted_path() -> None:
    shifted = times_from_uniform(even(1000), FlowPath(), TimeSampling(shift=3.0))
    assert torch.allclose(shifted, times_from_uniform(even(1000), FlowPath(shift=3.0)))
    timesteps = times_from_uniform(even(1000), NoiseSchedule(), TimeSampling(shift=3.0))
    assert float((timesteps >= 750).float().mean()) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("process", [NoiseSchedule(), FlowPath()], ids=str)
@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (-0.5, 0.7)])
def test_logit_normal_times_have_the_density_of_diffusers(
    process: NoiseProcess, mean: float, std: float
) -> None:
    sampling = TimeSampling("logit_normal", mean, std)
    ours = times_from_uniform(even(4000), process, sampling) / process.num_steps
    theirs = compute_density_for_timestep_sampling(
        "logit_normal", 40_000, logit_mean=mean, logit_std=std, generator=seeded()
    )
    levels = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95])
    torch.testing.assert_close(
        ours.float().quantile(levels), theirs.quantile(levels), atol=0.01, rtol=0
    )


@pytest.mark.parametrize("process", PROCESSES, ids=str)
def test_snr_times_have_the_requested_ratios_under_every_schedule(process: NoiseProcess) -> None:
    timesteps = times_from_uniform(even(4000), process, TimeSampling("snr", -1.0, 0.5))
    alpha, sigma = process.alpha_sigma(timesteps)
    log_ratio = (sigma / alpha).log()
    assert log_ratio.mean().item() == pytest.approx(-1.0, abs=0.02)
    assert log_ratio.std().item() == pytest.approx(0.5, abs=0.02)


def test_on_a_straight_path_snr_and_logit_normal_are_equal() -> None:
    ours = [
        times_from_uniform(even(99), FlowPath(), TimeSampling(d)) for d in ("snr", "logit_normal")
    ]
    torch.testing.assert_close(*ours)


def test_timesteps_cover_their_range_evenly_and_repeat_with_the_seed() -> None:
    def drawn(seed: int) -> Tensor:
        return times_from_uniform(strata(seed, step=0, batch_size=100), NoiseSchedule())

    timesteps = drawn(0)
    assert timesteps.div(10, rounding_mode="floor").sort().values.tolist() == list(range(100))
    assert torch.equal(timesteps, drawn(0))
    assert not torch.equal(timesteps, timesteps.sort().values)
