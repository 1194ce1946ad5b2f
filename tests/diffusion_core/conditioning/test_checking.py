"""What a sampler refuses about modes and pictures, each in one line."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import pictures

from nightpress.diffusion_core.conditioning.passes import PassSpec
from nightpress.diffusion_core.conditioning.spec import ConditionImages
from nightpress.diffusion_core.errors import SettingsError
from nightpress.diffusion_core.models import loading
from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.models.modes import (
    LCM_STEPS,
    least_strength,
    samplers_for,
    too_many_steps,
)
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.sampling.sampler import Sampler

Loaded = Callable[[str], LoadedModel]
Saved = Callable[[str], Path]

PICTURE, MASK = pictures.picture(0), pictures.mask(0)
FLOAT_PICTURE: Any = PICTURE / 255.0


@pytest.mark.parametrize(
    ("mode", "images", "message"),
    [
        ("image", ConditionImages(), "mode image needs a picture init_image"),
        ("inpaint", ConditionImages(PICTURE), "mode inpaint needs a picture mask_image"),
        ("outpaint", ConditionImages(None, MASK), "mode outpaint needs a picture init_image"),
        ("text", ConditionImages(PICTURE), "mode text does not use a picture init_image"),
        ("image", ConditionImages(PICTURE, MASK), "mode image does not use a picture mask_image"),
        ("image", ConditionImages(PICTURE[:16]), r"init_image has shape \(16, 64, 3\)"),
        ("image", ConditionImages(PICTURE[..., 0]), r"needs shape \(32, 64, 3\) and type uint8"),
        ("image", ConditionImages(FLOAT_PICTURE), "type float64"),
        ("inpaint", ConditionImages(PICTURE, MASK[:, :32]), r"mask_image has shape \(32, 32\)"),
        ("edit", ConditionImages(PICTURE), "mode 'edit': StableDiffusionPipeline has the modes"),
    ],
)
def test_pictures_that_do_not_fit_the_mode_are_refused(
    mode: str, images: ConditionImages, message: str, loaded: Loaded
) -> None:
    good = pictures.requests("text" if mode == "edit" else mode)
    bad = dataclasses.replace(good[1], images=images)
    with pytest.raises(SettingsError, match=message) as caught:
        Sampler(loaded("sd"), 2).sample([good[0], bad], pictures.params(mode))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("strength", [0.0, 1.2, -0.1, float("nan")])
def test_a_strength_outside_its_range_is_refused(strength: float, loaded: Loaded) -> None:
    with pytest.raises(SettingsError, match="is not above 0 and up to 1"):
        Sampler(loaded("sd"), 1).sample(
            pictures.requests("image")[:1], pictures.params("image", strength)
        )


@pytest.mark.parametrize(
    ("family", "strength", "steps"), [("sd", 0.2, 4), ("flux", 0.2, 4), ("sdxl", None, 3)]
)
def test_a_strength_that_leaves_no_step_is_refused(
    family: str, strength: float | None, steps: int, loaded: Loaded
) -> None:
    settings = pictures.params("image", strength, num_inference_steps=steps)
    with pytest.raises(SettingsError, match=f"{steps} steps at strength 0.[23] leave no step"):
        Sampler(loaded(family), 1).sample(pictures.requests("image")[:1], settings)


def test_the_strength_that_is_advised_leaves_a_step() -> None:
    for steps in range(1, 1001):
        advised = float(f"{least_strength(steps):g}")
        assert int(steps * advised) == 1
        assert PassSpec(scale=2.0, strength=advised, num_inference_steps=steps)
        assert advised < 1.02 / steps


def test_the_strength_that_is_advised_leaves_a_latent_consistency_model_its_timesteps() -> None:
    for steps in range(1, LCM_STEPS + 1):
        advised = float(f"{least_strength(LCM_STEPS, steps):g}")
        assert too_many_steps("LatentConsistencyModelPipeline", steps, advised) is None
        assert steps <= advised * LCM_STEPS < steps + 0.1


def test_a_latent_consistency_model_takes_all_its_steps_at_any_strength(loaded: Loaded) -> None:
    settings = pictures.params("image", 0.2, num_inference_steps=4)
    made = Sampler(loaded("lcm"), 1).sample(pictures.requests("image")[:1], settings)
    assert made.faults == (None,)


def test_a_latent_consistency_model_needs_as_many_timesteps_as_it_takes_steps(
    loaded: Loaded,
) -> None:
    """At strength 0.1 it has 5 of 50; diffusers refuses to take more steps than that."""
    sampler, request = Sampler(loaded("lcm"), 1), pictures.requests("image")[:1]
    settings = pictures.params("image", 0.1, num_inference_steps=5)
    assert sampler.sample(request, settings).faults == (None,)
    with pytest.raises(SettingsError, match="leaves 5 of 50 timesteps, fewer than the 6 to take"):
        sampler.sample(request, dataclasses.replace(settings, num_inference_steps=6))


@pytest.mark.parametrize("mode", ["image", "inpaint"])
@pytest.mark.parametrize("sampler", ["unipc", "dpmsolver++"])
@pytest.mark.parametrize("family", ["flux", "sd3"])
def test_flow_models_begin_with_a_picture_only_with_flow_euler(
    family: str, sampler: str, mode: str, loaded: Loaded, saved: Saved
) -> None:
    request = pictures.requests(mode)[:1]
    with pytest.raises(SettingsError, match=r"cannot begin with a picture .* use flow-euler"):
        Sampler(loaded(family), 1).sample(request, pictures.params(mode, scheduler=sampler))
    info = loading.describe(saved(family), ModelSpec(source=str(saved(family))))
    assert sampler in info.samplers_for("text")
    assert info.samplers_for(mode) == ("default", "flow-euler")


def test_a_solver_as_the_models_own_scheduler_cannot_begin_with_a_picture() -> None:
    names = ("default", "dpmsolver++", "unipc", "flow-euler")
    assert samplers_for(names, "unipc", "image+control") == ("flow-euler",)
    assert samplers_for(names, "unipc", "text+control") == names
    assert samplers_for(("default", "ddim"), "ddim", "inpaint") == ("default", "ddim")


@pytest.mark.parametrize("cache", ["first_block_cache", "taylorseer_cache"])
def test_a_cache_that_a_modes_class_does_not_support_leaves_the_mode_out(
    cache: str, saved: Saved
) -> None:
    spec = ModelSpec.model_validate({"source": str(saved("flux")), "speed": {cache: {}}})
    assert loading.describe(saved("flux"), spec).modes == ("text",)
    sampler = Sampler(loading.load(saved("flux"), spec, "cpu"), 1)
    with pytest.raises(SettingsError, match=f"FluxImg2ImgPipeline does not support {cache}"):
        sampler.sample(pictures.requests("image")[:1], pictures.params("image"))
    assert sampler.sample(pictures.requests("text")[:1], pictures.params("text")).faults == (None,)


def test_an_inpainting_model_refuses_text(loaded: Loaded) -> None:
    with pytest.raises(SettingsError, match=r"mode .text.: .* has the modes inpaint, outpaint"):
        Sampler(loaded("sd_inpainting"), 1).sample(
            pictures.requests("text")[:1], pictures.params("text")
        )


def test_a_picture_of_zeros_is_a_picture(loaded: Loaded) -> None:
    black = ConditionImages(np.zeros((32, 64, 3), np.uint8))
    request = dataclasses.replace(pictures.requests("image")[0], images=black)
    assert Sampler(loaded("sd"), 1).sample([request], pictures.params("image")).faults == (None,)
