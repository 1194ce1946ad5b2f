"""Images with different guidance scales have the bits of batches where all share one scale."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from support import pictures
from support.slow_cases import slow_except

from nightpress.diffusion_core.errors import SettingsError
from nightpress.diffusion_core.models import loading
from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.sampling.per_image_guidance import (
    PerImageScale,
    as_argument,
    is_supported,
)
from nightpress.diffusion_core.sampling.request import ImageRequest, SamplingParams
from nightpress.diffusion_core.sampling.sampler import Sampler

Loaded = Callable[[str], LoadedModel]

GUIDED = SamplingParams(64, 64, 3, 4.0)
SCALES = (3.0, 7.3, 1.1)
REQUESTS = [ImageRequest(f"picture {n}", "", n, scale) for n, scale in enumerate(SCALES)]
MULTIPLYING = ("sd", "sdxl", "sd3", "pixart", "sana")


def in_batches_of_their_own(sampler: Sampler, requests: list[ImageRequest]) -> list[np.ndarray]:
    """Each image from a batch in which all have its scale."""
    return [
        sampler.sample(
            [dataclasses.replace(request, guidance_scale=None)],
            dataclasses.replace(GUIDED, guidance_scale=request.guidance_scale or 0.0),
        ).pixels[0]
        for request in requests
    ]


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("family", slow_except(MULTIPLYING, "sd", "sd3"))
def test_images_with_different_scales_have_the_bits_of_batches_with_one_scale(
    family: str, dtype: str, saved: Callable[[str], Path]
) -> None:
    loaded = loading.load(saved(family), ModelSpec(dtype=dtype), "cpu")
    sampler = Sampler(loaded, batch_size=3)
    expected = in_batches_of_their_own(sampler, REQUESTS)
    for places in ([0, 1, 2], [2, 0, 1], [1, 2], [0]):
        made = sampler.sample([REQUESTS[place] for place in places], GUIDED).pixels
        np.testing.assert_array_equal(made, [expected[place] for place in places])
    assert (expected[0] != expected[1]).any()


@pytest.mark.parametrize(
    ("family", "mode"),
    [
        ("sd", "image"),
        ("sd3", "inpaint"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("sd", "inpaint"),
                ("sdxl", "image"),
                ("sdxl", "inpaint"),
                ("sd3", "image"),
            )
        ),
    ],
)
def test_different_scales_share_a_batch_of_images_that_begin_with_pictures_too(
    family: str, mode: str, loaded: Loaded
) -> None:
    sampler, settings = Sampler(loaded(family), batch_size=3), pictures.params(mode, 0.7)
    requests = [
        dataclasses.replace(request, guidance_scale=scale)
        for request, scale in zip(pictures.requests(mode), SCALES, strict=True)
    ]
    made = sampler.sample(requests, settings).pixels
    for place, scale in enumerate(SCALES):
        alone = dataclasses.replace(requests[place], guidance_scale=None)
        own = dataclasses.replace(settings, guidance_scale=scale)
        np.testing.assert_array_equal(sampler.sample([alone], own).pixels[0], made[place])


@pytest.mark.parametrize("family", ["flux", "lcm"])
def test_a_model_with_the_scale_as_an_input_takes_one_scale_per_batch(
    family: str, loaded: Loaded
) -> None:
    sampler = Sampler(loaded(family), batch_size=3)
    assert not sampler.supports_per_image_guidance
    with pytest.raises(SettingsError, match=r"guidance_scale 3\.0 and 4\.0 cannot share a batch"):
        sampler.sample(REQUESTS[:1], GUIDED)


def test_a_subclass_of_a_known_pipeline_is_not_known(loaded: Loaded) -> None:
    from diffusers import StableDiffusionPipeline

    class Other(StableDiffusionPipeline):
        """It may do anything with the scale."""

    components = loaded("sd").pipeline.components
    assert is_supported(loaded("sd").pipeline)
    assert not is_supported(Other(**components, requires_safety_checker=False))


def test_guided_and_unguided_images_cannot_share_a_batch(loaded: Loaded) -> None:
    sampler = Sampler(loaded("sd"), batch_size=2)
    with pytest.raises(SettingsError, match=r"guidance_scale 1\.0 and 4\.0 cannot share a batch"):
        sampler.sample([ImageRequest("a", "", 1, 1.0), REQUESTS[0]], GUIDED)
    unguided = dataclasses.replace(GUIDED, guidance_scale=0.5)
    pair = [ImageRequest("a", "", 1, 0.0), ImageRequest("a", "", 1, 1.0)]
    first, second = sampler.sample(pair, unguided).pixels
    assert np.array_equal(first, second)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_each_image_is_multiplied_as_by_a_plain_number(dtype: torch.dtype) -> None:
    answers = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(1)).to(dtype)
    scales = [1.1, 7.3, 3.14159, 1e4]
    product = PerImageScale(scales) * answers
    assert product.dtype is dtype
    for row, scale in enumerate(scales):
        assert torch.equal(product[row], scale * answers[row])


def test_equal_scales_are_a_plain_number() -> None:
    assert type(as_argument([5.0, 5.0])) is float
    assert as_argument([1.5, 3.0]) == 3.0
    assert as_argument([1.5, 3.0]) > 1
