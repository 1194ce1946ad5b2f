"""Rows with pictures that cannot be sampled as they ask are refused when they are planned."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.plans import MODEL, job, write

from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.diffusion_core.models.lora_files import LoraInfo
from nightpress.diffusion_core.models.modes import modes_of
from nightpress.pipelines.errors import ManifestError
from nightpress.pipelines.planning import check

FLOW = replace(
    MODEL,
    pipeline="FluxPipeline",
    modes=modes_of("FluxPipeline"),
    samplers=("default", "dpmsolver++", "unipc", "flow-euler"),
    own_sampler="flow-euler",
)
LCM = replace(
    MODEL,
    pipeline="LatentConsistencyModelPipeline",
    modes=modes_of("LatentConsistencyModelPipeline"),
    samplers=("default", "lcm"),
    own_sampler="lcm",
    default_strengths=(("image", 0.8),),
)
CONTROLS = replace(
    MODEL,
    modes=modes_of("StableDiffusionPipeline", has_controls=True),
    samplers=("default", "ddim", "heun"),
    controlnets=(LoraInfo("early", "d" * 64, 1.0), LoraInfo("all", "c" * 64, 1.0)),
    default_strengths=(("image", 0.8),),
)
NETS = [{"source": "x/early", "control_guidance_end": 0.3}, {"source": "x/all"}]


def problems(folder: Path, info: ModelInfo, *rows: dict[str, Any], **values: Any) -> list[str]:
    """What is wrong with the rows of a manifest."""
    manifest = write(folder / "m.jsonl", [{"prompt": "p", **row} for row in rows])
    try:
        check(job(folder, manifest, inputs={"check": "none"}, **values), info)
    except ManifestError as error:
        return [str(each).removeprefix(f"{folder}/") for each in error.problems]
    return []


def test_a_sampler_that_cannot_begin_with_a_picture_is_refused_for_rows_with_one(
    tmp_path: Path,
) -> None:
    rows = [
        {"scheduler": "unipc"},
        {"scheduler": "unipc", "init_image": "a"},
        {"init_image": "a"},
        {"scheduler": "flow-euler", "init_image": "a", "mask_image": "m"},
        {"scheduler": "dpmsolver++", "init_image": "a", "mask_image": "m"},
    ]
    fit = "choose one of: default, flow-euler"
    assert problems(tmp_path, FLOW, *rows) == [
        "m.jsonl, line 2, column scheduler: sampler unipc does not work with this model in mode "
        f"image; {fit}",
        "m.jsonl, line 5, column scheduler: sampler dpmsolver++ does not work with this model in "
        f"mode inpaint; {fit}",
    ]


def test_the_models_own_sampler_is_refused_where_it_cannot_begin_with_a_picture(
    tmp_path: Path,
) -> None:
    (found,) = problems(tmp_path, replace(FLOW, own_sampler="unipc"), {"init_image": "a"})
    assert "column scheduler: sampler default does not work with this model in mode image" in found


def test_a_sampler_that_the_model_lacks_is_reported_once(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, FLOW, {"scheduler": "heun", "init_image": "a"})
    assert "sampler 'heun' does not work with this model; choose one of" in found


def test_a_small_strength_is_refused_only_where_it_takes_all_steps_away(tmp_path: Path) -> None:
    row = {"init_image": "a", "strength": 0.2, "num_inference_steps": 4}
    assert problems(tmp_path, replace(LCM, modes=("text", "image")), row, {}) == []
    (found,) = problems(tmp_path, replace(LCM, pipeline="StableDiffusionPipeline"), row, {})
    assert "strength: the strength 0.2 leaves none of 4 steps to take" in found


def test_a_strength_that_leaves_a_latent_consistency_model_too_few_timesteps_is_refused(
    tmp_path: Path,
) -> None:
    row = {"init_image": "a", "strength": 0.5, "num_inference_steps": 26}
    fine = [{**row, "num_inference_steps": 25}, {"num_inference_steps": 26}]
    assert problems(tmp_path, LCM, *fine, row) == [
        "m.jsonl, line 3, column strength: the strength 0.5 leaves 25 of 50 timesteps, fewer than "
        "the 26 to take; use a strength of at least 0.52, or fewer steps"
    ]


def test_the_default_strength_is_that_of_the_class_with_a_controlnet(tmp_path: Path) -> None:
    info = replace(CONTROLS, default_strengths=(("image", 0.3), ("image+control", 0.8)))
    models = {"model": {"source": "builtin", "controlnets": NETS}}
    row = {"init_image": "a", "num_inference_steps": 3}
    (found,) = problems(tmp_path, info, {**row, "control_image.all": "c"}, row, **models)
    assert found.startswith("m.jsonl, line 2, column strength: the strength 0.3 leaves none")


@pytest.mark.parametrize(
    ("row", "calls"),
    [
        ({"num_inference_steps": 3}, "3 steps"),
        ({"num_inference_steps": 4, "init_image": "i"}, "3 steps"),  # at strength 0.8
        ({"num_inference_steps": 10, "init_image": "i", "strength": 0.19}, "1 step"),
        ({"num_inference_steps": 2, "scheduler": "heun"}, "2 steps"),
    ],
)
def test_a_controlnet_that_would_act_on_no_step_is_refused(
    row: dict[str, Any], calls: str, tmp_path: Path
) -> None:
    models = {"model": {"source": "builtin", "controlnets": NETS}}
    fine = [{**row, "control_image.all": "c"}, {"control_image.early": "c"}]
    heun = {"control_image.early": "c", "num_inference_steps": 3, "scheduler": "heun"}
    (found,) = problems(
        tmp_path, CONTROLS, *fine, heun, {**row, "control_image.early": "c"}, **models
    )
    assert found == (
        "m.jsonl, line 4, column num_inference_steps: ControlNet 'early' acts between 0 and 0.3 of "
        f"the steps, and none of {calls} lies there; use more steps"
    )


def test_controlnets_that_cannot_act_together_are_refused(tmp_path: Path) -> None:
    qwen = replace(
        CONTROLS,
        pipeline="QwenImagePipeline",
        modes=modes_of("QwenImagePipeline", has_controls=True),
    )
    models = {"model": {"source": "builtin", "controlnets": NETS}}
    both = {"control_image.early": "c", "control_image.all": "d"}
    found = problems(
        tmp_path, qwen, {"control_image.early": "c"}, both, {"control_image.all": "d"}, **models
    )
    assert found == [
        "m.jsonl, line 2, column control_image.early: QwenImagePipeline takes one ControlNet for "
        "an image, not early, all"
    ]
    same = tuple(replace(each, sha256="d" * 64) for each in qwen.controlnets)
    assert problems(tmp_path, replace(qwen, controlnets=same), both, **models) == []


def test_flux_takes_the_step_that_a_strength_cuts_off(tmp_path: Path) -> None:
    info = replace(
        CONTROLS,
        pipeline="FluxPipeline",
        modes=modes_of("FluxPipeline", has_controls=True),
    )
    models = {"model": {"source": "builtin", "controlnets": NETS}}
    row = {
        "init_image": "i",
        "strength": 0.45,  # 3.15 steps
        "control_image.early": "c",
        "num_inference_steps": 7,
    }
    assert problems(tmp_path, info, row, **models) == []
    (found,) = problems(tmp_path, CONTROLS, row, **models)
    assert "none of 3 steps lies there" in found
