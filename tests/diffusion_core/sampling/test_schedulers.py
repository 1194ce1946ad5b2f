import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from support.slow_cases import slow_except

from nightpress.diffusion_core.errors import SettingsError
from nightpress.diffusion_core.models import samplers
from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.models.samplers import DIFFUSION_SAMPLERS, SAMPLER_NAMES
from nightpress.diffusion_core.sampling import schedulers
from nightpress.diffusion_core.sampling.sampler import ImageRequest, Sampler, SamplingParams

PARAMS = SamplingParams(width=32, height=32, num_inference_steps=4, guidance_scale=4.0)
REQUEST = ImageRequest("a red fox", "", 11)
SD_CONFIG = {
    "_class_name": "PNDMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "skip_prk_steps": True,
    "steps_offset": 1,
}
FLOW_CONFIG = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
SANA_CONFIG = {
    "_class_name": "DPMSolverMultistepScheduler",
    "use_flow_sigmas": True,
    "prediction_type": "flow_prediction",
    "flow_shift": 3.0,
}

Loaded = Callable[[str], LoadedModel]


def images_by_sampler(model: LoadedModel, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    sampler, images = Sampler(model, batch_size=1), {}
    for name in names:
        batch = sampler.sample([REQUEST], dataclasses.replace(PARAMS, scheduler=name))
        assert batch.faults == (None,), name
        images[name] = batch.pixels
    return images


@pytest.mark.parametrize("family", slow_except(["sd", "sdxl", "pixart"], "sd"))
def test_every_diffusion_sampler_draws_its_own_image(family: str, loaded: Loaded) -> None:
    # `default` is one of the others for some models.
    images = images_by_sampler(loaded(family), DIFFUSION_SAMPLERS[1:])
    assert all(image.std() > 5 for image in images.values())
    twins = {"ddim", "ddpm", "ddim-trailing", "ddpm-trailing"}
    distinct = {image.tobytes() for name, image in images.items() if name not in twins}
    assert len(distinct) == len(images) - len(twins)


def test_ddim_equals_euler_and_ddpm_equals_ancestral_euler_at_the_same_timesteps(
    loaded: Loaded,
) -> None:
    pairs = (("ddim", "euler"), ("ddpm", "euler-ancestral"))
    images = images_by_sampler(loaded("sdxl"), tuple(name for pair in pairs for name in pair))
    for one, other in pairs:
        assert np.abs(images[one].astype(int) - images[other].astype(int)).max() <= 1
    assert (images["ddim"] != images["ddpm"]).any()


@pytest.mark.parametrize("family", ["sd3", "flux", "sana"])
def test_every_sampler_for_flow_models_draws_its_own_image(family: str, loaded: Loaded) -> None:
    model = loaded(family)
    pipeline = type(model.pipeline).__name__
    names = samplers.compatible_samplers(model.scheduler_config, pipeline, is_lcm_only=False)
    images = images_by_sampler(model, names)
    twin = "dpmsolver++" if family == "sana" else "flow-euler"
    assert images[twin].tobytes() == images["default"].tobytes()
    del images["default"]
    assert len({image.tobytes() for image in images.values()}) == len(images) >= 3


@pytest.mark.parametrize("family", slow_except(["sd3", "flux", "sana"], "flux"))
def test_the_flow_samplers_agree_after_many_steps(family: str, loaded: Loaded) -> None:
    """A differential equation has one solution, so a wrong shift or sign would show."""
    sampler, images = Sampler(loaded(family), batch_size=1), []
    for name in ("flow-euler", "dpmsolver++", "unipc"):
        params = SamplingParams(32, 32, 60, 1.5, name)
        images.append(sampler.sample([REQUEST], params).pixels.astype(int))
    assert np.abs(images[0] - images[1]).mean() < 3
    assert np.abs(images[0] - images[2]).mean() < 3


@pytest.mark.parametrize(
    ("name", "owner", "changes"),
    [
        ("ddpm", diffusers.DDPMScheduler, {}),
        ("ddim", diffusers.DDIMScheduler, {}),
        ("dpmsolver++", diffusers.DPMSolverMultistepScheduler, {}),
        (
            "dpmsolver++-karras",
            diffusers.DPMSolverMultistepScheduler,
            {"use_karras_sigmas": True},
        ),
        (
            "dpmsolver-sde",
            diffusers.DPMSolverMultistepScheduler,
            {"algorithm_type": "sde-dpmsolver++"},
        ),
        ("euler", diffusers.EulerDiscreteScheduler, {}),
        ("euler-karras", diffusers.EulerDiscreteScheduler, {"use_karras_sigmas": True}),
        ("euler-ancestral", diffusers.EulerAncestralDiscreteScheduler, {}),
        ("heun", diffusers.HeunDiscreteScheduler, {}),
        ("unipc", diffusers.UniPCMultistepScheduler, {}),
        ("lcm", diffusers.LCMScheduler, {}),
    ],
)
def test_a_name_gives_the_scheduler_that_diffusers_derives_from_the_models_own(
    name: str, owner: Any, changes: dict[str, Any]
) -> None:
    ours, theirs = schedulers.make(name, SD_CONFIG), owner.from_config(SD_CONFIG, **changes)
    assert type(ours) is owner
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(7)
    assert torch.equal(ours.timesteps, theirs.timesteps)
    assert torch.equal(ours.alphas_cumprod, theirs.alphas_cumprod)
    if hasattr(theirs, "sigmas"):
        assert torch.equal(ours.sigmas, theirs.sigmas)


@pytest.mark.parametrize("name", DIFFUSION_SAMPLERS)
def test_the_process_is_the_models_own_even_if_its_file_leaves_it_to_the_class(name: str) -> None:
    config = schedulers.make("default", {"_class_name": "LCMScheduler"}).config
    config = {**config, "_class_name": "LCMScheduler", "prediction_type": "v_prediction"}
    made = schedulers.make(name, config)
    assert made.config.beta_start == 0.00085
    assert made.config.beta_schedule == "scaled_linear"
    assert made.config.prediction_type == "v_prediction"


@pytest.mark.parametrize("name", ["ddpm", "ddim"])
def test_latents_are_not_clipped_by_the_default_of_another_class(name: str) -> None:
    config = {key: value for key, value in SD_CONFIG.items() if key != "clip_sample"}
    assert schedulers.make(name, config).config.clip_sample is False


TRAILING = [name for name in SAMPLER_NAMES if name.endswith("-trailing")]


@pytest.mark.parametrize("name", TRAILING)
@pytest.mark.parametrize("num_steps", [1, 2, 4, 7, 8])
def test_trailing_timesteps_are_those_of_diffusers_own_scheduler(name: str, num_steps: int) -> None:
    class_name, settings = samplers.SCHEDULERS[name.removesuffix("-trailing")]
    theirs = getattr(diffusers, class_name).from_config(
        SD_CONFIG, timestep_spacing="trailing", **settings
    )
    ours = schedulers.make(name, SD_CONFIG)
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(num_steps)
    assert torch.equal(ours.timesteps, theirs.timesteps)
    assert ours.timesteps[0] == 999
    if hasattr(theirs, "sigmas"):
        assert torch.equal(ours.sigmas, theirs.sigmas)


def test_every_diffusion_sampler_with_trailing_timesteps_in_diffusers_has_a_trailing_name() -> None:
    config = SD_CONFIG | {"timestep_spacing": "trailing"}
    for name in set(samplers.SCHEDULERS) - {"flow-euler"}:
        made = schedulers.make(name, config)
        made.set_timesteps(4)
        assert (f"{name}-trailing" in TRAILING) == (made.timesteps.tolist()[-1] == 249), name


@pytest.mark.parametrize("name", ["euler-trailing", "ddim-trailing"])
@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_few_trailing_steps_without_guidance_draw_what_plain_diffusers_draws(
    family: str, name: str, loaded: Loaded, plain: Callable[[str], Any]
) -> None:
    """Models that were distilled to few steps are sampled this way."""
    params = SamplingParams(32, 32, 4, 1.0, name)
    batch = Sampler(loaded(family), batch_size=1).sample([REQUEST], params)
    pipeline = plain(family)
    owner = {"euler": diffusers.EulerDiscreteScheduler, "ddim": diffusers.DDIMScheduler}
    pipeline.scheduler = owner[name.removesuffix("-trailing")].from_config(
        pipeline.scheduler.config, timestep_spacing="trailing", clip_sample=False
    )
    (theirs,) = pipeline(
        prompt=[REQUEST.prompt],
        width=32,
        height=32,
        num_inference_steps=4,
        guidance_scale=1.0,
        generator=[torch.Generator("cpu").manual_seed(REQUEST.seed)],
    ).images
    np.testing.assert_array_equal(batch.pixels[0], np.asarray(theirs))


def test_a_name_without_trailing_keeps_the_spacing_of_the_models_own() -> None:
    for spacing in ("leading", "trailing"):
        made = schedulers.make("euler", SD_CONFIG | {"timestep_spacing": spacing})
        assert made.config.timestep_spacing == spacing


@pytest.mark.parametrize("name", TRAILING)
def test_a_number_of_trailing_steps_is_either_exact_or_refused(name: str) -> None:
    made, refused = schedulers.make(name, SD_CONFIG), 0
    for num_steps in (4, 50, 61, 103, 244, 1000):
        made.set_timesteps(num_steps)
        even = len(set(made.timesteps.tolist())) == num_steps
        if even:
            schedulers.check_steps(made, num_steps)
            continue
        refused += 1
        with pytest.raises(SettingsError, match=f"num_inference_steps {num_steps}: .* one more"):
            schedulers.check_steps(made, num_steps)
    assert refused == 3


def test_a_name_without_karras_turns_karras_sigmas_off(loaded: Loaded) -> None:
    made = schedulers.make("euler", SD_CONFIG | {"use_karras_sigmas": True})
    assert made.config.use_karras_sigmas is False


@pytest.mark.parametrize("config", [SD_CONFIG, SANA_CONFIG])
def test_default_is_the_models_own_scheduler(config: dict[str, Any]) -> None:
    made = schedulers.make("default", config)
    assert type(made).__name__ == config["_class_name"]
    assert all(made.config[key] == value for key, value in config.items() if key[0] != "_")


def test_a_flow_shift_is_kept_when_the_scheduler_changes() -> None:
    assert schedulers.make("flow-euler", SANA_CONFIG).config.shift == 3.0
    for name in ("dpmsolver++", "unipc"):
        made = schedulers.make(name, FLOW_CONFIG).config
        assert (made.flow_shift, made.use_flow_sigmas) == (3.0, True)


def test_every_scheduler_is_fresh() -> None:
    assert schedulers.make("heun", SD_CONFIG) is not schedulers.make("heun", SD_CONFIG)


def test_an_unknown_name_is_refused_with_a_list_of_all_names() -> None:
    with pytest.raises(SettingsError) as caught:
        schedulers.make("euler-a", SD_CONFIG)
    assert all(name in str(caught.value) for name in SAMPLER_NAMES)


@pytest.mark.parametrize(
    ("name", "config"), [("flow-euler", SD_CONFIG), ("heun", FLOW_CONFIG), ("lcm", SANA_CONFIG)]
)
def test_a_sampler_of_the_other_kind_is_refused(name: str, config: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="model"):
        schedulers.make(name, config)


def test_flux_without_a_size_dependent_shift_has_only_its_own_sampler() -> None:
    fixed = FLOW_CONFIG | {"use_dynamic_shifting": False}
    assert samplers.compatible_samplers(fixed, "FluxPipeline", False) == ("default", "flow-euler")
    moving = FLOW_CONFIG | {"use_dynamic_shifting": True}
    assert "unipc" in samplers.compatible_samplers(moving, "FluxPipeline", False)


def test_more_steps_than_the_process_has_are_refused() -> None:
    for name in ("ddim", "lcm"):
        most = schedulers.max_steps(name, 1000)
        made = schedulers.make(name, SD_CONFIG)
        schedulers.check_steps(made, most)
        made.set_timesteps(most)
        with pytest.raises(SettingsError, match=f"takes 1 to {most}"):
            schedulers.check_steps(made, most + 1)


def completed(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration with the defaults of its class, as `PipelineFolder.scheduler` has it."""
    own = getattr(diffusers, config["_class_name"]).from_config(config)
    return {**own.config, "_class_name": config["_class_name"]}


def names_for(config: dict[str, Any]) -> tuple[str, ...]:
    return samplers.compatible_samplers(config, "StableDiffusion3Pipeline", is_lcm_only=False)


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (SD_CONFIG, "PNDMScheduler"),
        (SD_CONFIG | {"_class_name": "DDIMScheduler"}, "ddim"),
        (SD_CONFIG | {"_class_name": "DDIMParallelScheduler"}, "DDIMParallelScheduler"),
        (SD_CONFIG | {"_class_name": "EulerDiscreteScheduler"}, "euler"),
        (
            SD_CONFIG | {"_class_name": "EulerDiscreteScheduler", "use_karras_sigmas": True},
            "euler-karras",
        ),
        (
            SD_CONFIG | {"_class_name": "DDIMScheduler", "timestep_spacing": "trailing"},
            "ddim-trailing",
        ),
        (
            SD_CONFIG
            | {"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++"},
            "dpmsolver-sde",
        ),
        (FLOW_CONFIG, "flow-euler"),
        (FLOW_CONFIG | {"use_karras_sigmas": True}, FLOW_CONFIG["_class_name"]),
        (SANA_CONFIG, "dpmsolver++"),
    ],
)
def test_the_models_own_sampler_is_called_by_the_name_that_makes_the_very_same_scheduler(
    config: dict[str, Any], name: str
) -> None:
    config = completed(config)
    assert samplers.own_sampler(config, names_for(config)) == name
    if name in SAMPLER_NAMES:
        own, named = schedulers.make("default", config), schedulers.make(name, config)
        assert type(own) is type(named)
        assert values_of(own) == values_of(named)


def values_of(scheduler: Any) -> dict[str, Any]:
    return {key: value for key, value in scheduler.config.items() if not key.startswith("_")}


@pytest.mark.parametrize("name", SAMPLER_NAMES[1:])
def test_a_sampler_saved_as_a_models_own_gets_a_name_of_the_same_scheduler(name: str) -> None:
    config = completed(FLOW_CONFIG if name == "flow-euler" else SD_CONFIG)
    made = schedulers.make(name, config)
    saved = {**made.config, "_class_name": type(made).__name__}
    found = samplers.own_sampler(saved, names_for(saved))
    assert values_of(schedulers.make(found, saved)) == values_of(made)


@pytest.mark.parametrize("name", [each for each in SAMPLER_NAMES if each != "flow-euler"])
def test_a_copied_scheduler_is_as_good_as_one_that_is_made_from_the_configuration(
    name: str,
) -> None:
    made = schedulers.Schedulers(SD_CONFIG)
    with torch.inference_mode():
        made.make(name).set_timesteps(7)  # nothing of its use is in the next one
        copied, fresh = made.make(name), schedulers.make(name, SD_CONFIG)
        assert type(copied) is type(fresh)
        assert copied.config == fresh.config
        assert vars(copied).keys() == vars(fresh).keys()
        for scheduler in (copied, fresh):
            scheduler.set_timesteps(5)
        assert torch.equal(copied.timesteps, fresh.timesteps)
        sample = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
        steps = [
            each.step(sample, each.timesteps[0], sample, return_dict=False, **_generator(each))[0]
            for each in (copied, fresh)
        ]
        assert torch.equal(*steps)


def _generator(scheduler: Any) -> dict[str, torch.Generator]:
    takes = "generator" in inspect.signature(scheduler.step).parameters
    return {"generator": torch.Generator().manual_seed(2)} if takes else {}
