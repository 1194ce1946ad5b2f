"""Each text-to-image class of diffusers does what a row says, or is refused in words.

`support/family_table.py` measures all of them; here are the classes that differ from the others.
"""

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from support import family_table
from support.slow_cases import slow_except
from support.tiny_families import makers, save

from nightpress.diffusion_core.errors import UnsupportedModel
from nightpress.diffusion_core.models.family_rules import NEEDED_PACKAGES
from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.diffusion_core.models.loading import LoadedModel, describe, load
from nightpress.diffusion_core.models.modes import modes_of
from nightpress.diffusion_core.models.samplers import (
    DIFFUSION_SAMPLERS,
    compatible_samplers,
    most_steps,
    solver_and_suffix,
)
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.sampling import schedulers
from nightpress.diffusion_core.sampling.batch_result import flags_of, images_of
from nightpress.diffusion_core.sampling.faults import Fault
from nightpress.diffusion_core.sampling.sampler import ImageRequest, Sampler, SamplingParams

ROW = ImageRequest("a red cat", "", seed=1)

ADDS_NOISE = ("ddpm", "dpmsolver-sde", "euler-ancestral", "lcm")
"""Solvers that draw random numbers in their steps."""
LONGER = ImageRequest('a blue dog with the "sign" of a very long prompt' + ", and more" * 5, "", 2)

Folders = Callable[[str], Path]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = save(name, tmp_path_factory.mktemp(name))
        return made[name]

    return folder


def info_of(folder: Path) -> ModelInfo:
    return describe(folder, ModelSpec(source=str(folder)))


def loaded(folder: Path) -> LoadedModel:
    return load(folder, ModelSpec(source=str(folder)), "cpu")


def sampled(
    model: LoadedModel, *rows: ImageRequest, scale: float, size: tuple[int, int] = (64, 96)
) -> Any:
    params = SamplingParams(*size, num_inference_steps=2, guidance_scale=scale)
    return Sampler(model, batch_size=len(rows)).sample(rows, params).pixels


def plain(model: LoadedModel, row: ImageRequest, **arguments: Any) -> Any:
    """(H, W, 3) pixels of the diffusers pipeline, called directly."""
    pipeline = model.pipeline
    pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config)
    with torch.inference_mode():
        image = pipeline(
            prompt=row.prompt,
            width=64,
            height=96,
            num_inference_steps=2,
            generator=torch.Generator().manual_seed(row.seed),
            output_type="pt",
            **arguments,
        ).images[0]
    return (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


UGLY = ImageRequest(ROW.prompt, "ugly", ROW.seed)
CALLS: dict[str, list[tuple[ImageRequest, float, Mapping[str, Any]]]] = {
    "QwenImagePipeline": [
        (ROW, 4.0, {"true_cfg_scale": 4.0, "negative_prompt": " "}),
        (ROW, 7.0, {"true_cfg_scale": 7.0, "negative_prompt": " "}),
        (UGLY, 4.0, {"true_cfg_scale": 4.0, "negative_prompt": "ugly"}),
        (ROW, 1.0, {"true_cfg_scale": 1.0}),
    ],
    "CogView3PlusPipeline": [
        (ROW, 5.0, {"guidance_scale": 5.0}),
        (UGLY, 5.0, {"guidance_scale": 5.0, "negative_prompt": "ugly"}),
    ],
    "ZImagePipeline": [
        (UGLY, 0.5, {"guidance_scale": 0.5, "negative_prompt": "ugly"}),
        (ROW, 0.0, {"guidance_scale": 0.0}),
    ],
    "FluxPipeline": [(ROW, 6.0, {"guidance_scale": 6.0})],
}
"""Class -> rows with their scales, and the arguments of diffusers that mean the same."""


@pytest.mark.parametrize("name", CALLS)
def test_a_row_has_the_bits_of_the_plain_pipeline_with_the_scale_under_its_own_name(
    name: str, folders: Folders
) -> None:
    model = loaded(folders(name))
    images = []
    for row, scale, arguments in CALLS[name]:
        images.append(sampled(model, row, scale=scale)[0])
        assert np.array_equal(images[-1], plain(model, row, **arguments)), (row, scale)
    assert len({image.tobytes() for image in images}) == len(images)


@pytest.mark.filterwarnings("ignore:`callback_steps` is deprecated:FutureWarning")
@pytest.mark.parametrize(
    "name", ["IFPipeline", "Kandinsky3Pipeline", "KandinskyV22CombinedPipeline"]
)
def test_a_class_with_tensors_of_its_own_range_makes_the_colours_of_its_pictures(
    name: str, folders: Folders
) -> None:
    model = loaded(folders(name))
    params = SamplingParams(64, 64, 2, guidance_scale=4.0, scheduler="ddpm-trailing")
    ours = Sampler(model, batch_size=1).sample([ROW], params).pixels[0]
    pipeline = model.pipeline
    last = getattr(pipeline, "decoder_pipe", pipeline)
    last.scheduler = schedulers.make("ddpm-trailing", model.scheduler_config)
    with torch.inference_mode():
        picture = pipeline(
            ROW.prompt,
            width=64,
            height=64,
            num_inference_steps=2,
            guidance_scale=4.0,
            generator=torch.Generator().manual_seed(ROW.seed),
        ).images[0]
    assert np.array_equal(ours, np.asarray(picture))


def test_sana_sprint_takes_other_numbers_of_steps_than_two(folders: Folders) -> None:
    params = SamplingParams(64, 96, num_inference_steps=3, guidance_scale=4.5)
    sampler = Sampler(loaded(folders("SanaSprintPipeline")), batch_size=1)
    assert sampler.sample([ROW], params).faults == (None,)


def test_deepfloyd_has_pixels_for_latents_and_few_samplers(folders: Folders) -> None:
    deepfloyd = info_of(folders("IFPipeline"))
    solvers = {name.partition("-")[0] for name in deepfloyd.samplers}
    assert solvers == {"default", "ddpm", "dpmsolver++", "dpmsolver"}
    assert (deepfloyd.width, deepfloyd.height) == (64, 64)  # its latents are pixels


@pytest.mark.parametrize(
    ("name", "unfit"),
    [
        ("KandinskyV22CombinedPipeline", {"heun", "unipc"}),
        ("Kandinsky3Pipeline", {"heun", "unipc"}),
        ("LDMTextToImagePipeline", {"ddpm", "lcm", "euler-ancestral", "dpmsolver-sde"}),
        ("StableDiffusionSAGPipeline", {"euler", "euler-ancestral", "heun"}),
        ("SemanticStableDiffusionPipeline", {"heun"}),
    ],
)
def test_solvers_that_do_not_sample_with_a_class_are_not_offered(
    name: str, unfit: set[str]
) -> None:
    process = {"_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear"}
    offered = {solver_and_suffix(each)[0] for each in compatible_samplers(process, name, False)}
    every = {solver_and_suffix(each)[0] for each in DIFFUSION_SAMPLERS}
    assert offered == every - unfit


def test_a_process_with_one_timestep_has_its_time_as_a_fraction() -> None:
    flow = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1}
    assert most_steps(flow) == 1000
    assert most_steps({"_class_name": "DDPMScheduler", "num_train_timesteps": 1}) == 1


