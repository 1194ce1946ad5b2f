"""A pass is the plain image-to-image pipeline, called on the first image resized."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline
from PIL import Image
from pydantic import ValidationError

from nightpress.diffusion_core.conditioning.passes import (
    PassSpec,
    enlarged,
    larger,
    passes_as_text,
    passes_from_text,
    passes_of,
)
from nightpress.diffusion_core.conditioning.spec import ConditionImages, Conditioning
from nightpress.diffusion_core.errors import SettingsError
from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.sampling.sampler import (
    Fault,
    ImageRequest,
    SampledBatch,
    Sampler,
    SamplingParams,
)

Loaded = Callable[[str], LoadedModel]

SPECS = (
    PassSpec(scale=1.5, strength=0.5, num_inference_steps=4),
    PassSpec(scale=1.3, strength=0.7, num_inference_steps=3),
)
PARAMS = SamplingParams(16, 24, 2, 3.0)
WITH_PASSES = replace(PARAMS, passes=passes_of(SPECS, 16, 24, 8))
FOX = ImageRequest("a fox", "", 7)
OTHERS = [ImageRequest("an owl", "x", 1), ImageRequest("b", "", 2)]


def test_a_pass_equals_the_plain_pipeline_called_on_the_first_image_resized(
    loaded: Loaded, plain: Callable[..., Any]
) -> None:
    """Bit for bit, for two passes one after the other, each with a new generator of the seed."""
    pipeline = plain("sd", "StableDiffusionPipeline")
    call = {"guidance_scale": 3.0, "output_type": "pil"}
    image = pipeline(
        "a fox", width=16, height=24, num_inference_steps=2, generator=_generator(), **call
    ).images[0]
    again = StableDiffusionImg2ImgPipeline(**pipeline.components, requires_safety_checker=False)
    again.set_progress_bar_config(disable=True)
    for each in WITH_PASSES.passes:
        resized = image.resize((each.width, each.height), Image.Resampling.LANCZOS)
        image = again(
            "a fox",
            image=resized,
            strength=each.strength,
            num_inference_steps=each.num_inference_steps,
            generator=_generator(),
            **call,
        ).images[0]
    made = Sampler(loaded("sd"), 1).sample([FOX], WITH_PASSES).pixels[0]
    assert made.shape == (56, 32, 3)
    assert np.array_equal(made, np.asarray(image))


def _generator() -> torch.Generator:
    return torch.Generator("cpu").manual_seed(7)


def test_companions_and_places_do_not_change_what_passes_make(loaded: Loaded) -> None:
    sampler = Sampler(loaded("sd"), 3)
    alone = sampler.sample([FOX], WITH_PASSES).pixels[0]
    beside = sampler.sample([*OTHERS, FOX], WITH_PASSES).pixels[2]
    assert np.array_equal(alone, beside)


def test_the_first_sampling_is_the_one_without_passes(loaded: Loaded) -> None:
    """From an initial image too: the passes go on from what it made."""
    photo = np.arange(24 * 16 * 3, dtype=np.uint8).reshape(24, 16, 3)
    request = replace(FOX, images=ConditionImages(init_image=photo))
    params = replace(PARAMS, conditioning=Conditioning("image", 0.6))
    sampler = Sampler(loaded("sd"), 1)
    first = sampler.sample([request], params).pixels[0]
    (step,) = passes_of(SPECS[:1], 16, 24, 8)
    second = replace(
        params, width=24, height=40, num_inference_steps=4, conditioning=Conditioning("image", 0.5)
    )
    resized = replace(FOX, images=ConditionImages(init_image=enlarged(first, 24, 40)))
    assert (step.width, step.height) == (24, 40)  # 24 x 36, rounded to multiples of 8
    expected = sampler.sample([resized], second).pixels[0]
    found = sampler.sample([request], replace(params, passes=(step,))).pixels[0]
    assert np.array_equal(found, expected)


def test_a_fault_of_the_first_image_is_that_of_the_last() -> None:
    pixels = np.zeros((3, 1, 1, 3), np.uint8)
    first = SampledBatch(pixels, (Fault.NON_FINITE, None, None))
    last = SampledBatch(pixels, (None, Fault.BLANK, None))
    assert last.after(first).faults == (Fault.NON_FINITE, Fault.BLANK, None)


def test_a_model_without_the_image_mode_refuses_passes(loaded: Loaded) -> None:
    params = SamplingParams(32, 32, 1, 3.0, passes=passes_of(SPECS[:1], 32, 32, 32))
    with pytest.raises(SettingsError, match="mode 'image'"):
        Sampler(loaded("sana"), 1).sample([FOX], params)


def test_settings_tell_the_size_and_the_work_of_all_samplings() -> None:
    assert WITH_PASSES.final_size == (32, 56)
    assert list(WITH_PASSES.work) == [(16, 24, 2), (24, 40, 2), (32, 56, 2)]
    assert PARAMS.final_size == (16, 24)


def test_passes_survive_as_text() -> None:
    assert passes_from_text(passes_as_text(WITH_PASSES.passes)) == WITH_PASSES.passes
    assert passes_as_text(()) is None
    assert passes_from_text(None) == ()


@pytest.mark.parametrize(
    ("side", "scale", "multiple", "found"),
    [(512, 1.5, 8, 768), (512, 1.3, 64, 640), (512, 1.01, 8, 520), (512, 1.001, 8, 512)],
)
def test_a_side_is_scaled_and_rounded_to_the_models_multiple(
    side: int, scale: float, multiple: int, found: int
) -> None:
    assert larger(side, scale, multiple) == found


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"scale": 1.0}, "greater than 1"),
        ({"scale": 0.5}, "greater than 1"),
        ({"scale": float("nan")}, "finite number"),
        ({"strength": 0.0}, "greater than 0"),
        ({"strength": 1.2}, "less than or equal to 1"),
        ({"num_inference_steps": 0}, "greater than or equal to 1"),
        ({"num_inference_steps": 2}, "leave no step to take; use a strength of at least 0.5"),
        ({"steps": 20}, "Extra inputs"),
    ],
)
def test_a_pass_that_could_not_be_made_is_refused(wrong: dict[str, Any], words: str) -> None:
    values: dict[str, Any] = {"scale": 1.5, "strength": 0.35, "num_inference_steps": 20}
    with pytest.raises(ValidationError, match=words):
        PassSpec(**(values | wrong))
