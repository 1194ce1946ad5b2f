"""The built-in model, whose latents have eight channels, makes images from pictures."""

import dataclasses

import numpy as np
import pytest

from nightpress.diffusion_core.conditioning.spec import ConditionImages, Conditioning, Pixels
from nightpress.diffusion_core.models import loading
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.sampling.request import ImageRequest, SamplingParams
from nightpress.diffusion_core.sampling.sampler import Sampler
from nightpress.diffusion_core.theory.psnr import image_psnrs_db
from nightpress.pipelines.models.location import locate

TEXT = SamplingParams(128, 128, 8, 3.0)
APPLE, CAT = "a red apple", "a smiling cat face"


@pytest.fixture(scope="module")
def sampler() -> Sampler:
    return Sampler(loading.load(locate(ModelSpec()), ModelSpec(), "cpu"), 1)


@pytest.fixture(scope="module")
def apple(sampler: Sampler) -> Pixels:
    return sampler.sample([ImageRequest(APPLE, "", 1)], TEXT).pixels[0]


def made(sampler: Sampler, prompt: str, images: ConditionImages, mode: str, **how: float) -> Pixels:
    settings = dataclasses.replace(TEXT, conditioning=Conditioning(mode, **how))
    return sampler.sample([ImageRequest(prompt, "", 2, images=images)], settings).pixels[0]


def test_an_inpainted_part_is_new_and_the_rest_stays(sampler: Sampler, apple: Pixels) -> None:
    mask = np.zeros((128, 128), np.uint8)
    mask[64:] = 255
    image = made(sampler, CAT, ConditionImages(apple, mask), "inpaint")
    (kept,) = image_psnrs_db([image[:56]], [apple[:56]])
    (new,) = image_psnrs_db([image[72:]], [apple[72:]])
    assert kept > 28
    assert new < 18


@pytest.mark.slow
def test_a_stronger_change_is_further_from_the_picture(sampler: Sampler, apple: Pixels) -> None:
    distances = [
        image_psnrs_db([made(sampler, CAT, ConditionImages(apple), "image", strength=s)], [apple])
        for s in (0.25, 0.5, 1.0)
    ]
    assert distances == sorted(distances, reverse=True)
    assert distances[0][0] > distances[2][0] + 3
