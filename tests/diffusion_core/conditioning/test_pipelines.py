"""The pipelines of the modes share the model's own components and settings."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionXLPipeline

from nightpress.diffusion_core.conditioning.pipelines import ModePipelines
from nightpress.diffusion_core.errors import SettingsError
from nightpress.diffusion_core.models.loading import LoadedModel, load
from nightpress.diffusion_core.models.placement import MemorySpec
from nightpress.diffusion_core.models.spec import ModelSpec

Loaded = Callable[[str], LoadedModel]


def test_every_mode_has_the_very_same_networks(loaded: Loaded) -> None:
    pipelines = ModePipelines(loaded("sdxl"))
    base = pipelines.pipeline_for("text")
    assert base is loaded("sdxl").pipeline
    for mode in ("image", "inpaint", "outpaint"):
        other = pipelines.pipeline_for(mode)
        for name in ("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer"):
            assert getattr(other, name) is getattr(base, name)
    assert pipelines.pipeline_for("outpaint") is pipelines.pipeline_for("inpaint")


def test_no_network_changes_its_type(saved: Callable[[str], Path]) -> None:
    half = load(saved("sd"), ModelSpec(dtype="bfloat16"), "cpu")
    ModePipelines(half).pipeline_for("inpaint")
    assert {half.pipeline.unet.dtype, half.pipeline.vae.dtype} == {torch.bfloat16}


def test_no_mode_adds_a_watermark_even_where_the_package_for_it_is_installed(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    for mode in ("img2img", "inpaint"):
        module = f"diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl_{mode}"
        monkeypatch.setattr(f"{module}.is_invisible_watermark_available", lambda: True)
    pipelines = ModePipelines(loaded("sdxl"))
    assert pipelines.pipeline_for("image").watermark is None
    assert pipelines.pipeline_for("inpaint").watermark is None


def test_settings_of_the_folder_go_to_every_mode(loaded: Loaded) -> None:
    refined = ModePipelines(loaded("sdxl_refiner")).pipeline_for("inpaint")
    assert refined.config.requires_aesthetics_score
    guided = ModePipelines(loaded("sd_pag"))
    assert guided.pipeline_for("image").pag_applied_layers == ["mid"]


@pytest.mark.parametrize(
    ("family", "mode", "allowed"),
    [
        ("lcm", "inpaint", "text, image"),
        ("sd_inpainting", "image", "inpaint, outpaint"),
        ("sd", "edit", "text, image, inpaint, outpaint"),
        ("sd", "image+nothing", "text, image, inpaint, outpaint"),
    ],
)
def test_a_mode_that_a_model_lacks_is_refused_with_those_it_has(
    family: str, mode: str, allowed: str, loaded: Loaded
) -> None:
    with pytest.raises(SettingsError, match=f"has the modes {allowed}$"):
        ModePipelines(loaded(family)).pipeline_for(mode)


def test_no_pipeline_looks_for_its_device_in_its_networks(
    saved: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(saved("sdxl"), ModelSpec(source="sdxl"), "cpu")
    pipelines, kind = ModePipelines(model), type(model.pipeline)

    def searched(self: Any) -> Any:
        raise AssertionError("it looked through its networks")

    monkeypatch.setattr(DiffusionPipeline, "_execution_device", property(searched))
    for mode in ("text", "image", "inpaint"):
        pipeline = pipelines.pipeline_for(mode)
        assert pipeline._execution_device == torch.device("cpu")
    assert kind.__name__ == "StableDiffusionXLPipeline"
    assert isinstance(model.pipeline, StableDiffusionXLPipeline)
    ModePipelines(model)
    assert type(model.pipeline) is kind


def test_a_pipeline_whose_networks_are_moved_does_not_remember_where_they_were(
    saved: Callable[[str], Path],
) -> None:
    model = load(saved("sd"), ModelSpec(source="sd"), "cpu")
    moved = replace(model, memory=MemorySpec(offload="model"))
    kind = type(moved.pipeline)
    ModePipelines(moved)
    assert type(moved.pipeline) is kind
