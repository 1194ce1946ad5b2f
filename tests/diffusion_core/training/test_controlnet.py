"""ControlNet training, compared with the ControlNet pipelines of diffusers."""

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.slow_cases import slow_except
from torch import Tensor

from nightpress.diffusion_core import builtin
from nightpress.diffusion_core.errors import SettingsError, UnsupportedModel
from nightpress.diffusion_core.models import loading
from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.training.controlnet import (
    PIPELINES,
    ControlNetSettings,
    ControlNetTraining,
    new_controlnet,
)

WIDTH, HEIGHT = 64, 32
PROMPTS = ("a red fox, asleep", "two ships")
SETTINGS = ControlNetSettings(conditioning_embedding_out_channels=(4, 8))
FAMILIES = ("sd", "sdxl")

Saved = Callable[[str], Path]
Loaded = Callable[[str], LoadedModel]


@pytest.fixture
def fresh(saved: Saved) -> Callable[..., LoadedModel]:
    """Family -> its tiny model, loaded again for each test because training freezes it."""

    def load(family: str, dtype: Any = "auto") -> LoadedModel:
        folder = saved(family)
        return loading.load(folder, ModelSpec(source=str(folder), dtype=dtype), "cpu")

    return load


def training(loaded: LoadedModel, **settings: Any) -> ControlNetTraining:
    return ControlNetTraining(loaded, dataclasses.replace(SETTINGS, **settings), HEIGHT, WIDTH)


def pictures(seed: int, num: int = 2) -> Tensor:
    return torch.rand((num, 3, HEIGHT, WIDTH), generator=torch.Generator().manual_seed(seed))


def batch_of(module: ControlNetTraining) -> dict[str, Tensor]:
    x0 = module.encode_images(pictures(1) * 2 - 1)
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(2))
    times = module.objective.timesteps(torch.tensor([0.3, 0.6]))
    prompts = module.encode_prompts(PROMPTS)
    return {"x0": x0, "noise": noise, "times": times, "control": pictures(3), **prompts}


