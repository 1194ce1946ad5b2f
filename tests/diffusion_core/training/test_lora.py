"""LoRA training on every family of models, compared with the pipelines of diffusers."""

import copy
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import tiny_loras
from support.slow_cases import slow_except
from torch import Tensor

from nightpress.diffusion_core import builtin
from nightpress.diffusion_core.errors import SettingsError, UnsupportedModel
from nightpress.diffusion_core.models import loading
from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.models.lora_files import LORA_FILE
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.sampling.sampler import ImageRequest, Sampler, SamplingParams
from nightpress.diffusion_core.training.lora import (
    ATTENTION,
    LoraSettings,
    LoraTraining,
    default_targets,
)

WIDTH, HEIGHT = 64, 32
PROMPTS = ("a red fox, asleep", "two ships")
SETTINGS = LoraSettings(rank=4)

Saved = Callable[[str], Path]
Loaded = Callable[[str], LoadedModel]


@pytest.fixture
def fresh(saved: Saved) -> Loaded:
    """Family -> its tiny model, loaded again for each test because an adapter changes it."""

    def load(family: str, dtype: Any = "auto") -> LoadedModel:
        folder = saved(family)
        return loading.load(folder, ModelSpec(source=str(folder), dtype=dtype), "cpu")

    return load


def training(loaded: LoadedModel, **settings: Any) -> LoraTraining:
    return LoraTraining(loaded, dataclasses.replace(SETTINGS, **settings), HEIGHT, WIDTH).eval()


def pictures(num: int = 2) -> Tensor:
    return torch.rand((num, 3, HEIGHT, WIDTH), generator=torch.Generator().manual_seed(1)) * 2 - 1


def batch_of(module: LoraTraining) -> dict[str, Tensor]:
    x0 = module.encode_images(pictures())
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(2))
    times = module.objective.timesteps(torch.tensor([0.3, 0.6]))
    return {"x0": x0, "noise": noise, "times": times, **module.encode_prompts(PROMPTS)}


