"""Noise that a sampler adds is the same, however it comes to the accelerator."""

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.sampling import no_sync, schedulers
from nightpress.diffusion_core.sampling.no_sync import bring_without_waiting
from nightpress.diffusion_core.sampling.sampler import ImageRequest, Sampler, SamplingParams

Loaded = Callable[[str], LoadedModel]

ADDING = ("ddpm", "dpmsolver-sde", "euler-ancestral", "lcm")
OTHERS = ("ddim", "dpmsolver++", "euler", "heun", "unipc")

STEPS = 5


@pytest.fixture
def uploads(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """What was brought to the device."""
    brought: list[torch.Tensor] = []
    upload = no_sync.upload

    def noted(noise: torch.Tensor, device: Any) -> torch.Tensor:
        brought.append(noise)
        return upload(noise, device)

    monkeypatch.setattr(no_sync, "upload", noted)
    return brought


def sampled(model: LoadedModel, sampler: str) -> Any:
    requests = [ImageRequest("a red fox", "", seed) for seed in (1, 2)]
    return Sampler(model, 2).sample(requests, SamplingParams(64, 32, STEPS, 4.0, sampler)).pixels


@pytest.mark.parametrize("sampler", ADDING)
def test_all_noise_of_the_steps_takes_that_way_and_no_bit_changes(
    loaded: Loaded, sampler: str, uploads: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = sampled(loaded("sd"), sampler)
    assert STEPS - 1 <= len(uploads) <= STEPS
    assert {(noise.device.type, len(noise)) for noise in uploads} == {("cpu", 2)}
    monkeypatch.setattr(no_sync, "bring_without_waiting", lambda scheduler: scheduler)
    assert (sampled(loaded("sd"), sampler) == images).all()
    assert len(uploads) <= STEPS


@pytest.mark.parametrize("sampler", OTHERS)
def test_samplers_that_add_none_bring_none(
    loaded: Loaded, sampler: str, uploads: list[torch.Tensor]
) -> None:
    sampled(loaded("sd"), sampler)
    assert uploads == []


def test_noise_is_drawn_on_the_host_for_whatever_device(loaded: Loaded) -> None:
    """A device that has no values of its own: they would have to come from the host."""
    scheduler = bring_without_waiting(schedulers.make("ddpm", loaded("sd").scheduler_config))
    scheduler.set_timesteps(STEPS)
    x = torch.zeros(1, 4, 8, 8, device="meta")
    noise = torch.Generator("cpu").manual_seed(0)
    made = scheduler.step(x, scheduler.timesteps[0], x, generator=noise)
    assert made.prev_sample.device.type == "meta"


def test_a_step_that_fails_leaves_diffusers_as_it_was(loaded: Loaded) -> None:
    scheduler = schedulers.make("ddpm", loaded("sd").scheduler_config)
    home = sys.modules[type(scheduler).__module__]
    draw = home.randn_tensor
    bring_without_waiting(scheduler)
    scheduler.set_timesteps(STEPS)
    with pytest.raises(AttributeError):
        scheduler.step(None, 801, None)
    assert home.randn_tensor is draw
