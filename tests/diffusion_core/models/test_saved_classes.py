"""Folders that were saved by an image or inpainting pipeline, and the modes they have."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from support import pictures, tiny_families, tiny_image_models

from nightpress.diffusion_core.errors import UnsupportedModel
from nightpress.diffusion_core.models import loading
from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.diffusion_core.models.mode_facts import default_strengths
from nightpress.diffusion_core.models.modes import modes_of
from nightpress.diffusion_core.models.pipeline_folder import (
    PipelineFolder,
    size_multiple,
    text_to_image_class,
)
from nightpress.diffusion_core.models.samplers import is_unfit
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.sampling.sampler import Sampler

ALL = ("text", "image", "inpaint", "outpaint")


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_image_models.save("sd", tmp_path_factory.mktemp("sd"))


def renamed(folder: Path, name: str, target: Path) -> Path:
    """A copy of a folder whose index names another class."""
    shutil.copytree(folder, target)
    index = target / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"_class_name": name}))
    return target


def described(folder: Path) -> ModelInfo:
    return loading.describe(folder, ModelSpec(source=str(folder)))


@pytest.mark.parametrize(
    "name", ["StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline"]
)
def test_a_folder_of_an_image_class_makes_what_its_text_class_makes(
    name: str, sd: Path, tmp_path: Path
) -> None:
    folder = renamed(sd, name, tmp_path / "sd")
    info = described(folder)
    assert (info.pipeline, info.modes) == ("StableDiffusionPipeline", ALL)
    made = [
        Sampler(loading.load(each, ModelSpec(source=str(each)), "cpu"), 1)
        .sample(pictures.requests(mode)[:1], pictures.params(mode))
        .pixels
        for mode in ("text", "image")
        for each in (sd, folder)
    ]
    np.testing.assert_array_equal(made[0], made[1])
    np.testing.assert_array_equal(made[2], made[3])


@pytest.mark.parametrize(
    ("family", "pipeline", "modes"),
    [
        ("sd_inpainting", "StableDiffusionInpaintPipeline", ("inpaint", "outpaint")),
        ("sdxl_inpainting", "StableDiffusionXLInpaintPipeline", ("inpaint", "outpaint")),
        ("flux_fill", "FluxFillPipeline", ("inpaint", "outpaint")),
        ("sdxl_refiner", "StableDiffusionXLImg2ImgPipeline", ("image", "inpaint", "outpaint")),
    ],
)
def test_a_model_that_cannot_do_without_a_picture_has_no_text_mode(
    family: str, pipeline: str, modes: tuple[str, ...], tmp_path: Path
) -> None:
    info = described(tiny_image_models.save(family, tmp_path))
    assert (info.pipeline, info.modes) == (pipeline, modes)
    assert tuple(mode for mode, _ in info.default_strengths) == modes
    assert ModelInfo.from_dict(json.loads(json.dumps(info.as_dict()))) == info


def test_an_inpainting_model_is_known_by_its_channels_under_the_name_of_another_class(
    tmp_path: Path,
) -> None:
    saved = tiny_image_models.save("sd_inpainting", tmp_path / "own")
    folder = renamed(saved, "StableDiffusionPipeline", tmp_path / "other")
    assert described(folder).modes == ("inpaint", "outpaint")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("StableDiffusionDepth2ImgPipeline", "takes no height, width"),
        ("StableDiffusionControlNetPipeline", "needs image, controlnet"),
        ("StableDiffusion3ControlNetPipeline", "needs control_image, controlnet"),
        ("StableDiffusion3ControlNetInpaintingPipeline", "needs control_image, controlnet"),
        ("CogView4ControlPipeline", "needs control_image"),
        ("HunyuanDiTControlNetPipeline", "needs control_image, controlnet"),
        ("QwenImageControlNetInpaintPipeline", "needs control_image, controlnet"),
    ],
)
def test_a_pipeline_that_needs_something_else_is_still_refused(
    name: str, reason: str, sd: Path, tmp_path: Path
) -> None:
    folder = renamed(sd, name, tmp_path / "sd")
    expected = f"{name} is not a text-to-image pipeline: it {reason}"
    with pytest.raises(UnsupportedModel, match=f"{expected}$"):
        described(folder)


@pytest.mark.parametrize(
    ("pipeline", "config", "unfit"),
    [
        ("LDMTextToImagePipeline", {"_class_name": "DDPMScheduler"}, True),
        ("LDMTextToImagePipeline", {"_class_name": "DDIMScheduler"}, False),
        (
            "LDMTextToImagePipeline",
            {"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++"},
            True,
        ),
        (
            "LDMTextToImagePipeline",
            {"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "dpmsolver++"},
            False,
        ),
        ("StableDiffusionPipeline", {"_class_name": "DDPMScheduler"}, False),
    ],
)
def test_a_models_own_scheduler_may_be_one_that_does_not_sample_with_its_class(
    pipeline: str, config: dict[str, str], unfit: bool
) -> None:
    assert is_unfit(config, pipeline) == unfit


def test_a_model_whose_own_scheduler_would_draw_other_noise_is_refused(tmp_path: Path) -> None:
    folder = tiny_families.save("LDMTextToImagePipeline", tmp_path)
    assert "text" in described(folder).modes
    index = json.loads((folder / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", "DDPMScheduler"]
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(UnsupportedModel, match="DDPMScheduler, does not sample with LDMText"):
        described(folder)


@pytest.mark.parametrize(
    ("family", "name", "settings", "runs"),
    [
        ("flux", "FlowMatchLCMScheduler", {}, False),
        ("flux", "FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}, False),
        ("flux", "FlowMatchEulerDiscreteScheduler", {}, True),
        ("sana", "FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}, True),
    ],
)
def test_a_scheduler_that_adds_noise_of_no_rows_seed_is_refused(
    family: str, name: str, settings: dict[str, bool], runs: bool, tmp_path: Path
) -> None:
    folder = tiny_image_models.save(family, tmp_path)
    index = json.loads((folder / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", name]
    (folder / "model_index.json").write_text(json.dumps(index))
    config = folder / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({"_class_name": name, **settings}))
    if runs:
        assert "text" in described(folder).modes
    else:
        with pytest.raises(UnsupportedModel, match=f"{name}, adds noise in its steps, and Flux"):
            described(folder)


def test_default_strengths_are_those_of_the_classes(sd: Path) -> None:
    info = described(sd)
    assert info.default_strength("image") == 0.8
    assert info.default_strength("inpaint+control") == 1.0
    assert info.default_strength("text") is None


def test_a_class_with_controlnets_has_a_default_strength_of_its_own() -> None:
    from diffusers import StableDiffusionXLPipeline

    modes = modes_of("StableDiffusionXLPipeline", has_controls=True, has_references=True)
    strengths = dict(default_strengths(StableDiffusionXLPipeline, modes))
    assert (strengths["image"], strengths["image+control"]) == (0.3, 0.8)
    assert (strengths["inpaint+control"], strengths["outpaint+control"]) == (0.9999, 1.0)
    assert not any(mode.endswith("+reference") for mode in strengths)


@pytest.mark.parametrize(("family", "multiple"), [("z_image", 8), ("qwen", 8)])
def test_models_that_pack_two_by_two_latents_have_the_multiple_of_their_pipelines(
    family: str, multiple: int, tmp_path: Path
) -> None:
    """The VAEs of the tiny models halve a side; real ones make an eighth of it, and 16 of this."""
    info = described(tiny_image_models.save(family, tmp_path))
    assert info.size_multiple == multiple
    vae = tmp_path / "vae" / "config.json"
    blocks = {"block_out_channels": [4, 8, 8, 8], "temperal_downsample": [False] * 3}
    vae.write_text(json.dumps(json.loads(vae.read_text()) | blocks))
    folder = PipelineFolder.read(tmp_path)
    assert size_multiple(folder, text_to_image_class(folder)) == 16


def test_only_latent_consistency_models_take_all_steps(sd: Path, tmp_path: Path) -> None:
    lcm = described(tiny_image_models.save("lcm", tmp_path))
    assert lcm.takes_all_steps("image")
    assert not lcm.takes_all_steps("text")
    assert not described(sd).takes_all_steps("image")