def trained(module: LoraTraining) -> list[torch.nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def frozen(module: LoraTraining) -> dict[str, Tensor]:
    """The model's own weights, under their names without the adapter."""
    return {
        name.replace(".base_layer", ""): value.detach().clone()
        for name, value in module.denoiser.named_parameters()
        if "lora_" not in name
    }


def teach(module: LoraTraining, num_steps: int = 30, rate: float = 1e-2) -> list[float]:
    optimizer = torch.optim.AdamW(trained(module), lr=rate)
    batch, losses = batch_of(module), []
    for _ in range(num_steps):
        loss = module(**batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("family", slow_except(tiny_loras.FAMILIES, "sd", "sdxl", "flux"))
def test_an_untrained_adapter_predicts_what_the_pipeline_predicts(
    family: str, fresh: Loaded
) -> None:
    """Repeat each denoiser call of a sampled image as training would make it."""
    module = training(fresh(family))
    pipeline: Any = module._model.pipeline
    calls: list[tuple[Tensor, Tensor, Tensor]] = []

    def watched_step(output: Tensor, timestep: Tensor, *args: Any, **kwargs: Any) -> Any:
        calls.append((inputs[-1], timestep, output))
        return step(output, timestep, *args, **kwargs)

    inputs: list[Tensor] = []

    def watched_forward(*args: Any, **kwargs: Any) -> Any:
        inputs.append(args[0] if args else kwargs[module.call_template.sample])
        return forward(*args, **kwargs)

    step, forward = pipeline.scheduler.step, module.denoiser.forward
    pipeline.scheduler.step, module.denoiser.forward = watched_step, watched_forward
    try:
        sample(pipeline, PROMPTS[0])
    finally:
        del pipeline.scheduler.step, module.denoiser.forward
    assert len(calls) >= 3
    conditioning = module.encode_prompts(PROMPTS[:1])
    with torch.no_grad():
        for x_t, timestep, output in calls:
            answer = module.predict(x_t, timestep.reshape(1), conditioning)
            torch.testing.assert_close(answer, output.float(), rtol=0, atol=1e-6)


def sample(pipeline: Any, prompt: str, **settings: Any) -> Any:
    arguments = {"prompt": prompt, "height": HEIGHT, "width": WIDTH, "num_inference_steps": 3}
    arguments |= {"guidance_scale": 1.0, "generator": torch.Generator().manual_seed(3)}
    if type(pipeline).__name__.startswith("Sana"):
        arguments |= {"use_resolution_binning": False, "clean_caption": False}
    return pipeline(**arguments, output_type="np", **settings).images


@pytest.mark.parametrize("family", slow_except(tiny_loras.FAMILIES, "sd", "sdxl", "flux"))
def test_a_batch_is_predicted_like_its_prompts_alone(family: str, fresh: Loaded) -> None:
    module = training(fresh(family))
    batch = batch_of(module)
    x0, times = batch["x0"], batch["times"]
    with torch.no_grad():
        together = module.predict(x0, times, module.encode_prompts(PROMPTS))
        for place, prompt in enumerate(PROMPTS):
            rows = slice(place, place + 1)
            alone = module.predict(x0[rows], times[rows], module.encode_prompts([prompt]))
            torch.testing.assert_close(together[rows], alone, rtol=0, atol=1e-5)
    assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize("family", slow_except(tiny_loras.FAMILIES, "sd", "sdxl", "flux"))
def test_the_pipeline_decodes_what_training_encodes(family: str, fresh: Loaded) -> None:
    """A scheduler that ends at the encoded latents gives the autoencoder's own reconstruction."""
    module = training(fresh(family))
    pipeline: Any = module._model.pipeline
    latents, vae = module.encode_images(pictures(1)), pipeline.vae
    pipeline.scheduler.step = lambda *_, **__: (latents, latents)
    try:
        made = sample(pipeline, PROMPTS[0])
    finally:
        del pipeline.scheduler.step
    with torch.no_grad():
        encoded = vae.encode(pictures(1))
        mean = encoded.latent_dist.mean if hasattr(encoded, "latent_dist") else encoded.latent
        expected = (vae.decode(mean).sample / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    np.testing.assert_allclose(made, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("family", slow_except(tiny_loras.FAMILIES, "sd"))
def test_training_lowers_the_loss_and_keeps_the_model_s_own_weights(
    family: str, fresh: Loaded
) -> None:
    loaded = fresh(family)
    part = "unet" if hasattr(loaded.pipeline, "unet") else "transformer"
    before = copy.deepcopy(dict(getattr(loaded.pipeline, part).named_parameters()))
    module = training(loaded, target_modules=("to_k", "to_q", "to_v", "to_out.0", "proj_out"))
    assert {parameter.dtype for parameter in trained(module)} == {torch.float32}
    losses = teach(module)
    assert losses[-1] < losses[0]
    after = frozen(module)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("family", slow_except(tiny_loras.FAMILIES, "sd"))
def test_a_trained_lora_makes_the_same_image_in_training_in_diffusers_and_here(
    family: str, fresh: Loaded, saved: Saved, plain: Callable[[str], Any], tmp_path: Path
) -> None:
    module = training(fresh(family))
    untrained = sample(module._model.pipeline, PROMPTS[0])
    teach(module, num_steps=5, rate=0.2)
    drawn = sample(module._model.pipeline, PROMPTS[0])
    module.save(tmp_path / "style")
    assert (drawn != untrained).any()
    pipeline = plain(family)
    pipeline.load_lora_weights(str(tmp_path / "style"))
    np.testing.assert_allclose(sample(pipeline, PROMPTS[0]), drawn, atol=1e-6)
    spec = ModelSpec(source=str(saved(family)), loras=[str(tmp_path / "style")])
    used = loading.load(saved(family), spec, "cpu", [tmp_path / "style" / LORA_FILE])
    np.testing.assert_allclose(sample(used.pipeline, PROMPTS[0]), drawn, atol=1e-6)


def test_the_saved_file_holds_the_adapter_settings(fresh: Loaded, tmp_path: Path) -> None:
    from safetensors import safe_open

    training(fresh("sd"), rank=2, lora_alpha=6.0).save(tmp_path)
    with safe_open(tmp_path / LORA_FILE, framework="numpy") as file:
        metadata: Mapping[str, str] = file.metadata()
    assert '"unet.lora_alpha": 6.0' in metadata["lora_adapter_metadata"]


def test_the_alpha_survives_loading_in_diffusers(
    fresh: Loaded, plain: Callable[[str], Any], tmp_path: Path
) -> None:
    module = training(fresh("sd"), rank=2, lora_alpha=16.0)
    teach(module, num_steps=3, rate=0.1)
    module.save(tmp_path)
    pipeline = plain("sd")
    pipeline.load_lora_weights(str(tmp_path))
    drawn = sample(module._model.pipeline, PROMPTS[0])
    np.testing.assert_allclose(sample(pipeline, PROMPTS[0]), drawn, atol=1e-6)


@pytest.mark.parametrize(
    "family", ["sd", *(pytest.param(each, marks=pytest.mark.slow) for each in ("flux", "sana"))]
)
def test_a_half_precision_model_trains_a_float32_adapter(family: str, fresh: Loaded) -> None:
    module = training(fresh(family, "bfloat16"))
    assert {parameter.dtype for parameter in trained(module)} == {torch.float32}
    single = training(fresh(family))
    told = [
        module.call_template.times(torch.tensor([500.0])).float(),
        single.call_template.times(torch.tensor([500.0])).float(),
    ]
    torch.testing.assert_close(told[0], told[1], rtol=1e-2, atol=0)
    assert module.call_template.time_scale == single.call_template.time_scale
    losses = teach(module)
    assert losses[-1] < losses[0]


def test_the_same_seed_gives_the_same_initial_adapter(fresh: Loaded) -> None:
    first, again, other = (training(fresh("sd"), seed=seed) for seed in (1, 1, 2))
    pairs = list(zip(trained(first), trained(again), trained(other), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert not all(torch.equal(a, c) for a, _, c in pairs)


def test_creating_an_adapter_leaves_the_global_random_state(fresh: Loaded) -> None:
    loaded, state = fresh("sd"), torch.get_rng_state()
    training(loaded)
    assert torch.equal(torch.get_rng_state(), state)


def test_creating_an_adapter_touches_no_gpu_of_the_machine(
    fresh: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    def touched(*_: Any) -> None:
        raise AssertionError("the random state of a GPU was read")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_rng_state", touched)
    training(fresh("sd"))


def test_attention_is_adapted_if_it_holds_enough_weights(
    loaded: Loaded, builtin_model: LoadedModel
) -> None:
    assert default_targets(loaded("sd").pipeline.unet) == list(ATTENTION)
    unet = builtin_model.pipeline.unet
    targets = default_targets(unet)
    assert {"conv_in", "add_embedding.proj", "mid_block.resnets.0.conv1"} <= set(targets)


@pytest.fixture
def builtin_model() -> LoadedModel:
    folder = builtin.folder()
    return loading.load(folder, ModelSpec(), "cpu")


def test_a_lora_of_the_built_in_model_makes_the_same_image_when_loaded(
    builtin_model: LoadedModel, tmp_path: Path
) -> None:
    side = 128
    module = LoraTraining(builtin_model, LoraSettings(rank=2), side, side).eval()
    pixels = torch.zeros(1, 3, side, side)
    x0 = module.encode_images(pixels)
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(2))
    times = module.objective.timesteps(torch.tensor([0.5]))
    batch = {"x0": x0, "noise": noise, "times": times, **module.encode_prompts(["grey"])}
    optimizer = torch.optim.AdamW(trained(module), lr=3e-3)
    losses = []
    for _ in range(8):
        loss = module(**batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    module.save(tmp_path)
    request, params = ImageRequest("grey", "", 1), SamplingParams(side, side, 2, 1.0)
    drawn = Sampler(builtin_model, 1).sample([request], params).pixels
    spec = ModelSpec(loras=[str(tmp_path)])
    used = loading.load(builtin.folder(), spec, "cpu", [tmp_path / LORA_FILE])
    again = Sampler(used, 1).sample([request], params).pixels
    assert np.abs(again.astype(int) - drawn.astype(int)).max() <= 1
    plain = Sampler(loading.load(builtin.folder(), ModelSpec(), "cpu"), 1)
    assert (plain.sample([request], params).pixels != drawn).any()


def test_a_pipeline_that_cannot_save_loras_is_refused_by_name(loaded: Loaded) -> None:
    with pytest.raises(UnsupportedModel, match="PixArtSigmaPipeline cannot be trained"):
        training(loaded("pixart"))


def test_unknown_layers_and_bad_sizes_are_refused(fresh: Loaded) -> None:
    with pytest.raises(SettingsError, match=r"target_modules \('nowhere',\)") as caught:
        training(fresh("sd"), target_modules=("nowhere",))
    assert "\n" not in str(caught.value)
    with pytest.raises(SettingsError, match="height 30 is not a multiple of 8"):
        LoraTraining(fresh("sd"), SETTINGS, 30, 32)


def test_a_model_that_has_a_lora_is_refused(fresh: Loaded) -> None:
    loaded = fresh("sd")
    training(loaded)
    with pytest.raises(SettingsError, match=r"model\.loras"):
        training(loaded)


def test_a_pipeline_that_calls_its_denoiser_in_another_way_is_refused_in_words(
    fresh: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = fresh("sd")
    owner = type(loaded.pipeline)

    def call(self: Any, prompt: Any = None, height: Any = None, width: Any = None) -> None:
        """Never calls the denoiser."""

    monkeypatch.setattr(owner, "__call__", call)
    expected = "StableDiffusionPipeline with UNet2DConditionModel cannot be trained: it never calls"
    with pytest.raises(UnsupportedModel, match=expected):
        training(loaded)
