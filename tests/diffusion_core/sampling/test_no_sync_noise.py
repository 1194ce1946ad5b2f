"""Noise that a sampler adds has the same bits, however it gets to the accelerator."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from nightpress.diffusion_core.errors import IncompatibleLibrary
from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.sampling import no_sync, schedulers
from nightpress.diffusion_core.sampling import sampler as sampler_module
from nightpress.diffusion_core.sampling.sampler import ImageRequest, Sampler, SamplingParams

Loaded = Callable[[str], LoadedModel]

ADD_NOISE = ("ddpm", "dpmsolver-sde", "euler-ancestral", "lcm")
DETERMINISTIC = ("ddim", "dpmsolver++", "euler", "heun", "unipc")

STEPS = 5


@pytest.fixture
def uploads(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """What `no_sync` uploads to the device."""
    uploaded: list[torch.Tensor] = []
    upload = no_sync.upload

    def recorded(tensor: torch.Tensor, device: Any) -> torch.Tensor:
        uploaded.append(tensor)
        return upload(tensor, device)

    monkeypatch.setattr(no_sync, "upload", recorded)
    return uploaded


def sample(model: LoadedModel, sampler: str) -> Any:
    requests = [ImageRequest("a red fox", "", seed) for seed in (1, 2)]
    return Sampler(model, 2).sample(requests, SamplingParams(64, 32, STEPS, 4.0, sampler)).pixels


@pytest.mark.parametrize("name", ADD_NOISE)
def test_all_noise_of_the_steps_is_uploaded_and_no_bit_changes(
    loaded: Loaded, name: str, uploads: list[torch.Tensor], request: pytest.FixtureRequest
) -> None:
    plain = sample(loaded("sd"), name)
    assert uploads == []
    request.getfixturevalue("no_sync_on_cpu")
    np.testing.assert_array_equal(sample(loaded("sd"), name), plain)
    assert STEPS - 1 <= len(uploads) <= STEPS
    assert {(noise.device.type, len(noise)) for noise in uploads} == {("cpu", 2)}


@pytest.mark.usefixtures("no_sync_on_cpu")
@pytest.mark.parametrize("name", [name for name in DETERMINISTIC if name != "unipc"])
def test_deterministic_samplers_upload_nothing(
    loaded: Loaded, name: str, uploads: list[torch.Tensor]
) -> None:
    sample(loaded("sd"), name)
    assert uploads == []


def test_noise_is_drawn_on_the_host_whatever_the_device(loaded: Loaded) -> None:
    """The meta device has no values of its own, so noise must come from the host."""
    scheduler = no_sync.install(schedulers.make("ddpm", loaded("sd").scheduler_config))
    scheduler.set_timesteps(STEPS)
    x = torch.zeros(1, 4, 8, 8, device="meta")
    noise = torch.Generator("cpu").manual_seed(0)
    output = scheduler.step(x, scheduler.timesteps[0], x, generator=noise)
    assert output.prev_sample.device.type == "meta"


class NoStream:
    """Stands for a copy stream on a machine without an accelerator."""

    def __init__(self, device: str) -> None:
        pass


class NoConditioner:
    """Stands for the encoder of prompts of a model that is said to be on an accelerator."""

    shares_batches = True
    encodes = True

    def __init__(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_patches_are_installed_on_accelerators_only(
    loaded: Loaded, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler_module, "CopyStream", NoStream)
    monkeypatch.setattr(sampler_module, "Conditioner", NoConditioner)
    sampler = Sampler(replace(loaded("sd"), device=device), 1)
    for name in (*ADD_NOISE, *DETERMINISTIC):
        scheduler = sampler._scheduler(SamplingParams(64, 32, STEPS, 4.0, name))
        patched = {name for name, value in vars(scheduler).items() if callable(value)}
        assert ("step" in patched) == (device == "cuda")
        assert ("multistep_uni_c_bh_update" in patched) == (device == "cuda" and name == "unipc")


def test_a_sampler_on_an_accelerator_fails_at_once_if_a_patch_has_moved(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler_module, "CopyStream", NoStream)
    monkeypatch.setattr(sampler_module, "Conditioner", NoConditioner)
    model = loaded("sdxl")  # its own scheduler may add noise
    monkeypatch.delattr("diffusers.utils.torch_utils.randn_tensor")
    Sampler(model, 1)
    with pytest.raises(IncompatibleLibrary, match="randn_tensor"):
        Sampler(replace(model, device="cuda"), 1)
