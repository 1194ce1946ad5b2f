"""Models that edit images: the bits of plain diffusers alone, whatever else shares the batch."""

import functools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit as edit
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as edit_plus
from PIL import Image
from support import tiny_edits
from support.tiny_references import picture

from nightpress.diffusion_core.conditioning.edits import EDIT_CLASSES, samples_alone
from nightpress.diffusion_core.conditioning.spec import (
    TEXT_ALONE,
    ConditionImages,
    Conditioning,
    Pixels,
)
from nightpress.diffusion_core.errors import SamplingError, SettingsError
from nightpress.diffusion_core.models import modes, pipeline_folder
from nightpress.diffusion_core.models.family_rules import guidance_of
from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.sampling.sampler import ImageRequest, Sampler, SamplingParams

KONTEXT, KLEIN, FLUX2 = "FluxKontextPipeline", "Flux2KleinPipeline", "Flux2Pipeline"
KLEIN_KV = "Flux2KleinKVPipeline"
QWEN, QWEN_PLUS = "QwenImageEditPipeline", "QwenImageEditPlusPipeline"

SIZE = (96, 64)
EDIT = Conditioning("edit")
WITH_TWO = Conditioning("edit+reference", num_references=(2,))
REFERENCES_ALONE = Conditioning("text+reference", num_references=(2,))

QUICK = [(KONTEXT, EDIT), (QWEN, EDIT), (QWEN_PLUS, WITH_TWO), (KLEIN, WITH_TWO)]
OTHERS = [(name, EDIT) for name in (KLEIN, FLUX2, QWEN_PLUS, KLEIN_KV)]
OTHERS += [(FLUX2, WITH_TWO), (KLEIN, REFERENCES_ALONE)]
CASES = [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in OTHERS)]


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Qwen resizes what it edits to a square megapixel, which takes tiny models minutes."""
    fitted = edit.calculate_dimensions
    monkeypatch.setattr(edit, "calculate_dimensions", lambda _area, ratio: fitted(64 * 64, ratio))
    monkeypatch.setattr(edit_plus, "VAE_IMAGE_SIZE", 64 * 64)
    monkeypatch.setattr(edit_plus, "CONDITION_IMAGE_SIZE", 48 * 48)


@pytest.fixture(scope="module")
def editing() -> Callable[[str], LoadedModel]:
    """Name of a class -> its tiny model."""

    @functools.cache
    def load(name: str) -> LoadedModel:
        pipeline = tiny_edits.make(name)
        scheduler = pipeline.scheduler
        folder: Any = SimpleNamespace(denoiser=dict(pipeline.transformer.config), index={})
        return LoadedModel(
            pipeline=pipeline,
            device="cpu",
            dtype="float32",
            size_multiple=8,
            scheduler_config={**scheduler.config, "_class_name": type(scheduler).__name__},
            guidance=guidance_of(folder, type(pipeline)),
        )

    return load


def params(conditioning: Conditioning, size: tuple[int, int] = SIZE) -> SamplingParams:
    return SamplingParams(*size, 2, 4.0, conditioning=conditioning)


def request(number: int, conditioning: Conditioning, negative_prompt: str = "") -> ImageRequest:
    """An image whose pictures are its own, the references of other sizes than its companions'."""
    sizes = [(64 + 8 * number, 72), (80, 64 + 16 * number)]
    further = tuple(picture(10 * number + i, *size) for i, size in enumerate(sizes))
    images = ConditionImages(
        init_image=picture(number, *SIZE) if conditioning.base == "edit" else None,
        reference_images=(further,) if conditioning.num_references else (),
    )
    return ImageRequest(f"make it {'blue' * number}", negative_prompt, number, images=images)


def by_diffusers(model: LoadedModel, asked: ImageRequest, size: tuple[int, int] = SIZE) -> Pixels:
    """The image of a request by the pipeline itself, called alone."""
    pipeline = model.pipeline
    groups = (() if asked.images.init_image is None else (asked.images.init_image,),)
    groups += asked.images.reference_images
    pictures = [Image.fromarray(each) for group in groups for each in group]
    name = type(pipeline).__name__
    arguments: dict[str, Any] = {}
    if pictures:
        arguments["image"] = pictures if name not in (KONTEXT, QWEN) else pictures[0]
    if name == KONTEXT:
        arguments |= {"max_area": size[0] * size[1], "_auto_resize": False}
    if name in (QWEN, QWEN_PLUS):
        arguments |= {"true_cfg_scale": 4.0, "negative_prompt": asked.negative_prompt or " "}
    elif name != KLEIN_KV:
        arguments["guidance_scale"] = 4.0
    output = pipeline(
        prompt=asked.prompt,
        width=size[0],
        height=size[1],
        num_inference_steps=2,
        generator=torch.Generator("cpu").manual_seed(asked.seed),
        output_type="np",
        **arguments,
    )
    return (output.images[0] * 255).round().astype(np.uint8)


@pytest.mark.parametrize(("name", "conditioning"), CASES)
def test_an_edited_image_has_the_bits_that_plain_diffusers_gives_it_alone(
    editing: Callable[[str], LoadedModel], name: str, conditioning: Conditioning
) -> None:
    asked = request(2, conditioning)
    own = Sampler(editing(name), 1).sample([asked], params(conditioning)).pixels[0]
    assert np.array_equal(own, by_diffusers(editing(name), asked))