def trained(module: ControlNetTraining) -> dict[str, torch.nn.Parameter]:
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def teach(module: ControlNetTraining, num_steps: int = 10, rate: float = 1e-2) -> list[float]:
    optimizer = torch.optim.AdamW(trained(module).values(), lr=rate)
    batch, losses = batch_of(module), []
    module.train()
    for _ in range(num_steps):
        loss = module(**batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def sample(pipeline: Any, **settings: Any) -> Any:
    return pipeline(
        PROMPTS[0],
        height=HEIGHT,
        width=WIDTH,
        num_inference_steps=3,
        guidance_scale=1.0,
        generator=torch.Generator().manual_seed(3),
        output_type="np",
        **settings,
    ).images


@pytest.mark.parametrize("family", FAMILIES)
def test_an_untrained_controlnet_changes_nothing(
    family: str, fresh: Loaded, loaded: Loaded
) -> None:
    module = training(fresh(family))
    batch = batch_of(module)
    conditioning = {name: batch[name] for name in ("control", *module.call_template.per_prompt)}
    arguments = module.call_template.arguments(
        batch["x0"], batch["times"], {n: v for n, v in conditioning.items() if n != "control"}
    )
    with torch.no_grad():
        with_it = module.predict(batch["x0"], batch["times"], conditioning)
        without = module.denoiser(**arguments)[0]
    torch.testing.assert_close(with_it, without, rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_flow_into_the_controlnet_alone_and_its_loss_falls(
    family: str, fresh: Loaded
) -> None:
    loaded = fresh(family)
    before = copy.deepcopy(loaded.pipeline.unet.state_dict())
    module = training(loaded)
    assert all(name.startswith("controlnet.") for name in trained(module))
    losses = teach(module)
    assert losses[-1] < losses[0]
    assert all(parameter.grad is not None for parameter in trained(module).values())
    assert all(parameter.grad is None for parameter in loaded.pipeline.unet.parameters())
    after = loaded.pipeline.unet.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert not loaded.pipeline.unet.training


@pytest.mark.parametrize("family", FAMILIES)
def test_training_predicts_what_the_pipeline_of_diffusers_predicts(
    family: str, fresh: Loaded
) -> None:
    """Repeat each step of an image that diffusers samples as training would compute it."""
    module = training(fresh(family))
    teach(module, rate=0.05)
    pipeline = module.eval().pipeline()
    calls: list[tuple[Tensor, Tensor, Tensor]] = []
    inputs: list[Tensor] = []

    def watched_step(output: Tensor, timestep: Tensor, *args: Any, **kwargs: Any) -> Any:
        calls.append((inputs[-1], timestep, output))
        return step(output, timestep, *args, **kwargs)

    def watched_forward(*args: Any, **kwargs: Any) -> Any:
        inputs.append(args[0])
        return forward(*args, **kwargs)

    step, forward = pipeline.scheduler.step, pipeline.unet.forward
    pipeline.scheduler.step, pipeline.unet.forward = watched_step, watched_forward
    try:
        sample(pipeline, image=pictures(3)[:1])
    finally:
        del pipeline.scheduler.step, pipeline.unet.forward
    assert len(calls) >= 3
    conditioning = module.encode_prompts(PROMPTS[:1]) | {"control": pictures(3)[:1]}
    with torch.no_grad():
        for x_t, timestep, output in calls:
            answer = module.predict(x_t, timestep.reshape(1), conditioning)
            torch.testing.assert_close(answer, output, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", slow_except(FAMILIES, "sdxl"))
def test_plain_diffusers_samples_the_same_bits_with_the_saved_controlnet(
    family: str, fresh: Loaded, saved: Saved, tmp_path: Path
) -> None:
    import diffusers

    module = training(fresh(family))
    untrained = sample(module.pipeline(), image=pictures(3)[:1])
    teach(module, rate=0.05)
    drawn = sample(module.eval().pipeline(), image=pictures(3)[:1])
    assert (drawn != untrained).any()
    module.save(tmp_path)
    controlnet = diffusers.ControlNetModel.from_pretrained(tmp_path)
    owner = getattr(diffusers, PIPELINES[type(module._model.pipeline).__name__])
    plain = owner.from_pretrained(saved(family), controlnet=controlnet)
    plain.set_progress_bar_config(disable=True)
    # Where weights lie in memory decides bits on some CPUs, and those of a file lie anywhere.
    for parameter in controlnet.parameters():
        parameter.data = parameter.data.clone()
    np.testing.assert_array_equal(sample(plain, image=pictures(3)[:1]), drawn)


def test_a_half_precision_model_trains_a_float32_controlnet(fresh: Any) -> None:
    module = training(fresh("sd", "bfloat16"))
    assert {parameter.dtype for parameter in trained(module).values()} == {torch.float32}
    losses = teach(module)
    assert losses[-1] < losses[0]
    assert sample(module.eval().pipeline(), image=pictures(3)[:1]).shape == (1, HEIGHT, WIDTH, 3)


def test_the_copy_of_the_built_in_model_reads_prompts_as_the_model_does() -> None:
    """diffusers copies the weights of the pooled prompt, but not the number of their heads."""
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(
        builtin.folder() / "unet", torch_dtype=torch.float32
    )
    controlnet = new_controlnet(unet, (4, 4, 4, 4), seed=0)
    text = torch.randn((1, 32, 192), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(controlnet.add_embedding(text), unet.add_embedding(text))


def test_the_same_seed_gives_the_same_controlnet_and_leaves_the_random_state(
    fresh: Loaded,
) -> None:
    unet, state = fresh("sd").pipeline.unet, torch.get_rng_state()
    first, again, other = (
        new_controlnet(unet, (4, 8), seed).controlnet_cond_embedding.conv_in.weight
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_creating_a_controlnet_touches_no_gpu_of_the_machine(
    fresh: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    def touched(*_: Any) -> None:
        raise AssertionError("the random state of a GPU was read")

    unet = fresh("sd").pipeline.unet
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_rng_state", touched)
    new_controlnet(unet, (4, 8), seed=0)


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_a_model_without_a_u_net_is_refused(family: str, loaded: Loaded) -> None:
    with pytest.raises(UnsupportedModel, match="a ControlNet cannot be trained for it, only for"):
        training(loaded(family))


def test_a_wrong_number_of_embedding_channels_is_refused(fresh: Loaded) -> None:
    message = r"has 3 numbers; this model takes 2, because a latent is 2 pixels wide"
    with pytest.raises(SettingsError, match=message):
        training(fresh("sd"), conditioning_embedding_out_channels=(4, 8, 16))


def test_the_embedding_has_a_default_for_every_autoencoder(fresh: Loaded) -> None:
    module = training(fresh("sd"), conditioning_embedding_out_channels=())
    assert tuple(module.controlnet.config.conditioning_embedding_out_channels) == (16, 32)


def test_only_new_layers_train_if_asked_for(fresh: Loaded) -> None:
    module = training(fresh("sd"), trained_layers="new")
    names = {name.split(".")[1] for name in trained(module)}
    expected = {"controlnet_cond_embedding", "controlnet_down_blocks", "controlnet_mid_block"}
    assert names == expected
    losses = teach(module)
    assert losses[-1] < losses[0]


def test_an_embedding_that_does_not_start_at_zero_keeps_the_first_prediction(
    fresh: Loaded,
) -> None:
    """The picture reaches the copy at once, but the outputs of the copy are still zero."""
    loaded = fresh("sd")
    module = training(loaded, embedding_init="kaiming")
    embedding = module.controlnet.controlnet_cond_embedding
    with torch.no_grad():
        assert embedding(pictures(3)).std() > 0.1
        down, mid = module._residuals(
            torch.zeros(1, 4, HEIGHT // 2, WIDTH // 2),
            torch.tensor([500]),
            module.encode_prompts(PROMPTS[:1]),
            pictures(3)[:1],
        )
    assert all((each == 0).all() for each in (*down, mid))
