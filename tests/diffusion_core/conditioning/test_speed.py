"""`model.speed` with the modes that begin with a picture."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import pictures

from nightpress.diffusion_core.acceleration.clock import Clock
from nightpress.diffusion_core.acceleration.deepcache import reuse_deep_features
from nightpress.diffusion_core.conditioning.spec import Pixels
from nightpress.diffusion_core.models import loading
from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.sampling.sampler import Sampler

Saved = Callable[[str], Path]
Loaded = Callable[[str], LoadedModel]

INVARIANT = [
    ("sd", "attention_backend", "_native_math"),
    ("sd", "channels_last", True),
    ("sd", "fuse_qkv_projections", True),
    ("sd", "vae_batch_size", 2),
    ("sd", "deep_features", {"interval": 2}),
    ("flux", "pyramid_attention_broadcast", {}),
    ("qwen", "taylorseer_cache", {"cache_interval": 2, "disable_cache_before_step": 2}),
]
QUICK = [("deep_features", "inpaint"), ("pyramid_attention_broadcast", "image")]


def faster(folder: Path, **speed: Any) -> LoadedModel:
    spec = ModelSpec.model_validate({"source": str(folder), "speed": speed})
    return loading.load(folder, spec, "cpu")


def made(model: LoadedModel, mode: str, order: slice = slice(None)) -> Pixels:
    settings = pictures.params(mode, 0.7, num_inference_steps=7)
    return Sampler(model, 3).sample(pictures.requests(mode)[order], settings).pixels


@pytest.mark.parametrize(
    ("family", "name", "choice", "mode"),
    [
        pytest.param(*case, mode, marks=[] if (case[1], mode) in QUICK else [pytest.mark.slow])
        for case in INVARIANT
        for mode in ("image", "inpaint")
    ],
)
def test_an_image_depends_on_its_own_row_only_under_every_choice(
    family: str, name: str, choice: Any, mode: str, saved: Saved
) -> None:
    model = faster(saved(family), **{name: choice})
    together = made(model, mode)
    np.testing.assert_array_equal(made(model, mode, slice(None, None, -1))[::-1], together)
    np.testing.assert_array_equal(made(model, mode, slice(1, 2)), together[1:2])


@pytest.mark.slow
@pytest.mark.parametrize(("family", "mode"), [("qwen", "image"), ("qwen", "inpaint")])
def test_a_first_block_cache_samples_a_picture_alone(family: str, mode: str, saved: Saved) -> None:
    model = faster(saved(family), first_block_cache={"threshold": 0.5})
    settings = pictures.params(mode, 0.7, num_inference_steps=7)
    first, second = (
        [Sampler(model, 1).sample([each], settings).pixels for each in pictures.requests(mode)]
        for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("name", "choice"), [("vae_batch_size", 3), ("attention_backend", "native")]
)
def test_choices_that_change_no_bit_of_text_change_none_of_a_picture(
    name: str, choice: Any, saved: Saved, loaded: Loaded
) -> None:
    model = faster(saved("sd"), **{name: choice})
    np.testing.assert_array_equal(made(model, "inpaint"), made(loaded("sd"), "inpaint"))


def test_deep_features_are_reused_as_in_a_block_around_the_call(
    saved: Saved, loaded: Loaded
) -> None:
    shallow = made(faster(saved("sd"), deep_features={"interval": 3, "branch": 1}), "image")
    with reuse_deep_features(loaded("sd").pipeline.unet, 3, 1):
        expected = made(loaded("sd"), "image")
    np.testing.assert_array_equal(shallow, expected)
    assert (shallow != made(loaded("sd"), "image")).any()


@pytest.mark.parametrize("mode", ["text", "image", "inpaint"])
def test_a_cache_is_told_the_timestep_of_the_step_that_is_taken(mode: str, loaded: Loaded) -> None:
    pipeline = loaded("flux").pipeline
    clock, told, taken = Clock(pipeline), list[float](), list[float]()

    def look(_: Any, inputs: Any, named: dict[str, Any]) -> None:
        told.append(clock.timestep())
        taken.append(float(named["timestep"][0]) * 1000)

    watch = pipeline.transformer.register_forward_pre_hook(look, with_kwargs=True)
    try:
        strength = None if mode == "text" else 0.5
        settings = pictures.params(mode, strength, num_inference_steps=6)
        Sampler(loaded("flux"), 1).sample(pictures.requests(mode)[:1], settings)
    finally:
        watch.remove()
    assert len(told) == (6 if mode == "text" else 3)
    assert told == pytest.approx(taken)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_compiled_blocks_are_batch_invariant_in_every_mode(saved: Saved, own_cache: Path) -> None:
    model = faster(saved("sd"), compile="regional")
    for mode in ("text", "image", "inpaint"):
        settings = pictures.params(mode, None if mode == "text" else 0.7)
        sampler, requests = Sampler(model, 2), pictures.requests(mode)[:2]
        together = sampler.sample(requests, settings).pixels
        again = sampler.sample(requests[::-1], settings).pixels[::-1]
        np.testing.assert_array_equal(again, together)