def test_the_size_that_a_class_makes_by_default_is_its_models(folders: Folders) -> None:
    ideogram = info_of(folders("Ideogram4Pipeline"))
    assert (ideogram.width, ideogram.height, ideogram.size_multiple) == (2048, 2048, 16)


@pytest.mark.filterwarnings("ignore:`callback_steps` is deprecated:FutureWarning")
def test_infinities_are_found_before_kandinsky_clamps_them(folders: Folders) -> None:
    model = loaded(folders("KandinskyV22CombinedPipeline"))
    torch.nn.init.constant_(model.pipeline.movq.decoder.conv_out.bias, float("inf"))
    sampler = Sampler(model, batch_size=1)
    batch = sampler.sample([ROW], SamplingParams(64, 64, 1, guidance_scale=4.0))
    assert batch.faults == (Fault.NON_FINITE,)


def test_transparent_images_are_laid_on_white() -> None:
    images = torch.tensor([0.2, 0.4, 0.6, 0.5]).view(1, 4, 1, 1).expand(1, 4, 2, 3)
    flat = images_of(SimpleNamespace(images=images), (1, 3, 2, 3))
    assert torch.allclose(flat[0, :, 0, 0], torch.tensor([0.6, 0.7, 0.8]))


def test_each_kind_of_a_safety_checkers_flags_counts() -> None:
    assert flags_of(SimpleNamespace(nsfw_content_detected=None), 2) == [False, False]
    assert flags_of(SimpleNamespace(nsfw_content_detected=[True, False]), 2) == [True, False]
    both = SimpleNamespace(nsfw_detected=[False, False], watermark_detected=[False, True])
    assert flags_of(both, 2) == [False, True]


def test_hunyuan_image_gets_the_scale_through_its_guider(folders: Folders) -> None:
    folder = folders("HunyuanImagePipeline")
    assert info_of(folder).guidance_scale == 3.5
    model = loaded(folder)
    ours = sampled(model, ROW, scale=6.0)[0]
    model.pipeline.guider = model.pipeline.guider.new(guidance_scale=6.0)
    assert np.array_equal(ours, plain(model, ROW))
    assert not np.array_equal(ours, sampled(model, ROW, scale=3.5)[0])


@pytest.mark.parametrize(
    "name",
    slow_except(
        ["QwenImagePipeline", "HunyuanImagePipeline", "CogView4Pipeline"], "QwenImagePipeline"
    ),
)
def test_rows_whose_class_decides_for_a_whole_call_are_sampled_alone(
    name: str, folders: Folders
) -> None:
    model = loaded(folders(name))
    assert not Sampler(model, 2).shares_batches
    alone = [sampled(model, row, scale=4.0)[0] for row in (ROW, LONGER)]
    for rows in ((0, 1), (1, 0)):
        together = sampled(model, *((ROW, LONGER)[row] for row in rows), scale=4.0)
        for pixels, row in zip(together, rows, strict=True):
            assert np.array_equal(pixels, alone[row])