@pytest.mark.parametrize(("name", "conditioning"), CASES)
def test_companions_with_other_pictures_decide_no_pixel(
    editing: Callable[[str], LoadedModel], name: str, conditioning: Conditioning
) -> None:
    sampler = Sampler(editing(name), 3)
    first, second, third = (request(number, conditioning) for number in (1, 2, 3))
    full = sampler.sample([first, second, third], params(conditioning)).pixels
    turned = sampler.sample([third, first], params(conditioning)).pixels
    alone = sampler.sample([second], params(conditioning)).pixels
    assert np.array_equal(full[0], turned[1])
    assert np.array_equal(full[2], turned[0])
    assert np.array_equal(full[1], alone[0])
    if samples_alone(name, conditioning):
        assert np.array_equal(full[1], by_diffusers(editing(name), second))


@pytest.mark.parametrize(("name", "conditioning"), CASES)
def test_every_picture_of_an_image_acts(
    editing: Callable[[str], LoadedModel], name: str, conditioning: Conditioning
) -> None:
    asked = request(1, conditioning)
    groups = [[asked.images.init_image], *asked.images.reference_images]
    sampler = Sampler(editing(name), 1)
    made = [sampler.sample([asked], params(conditioning)).pixels]
    for group, pictures in enumerate(groups):
        for place in range(len(pictures)):
            if pictures[place] is not None:
                changed = [list(each) for each in groups]
                changed[group][place] = 255 - pictures[place]
                images = ConditionImages(changed[0][0], None, (), tuple(map(tuple, changed[1:])))
                other = ImageRequest(asked.prompt, "", asked.seed, images=images)
                made.append(sampler.sample([other], params(conditioning)).pixels)
    assert len({image.tobytes() for image in made}) == len(made) > 1


@pytest.mark.parametrize("name", [QWEN, QWEN_PLUS])
def test_a_negative_prompt_is_encoded_with_the_picture(
    editing: Callable[[str], LoadedModel], name: str
) -> None:
    asked = [request(1, EDIT, "grey"), request(2, EDIT)]
    own = Sampler(editing(name), 2).sample(asked, params(EDIT)).pixels
    assert np.array_equal(own[0], by_diffusers(editing(name), asked[0]))
    assert np.array_equal(own[1], by_diffusers(editing(name), asked[1]))


@pytest.mark.parametrize("size", [(64, 64), (96, 64), (32, 80)])
def test_kontext_makes_images_of_exactly_the_size_that_is_asked_for(
    editing: Callable[[str], LoadedModel], size: tuple[int, int]
) -> None:
    asked = ImageRequest("a", "", 1)
    own = Sampler(editing(KONTEXT), 1).sample([asked], params(TEXT_ALONE, size)).pixels[0]
    assert own.shape == (size[1], size[0], 3)
    assert np.array_equal(own, by_diffusers(editing(KONTEXT), asked, size))


def test_a_model_that_only_edits_makes_nothing_from_text_alone(
    editing: Callable[[str], LoadedModel],
) -> None:
    with pytest.raises(
        SettingsError, match=r"mode 'text': QwenImageEditPipeline has the modes edit"
    ):
        Sampler(editing(QWEN), 1).sample([ImageRequest("a", "", 1)], params(TEXT_ALONE))


@pytest.mark.parametrize(
    ("conditioning", "images", "reason"),
    [
        (Conditioning("edit", strength=0.5), request(1, EDIT).images, "takes no strength"),
        (WITH_TWO, request(1, EDIT).images, "got 1 pictures to edit, 0 references"),
        (EDIT, ConditionImages(), "needs a picture init_image"),
    ],
)
def test_what_an_edit_cannot_take_is_refused_in_words(
    editing: Callable[[str], LoadedModel],
    conditioning: Conditioning,
    images: ConditionImages,
    reason: str,
) -> None:
    asked = [ImageRequest("a", "", 1, images=images)]
    with pytest.raises((SamplingError, SettingsError), match=reason):
        Sampler(editing(KLEIN), 1).sample(asked, params(conditioning))


def test_a_picture_of_a_size_that_flux2_does_not_take_is_named(
    editing: Callable[[str], LoadedModel],
) -> None:
    for conditioning, wrong, reason in (
        (WITH_TWO, picture(1, 600, 70), "reference_image 2 has 600 x 70 pixels, but FLUX.2 takes"),
        (REFERENCES_ALONE, picture(1, 63, 80), "reference_image 2 has 63 x 80 pixels"),
    ):
        asked = request(1, conditioning)
        group = (asked.images.reference_images[0][0], wrong)
        images = ConditionImages(asked.images.init_image, reference_images=(group,))
        with pytest.raises(SamplingError, match=reason):
            Sampler(editing(KLEIN), 1).sample(
                [ImageRequest("a", "", 1, images=images)], params(conditioning)
            )


def test_every_class_that_edits_is_tried() -> None:
    assert {name for name, _ in QUICK + OTHERS} == set(EDIT_CLASSES)


def test_the_modes_of_a_model_say_which_pictures_it_takes() -> None:
    assert modes.modes_of(KONTEXT) == ("text", "edit")
    assert modes.modes_of(KLEIN) == ("text", "edit", "text+reference", "edit+reference")
    assert modes.modes_of(QWEN) == ("edit",)
    assert modes.modes_of(QWEN_PLUS) == ("edit", "edit+reference")
    for name in EDIT_CLASSES:
        assert modes.FAMILIES[name].image_is_edited
        folder = pipeline_folder.PipelineFolder(Path(), {"_class_name": name})
        assert pipeline_folder.text_to_image_class(folder).__name__ == name
