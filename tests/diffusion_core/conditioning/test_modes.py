"""Each mode of each family is exactly what plain diffusers makes of the same pictures."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
from support import pictures

from nightpress import diffusion_core
from nightpress.diffusion_core.acceleration.spec import SpeedSpec
from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.models.mode_facts import default_strengths, supported_modes
from nightpress.diffusion_core.models.modes import FAMILIES
from nightpress.diffusion_core.sampling.sampler import Sampler

pytestmark = pytest.mark.filterwarnings("ignore:.*FluxPosEmbed:FutureWarning")  # by Chroma

Loaded = Callable[[str], LoadedModel]
Plain = Callable[[str, str], Any]

CLASSES = {
    ("sd", "image"): "StableDiffusionImg2ImgPipeline",
    ("sd", "inpaint"): "StableDiffusionInpaintPipeline",
    ("sdxl", "image"): "StableDiffusionXLImg2ImgPipeline",
    ("sdxl", "inpaint"): "StableDiffusionXLInpaintPipeline",
    ("sd3", "image"): "StableDiffusion3Img2ImgPipeline",
    ("sd3_16", "inpaint"): "StableDiffusion3InpaintPipeline",
    ("flux", "image"): "FluxImg2ImgPipeline",
    ("flux", "inpaint"): "FluxInpaintPipeline",
    ("qwen", "image"): "QwenImageImg2ImgPipeline",
    ("qwen", "inpaint"): "QwenImageInpaintPipeline",
    ("z_image", "image"): "ZImageImg2ImgPipeline",
    ("z_image", "inpaint"): "ZImageInpaintPipeline",
    ("chroma", "image"): "ChromaImg2ImgPipeline",
    ("chroma", "inpaint"): "ChromaInpaintPipeline",
    ("lcm", "image"): "LatentConsistencyModelImg2ImgPipeline",
    ("sana_sprint", "image"): "SanaSprintImg2ImgPipeline",
    ("sd_pag", "image"): "StableDiffusionPAGImg2ImgPipeline",
    ("sd_pag", "inpaint"): "StableDiffusionPAGInpaintPipeline",
    ("sdxl_pag", "image"): "StableDiffusionXLPAGImg2ImgPipeline",
    ("sdxl_pag", "inpaint"): "StableDiffusionXLPAGInpaintPipeline",
    ("sd_inpainting", "inpaint"): "StableDiffusionInpaintPipeline",
    ("sdxl_inpainting", "inpaint"): "StableDiffusionXLInpaintPipeline",
    ("sdxl_refiner", "image"): "StableDiffusionXLImg2ImgPipeline",
    ("sdxl_refiner", "inpaint"): "StableDiffusionXLInpaintPipeline",
    ("flux_fill", "inpaint"): "FluxFillPipeline",
}
"""Family and mode -> the class of diffusers that a person would use."""

QUICK = [
    ("sd", "image"),
    ("flux", "inpaint"),
    ("sdxl", "inpaint"),
    ("sd_inpainting", "inpaint"),
]
NO_NEGATIVE = ("flux", "flux_fill", "lcm", "sana_sprint")


def marked(number: int) -> list[Any]:
    """All cases, marked as slow but for the first quick ones."""
    quick = QUICK[:number]
    return [
        pytest.param(*case, marks=[] if case in quick else [pytest.mark.slow]) for case in CLASSES
    ]


def steps(family: str) -> int:
    return 2 if family == "sana_sprint" else 4


@pytest.mark.parametrize(("family", "mode"), marked(4))
def test_a_batch_of_one_is_exactly_the_image_of_plain_diffusers(
    family: str, mode: str, loaded: Loaded, plain: Plain
) -> None:
    sampler, pipeline = Sampler(loaded(family), 1), plain(family, CLASSES[family, mode])
    if (family, mode) == ("chroma", "inpaint"):  # fails without it in plain diffusers
        pipeline.transformer.register_to_config(guidance_embeds=False)
    for request, strength in zip(
        pictures.requests(mode, family not in NO_NEGATIVE), (None, 0.6, 1.0), strict=True
    ):
        settings = pictures.params(mode, strength, num_inference_steps=steps(family))
        made = sampler.sample([request], settings)
        assert made.faults == (None,)
        expected = pictures.plain_image(pipeline, request, settings)
        np.testing.assert_array_equal(made.pixels, expected)


@pytest.mark.parametrize("mode", ["text", "image"])
def test_sana_sprint_takes_any_number_of_steps_as_plain_diffusers_does(
    mode: str, loaded: Loaded, plain: Plain
) -> None:
    """With more or fewer than two, a plain call needs `intermediate_timesteps=None`."""
    name = "SanaSprintPipeline" if mode == "text" else "SanaSprintImg2ImgPipeline"
    request = pictures.requests(mode)[0]
    settings = pictures.params(mode, None, num_inference_steps=3)
    made = Sampler(loaded("sana_sprint"), 1).sample([request], settings)
    pipeline = plain("sana_sprint", name)
    expected = pictures.plain_image(pipeline, request, settings, intermediate_timesteps=None)
    np.testing.assert_array_equal(made.pixels, expected)


@pytest.mark.parametrize(("family", "mode"), marked(2))
def test_bits_depend_neither_on_place_nor_on_companions_nor_on_padding(
    family: str, mode: str, loaded: Loaded
) -> None:
    sampler, requests = Sampler(loaded(family), 3), pictures.requests(mode)
    settings = pictures.params(mode, 0.6, num_inference_steps=steps(family))
    expected = sampler.sample(requests, settings).pixels
    for order in ((2, 1, 0), (1, 2, 0)):
        made = sampler.sample([requests[place] for place in order], settings).pixels
        np.testing.assert_array_equal(made, expected[list(order)])
    for place, request in enumerate(requests):
        np.testing.assert_array_equal(
            sampler.sample([request], settings).pixels[0], expected[place]
        )


@pytest.mark.parametrize(("family", "mode"), marked(2))
def test_picture_mask_and_strength_each_change_the_image(
    family: str, mode: str, loaded: Loaded
) -> None:
    sampler, request = Sampler(loaded(family), 1), pictures.requests(mode)[0]
    settings = pictures.params(mode, 0.5, num_inference_steps=steps(family))
    base = sampler.sample([request], settings).pixels
    other = replace(request, images=replace(request.images, init_image=pictures.picture(2)))
    changed = [sampler.sample([other], settings).pixels]
    changed.append(
        sampler.sample(
            [request], replace(settings, conditioning=replace(settings.conditioning, strength=1.0))
        ).pixels
    )
    if mode == "inpaint":
        other = replace(request, images=replace(request.images, mask_image=pictures.mask(2)))
        changed.append(sampler.sample([other], settings).pixels)
    assert all((pixels != base).any() for pixels in changed)


@pytest.mark.parametrize("family", ["sd", pytest.param("flux", marks=pytest.mark.slow)])
def test_outpainting_is_inpainting_at_full_strength(family: str, loaded: Loaded) -> None:
    sampler, request = Sampler(loaded(family), 1), pictures.requests("outpaint")[0]
    out = sampler.sample([request], pictures.params("outpaint")).pixels
    expected = sampler.sample([request], pictures.params("inpaint", 1.0)).pixels
    np.testing.assert_array_equal(out, expected)


def test_modes_leave_no_trace_in_a_sampler(loaded: Loaded) -> None:
    sampler = Sampler(loaded("sd"), 2)
    cases = [
        (pictures.params(mode, strength), pictures.requests(mode)[:2])
        for mode, strength in (("text", None), ("image", 0.6), ("inpaint", 0.8))
    ]
    first = [sampler.sample(requests, settings).pixels for settings, requests in cases]
    for place in (1, 0, 2, 2, 0, 1):
        settings, requests = cases[place]
        np.testing.assert_array_equal(sampler.sample(requests, settings).pixels, first[place])


def test_the_manual_lists_the_class_and_the_default_strength_of_each_mode() -> None:
    manual = Path(diffusion_core.__file__).resolve().parent / "README.md"
    table = manual.read_text().partition("| folder saved by")[2].partition("\n\n")[0]
    listed = [line for line in table.splitlines() if line.startswith("| `")]
    expected = []
    for name, family in FAMILIES.items():
        owner = getattr(diffusers, name)
        strengths = dict(default_strengths(owner, supported_modes(owner, SpeedSpec())))
        cells = [f"`{name}`", "yes" if family.makes_text else ""]
        if not {"image", "inpaint"} & set(strengths):
            continue
        for mode in ("image", "inpaint"):
            known = mode in strengths
            cells.append(f"`{family.classes[mode]}`, {strengths[mode]:g}" if known else "")
        expected.append("| " + " | ".join(cells) + " |")
    assert listed == expected
