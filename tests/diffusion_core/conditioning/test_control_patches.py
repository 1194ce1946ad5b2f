"""What keeps the images of a batch apart in pipelines with ControlNets, with and without it."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import tiny_controlnets

from nightpress.diffusion_core.conditioning import control_patches
from nightpress.diffusion_core.conditioning.spec import ConditionImages, Conditioning
from nightpress.diffusion_core.errors import IncompatibleLibrary
from nightpress.diffusion_core.models import loading
from nightpress.diffusion_core.models.adapter_files import AdapterFiles
from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.sampling.sampler import ImageRequest, Sampler, SamplingParams

PARAMS = SamplingParams(
    width=32,
    height=32,
    num_inference_steps=2,
    guidance_scale=4.0,
    conditioning=Conditioning("text+control", controls=("edges",), control_scales=(1.0,)),
)
Patch = pytest.MonkeyPatch


def load(
    family: str, folder: Path, control_mode: int | None = None, **settings: Any
) -> LoadedModel:
    base = tiny_controlnets.base(family)
    base.save_pretrained(folder / "model")
    net = tiny_controlnets.save(base, folder / "edges", **settings)
    entry = {"source": str(net), "control_mode": control_mode}
    spec = ModelSpec.model_validate({"source": str(folder / "model"), "controlnets": [entry]})
    return loading.load(folder / "model", spec, "cpu", adapters=AdapterFiles((net,)))


def request(seed: int) -> ImageRequest:
    picture = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    return ImageRequest("a fox", "", seed, images=ConditionImages(control_images=(picture,)))


def companions_change_a_pixel(model: LoadedModel) -> bool:
    """Whether an image's pixels depend on the other image of its batch."""
    sampler, mine = Sampler(model, batch_size=2), request(1)
    first, second = (sampler.sample([mine, request(seed)], PARAMS).pixels[0] for seed in (2, 3))
    return bool((first != second).any())


@contextlib.contextmanager
def nothing(*_: Any) -> Iterator[None]:
    yield


def test_union_controlnets_attend_to_other_images_unless_they_are_kept_apart(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    model = load("sdxl", tmp_path, control_mode=0, union=True)
    assert not companions_change_a_pixel(model)
    monkeypatch.setattr(control_patches, "attention_within_images", nothing)
    assert companions_change_a_pixel(model)


def test_sd3_draws_from_torchs_own_generator_unless_it_is_given_others(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    model = load("sd3", tmp_path)
    model.pipeline.vae.encoder.conv_out.bias.data[4:] = 2.0  # more noise in what it encodes
    sampler = Sampler(model, batch_size=1)

    def sampled(global_seed: int) -> Any:
        torch.manual_seed(global_seed)
        return sampler.sample([request(1)], PARAMS).pixels

    np.testing.assert_array_equal(sampled(1), sampled(2))
    monkeypatch.setattr(control_patches, "own_random_numbers", nothing)
    assert (sampled(1) != sampled(2)).any()


def test_flux_takes_the_kind_of_picture_for_one_image_only_unless_it_is_repeated(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    model = load("flux", tmp_path, control_mode=2, num_mode=3)
    params = replace(
        PARAMS, conditioning=replace(PARAMS.conditioning, mode="image+control", strength=0.8)
    )
    (picture,) = request(1).images.control_images
    pictured = replace(request(1), images=replace(request(1).images, init_image=picture))
    batch = Sampler(model, batch_size=2).sample([pictured], params)
    assert batch.faults == (None,)
    monkeypatch.setattr(control_patches, "modes_for_all", nothing)
    with pytest.raises(Exception, match="Sizes of tensors must match"):
        Sampler(model, batch_size=2).sample([pictured], params)


def test_an_upgrade_that_mends_the_attention_of_union_controlnets_is_noticed(
    tmp_path: Path,
) -> None:
    model = load("sdxl", tmp_path, control_mode=0, union=True)
    model.controlnets[0].network.transformer_layes[0].attn.batch_first = True
    with pytest.raises(IncompatibleLibrary, match="batch_first; nightpress uses it to keep the"):
        Sampler(model, batch_size=1).sample([request(1)], PARAMS)


class FluxControlNetPipeline:
    """As much of a pipeline as the patch sees, with a ControlNet of another version."""

    class Network:
        def forward(self, hidden_states: Any, mode: Any) -> None: ...

    controlnet = Network()


def test_an_upgrade_that_moves_the_kind_of_picture_is_noticed() -> None:
    with (
        pytest.raises(IncompatibleLibrary, match="it takes no controlnet_mode"),
        control_patches.modes_for_all(FluxControlNetPipeline()),
    ):
        pass