@pytest.mark.parametrize("name", ["Kandinsky5T2IPipeline", "HiDreamImagePipeline"])
def test_a_class_that_picks_its_own_sizes_makes_the_rows_size(name: str, folders: Folders) -> None:
    assert sampled(loaded(folders(name)), ROW, scale=4.0, size=(80, 112)).shape == (1, 112, 80, 3)


@pytest.mark.parametrize(("name", "multiple"), [("ErnieImagePipeline", 16), ("ZImagePipeline", 16)])
def test_sizes_that_a_class_would_refuse_are_refused_before_a_run(
    name: str, multiple: int, folders: Folders
) -> None:
    assert info_of(folders(name)).size_multiple == multiple


def test_what_a_model_claims_is_what_reaches_its_pipeline(folders: Folders) -> None:
    qwen, flux = (info_of(folders(name)) for name in ("QwenImagePipeline", "FluxPipeline"))
    assert (qwen.guidance_scale, qwen.takes_guidance, qwen.takes_negative_prompt) == (4, True, True)
    assert (flux.takes_guidance, flux.takes_negative_prompt) == (True, False)
    cogview = info_of(folders("CogView3PlusPipeline"))
    assert cogview.samplers == ("default",)  # no other has its shift of the noise


def test_samplers_that_would_draw_from_the_global_random_numbers_are_left_out() -> None:
    """LDMTextToImagePipeline gives the steps no generator, so their noise has no row's seed."""
    config = {"_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear"}
    samplers = compatible_samplers(config, "LDMTextToImagePipeline", is_lcm_only=False)
    assert {"ddim", "heun", "euler", "unipc", "dpmsolver++"} < set(samplers)
    assert not [name for name in samplers if name.startswith(ADDS_NOISE)]


def test_a_flux_without_a_guidance_input_takes_no_guidance(tmp_path: Path) -> None:
    from support.tiny_families import flux_schnell

    flux_schnell().save_pretrained(tmp_path)
    info = info_of(tmp_path)
    assert (info.takes_guidance, info.guidance_scale) == (False, 1.0)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("GlmImagePipeline", "torch's global random numbers"),
        ("StableDiffusionGLIGENPipeline", "needs gligen_phrases"),
        ("WuerstchenPriorPipeline", "embeddings instead of images"),
        ("WuerstchenCombinedPipeline", "cannot load from a folder"),
        ("StableCascadeCombinedPipeline", "cannot load from a folder"),
        ("Cosmos2TextToImagePipeline", "safety checker"),
        ("PRXPipeline", "does not export"),
    ],
)
def test_a_class_that_cannot_be_sampled_by_rows_is_refused_in_one_line(
    name: str, reason: str, tmp_path: Path
) -> None:
    (tmp_path / "model_index.json").write_text(f'{{"_class_name": "{name}"}}')
    with pytest.raises(UnsupportedModel, match=reason) as caught:
        info_of(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_class_whose_package_is_missing_is_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (tmp_path / "model_index.json").write_text('{"_class_name": "Flux2Pipeline"}')
    with pytest.raises(UnsupportedModel, match="needs the package torchvision, which is not"):
        info_of(tmp_path)


def test_diffusers_still_lacks_the_networks_of_the_refused_cascades() -> None:
    import diffusers

    assert not {"PaellaVQModel", "WuerstchenDiffNeXt", "WuerstchenPrior"} & set(dir(diffusers))


def documented() -> dict[str, list[str]]:
    """Class -> the other cells of its row in the README."""
    rows = family_table.written_rows().items()
    return {name: row.strip("| ").split(" | ")[1:] for name, row in rows}


def test_the_readme_lists_every_text_to_image_class_of_diffusers() -> None:
    classes, rows = family_table.text_to_image_classes(), documented()
    assert list(rows) == list(classes)
    for name, reason in classes.items():
        if package := NEEDED_PACKAGES.get(name):
            assert rows[name][0] == f"yes, with {package}", name
        elif reason is not None:
            assert rows[name][0] == f"refused: it {reason}", name
        else:
            assert rows[name][0] == "yes", name


def test_the_readmes_table_has_the_modes_of_each_class() -> None:
    for name, cells in documented().items():
        if cells[0].startswith("yes"):
            assert cells[-1] == ", ".join(modes_of(name)), name


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*FluxPosEmbed. is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*configuration file of this scheduler:FutureWarning")
@pytest.mark.filterwarnings("ignore:`callback_steps` is deprecated:FutureWarning")
@pytest.mark.parametrize("name", sorted(makers()))
def test_each_row_of_the_readmes_table_is_what_is_measured(name: str) -> None:
    if family_table.lacks_package(name):
        pytest.skip(f"needs {NEEDED_PACKAGES[name]}")
    row = family_table.measured_row(name)
    assert row.strip("| ").split(" | ")[1:] == documented()[name]
