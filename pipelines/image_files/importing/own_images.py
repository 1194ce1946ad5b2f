"""Turns the facts in an image of nightpress back into a row and a job."""

import json
from collections.abc import Iterable
from typing import Any

from nightpress.diffusion_core.conditioning.passes import PassSpec, first_size
from nightpress.diffusion_core.models.prompt_syntax import found_tag
from nightpress.diffusion_core.models.samplers import SAMPLER_NAMES
from nightpress.pipelines.image_files.importing.made_image import MadeImage, UsedLora
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.records import ImageFacts, InputInfo


def made_by_nightpress(source: str, facts: ImageFacts) -> MadeImage:
    """How an image was made, by its embedded facts.

    The job gets what decides the bits: dtype, batch size and acceleration. Files name LoRAs,
    ControlNets and IP-Adapters, but not where they lie.

    Raises:
        SpecError, ValueError, TypeError, KeyError, AttributeError: these are not the facts of an
            image; anybody can have written them.
    """
    made = MadeImage(source, "nightpress", model=facts.model, model_hash=facts.model_fingerprint)
    made.settings = {"id": facts.image_id, **_settings(facts)}
    made.loras = [UsedLora(each.name, each.scale, each.sha256) for each in facts.loras]
    made.passes = [
        PassSpec(
            scale=each.scale,
            strength=each.strength,
            num_inference_steps=each.num_inference_steps,
        )
        for each in facts.passes
    ]
    made.job, made.allows = _job(facts), _allowed(facts)
    if facts.scheduler not in SAMPLER_NAMES:
        made.differs("sampler", f"{facts.scheduler} is taken as the model's own")
    _conditions(facts, made)
    RunSpec.from_dict({"name": "a", "manifest": "a", "output": "a"} | made.job)
    return made


def _settings(facts: ImageFacts) -> dict[str, Any]:
    width, height = first_size(facts.passes, facts.width, facts.height)
    settings: dict[str, Any] = {
        "prompt": facts.prompt,
        "negative_prompt": facts.negative_prompt or None,
        "seed": facts.seed,
        "width": width,
        "height": height,
        "num_inference_steps": facts.num_inference_steps,
        "guidance_scale": facts.guidance_scale,
        "scheduler": facts.scheduler if facts.scheduler in SAMPLER_NAMES else "default",
        "strength": facts.strength,
        "canvas": None if facts.canvas is None else ",".join(map(str, facts.canvas)),
    }
    return {name: value for name, value in settings.items() if value is not None}


def _job(facts: ImageFacts) -> dict[str, Any]:
    model: dict[str, Any] = {"dtype": facts.dtype}
    model["speed"] = json.loads(facts.speed) if facts.speed else "exact"
    read_as = getattr(facts, "prompt_reading", None)
    if read_as:
        model["prompts"] = json.loads(read_as)
    fits = {each.fit for each in facts.inputs if each.fit != "none"}
    inputs = {"inputs": {"fit": fits.pop()}} if len(fits) == 1 else {}
    return {"model": model, **inputs, "batch": {"size": facts.batch_size}}


def _allowed(facts: ImageFacts) -> dict[str, str]:
    """What a job must allow, so that the prompts are taken as they were."""
    found: dict[str, str] = {}
    if facts.prompt_cut is not None or facts.negative_prompt_cut is not None:
        found["long"] = "cut"
    if found_tag(facts.prompt) or found_tag(facts.negative_prompt):
        found["weights"] = "literal"
    return found


def _conditions(facts: ImageFacts, made: MadeImage) -> None:
    """The pictures that the image was made from, and the networks that they go to."""
    for role, some in _by_role(facts.inputs).items():
        urls = [each.url for each in some if each.url is not None]
        if len(some) > 1 or not urls:
            what = f"{len(some)} pictures" if len(some) > 1 else "a picture that the manifest held"
            made.leave_out(role, what)
        else:
            made.settings[role] = urls[0]
    if len({each.fit for each in facts.inputs} - {"none"}) > 1:
        made.leave_out("inputs.fit", "its pictures were fitted in different ways")
    for setting, networks in (
        ("control_scale", facts.controlnets),
        ("reference_scale", facts.references),
    ):
        for each in networks:
            made.settings[f"{setting}.{each.name}"] = each.scale
            key = "controlnets" if setting == "control_scale" else "references"
            detail = f"{each.name}, SHA-256 {each.sha256[:12]}; name it under model.{key}"
            made.leave_out(f"source of {setting.partition('_')[0]}", detail)


def _by_role(inputs: Iterable[InputInfo]) -> dict[str, list[InputInfo]]:
    found: dict[str, list[InputInfo]] = {}
    for each in inputs:
        found.setdefault(each.role, []).append(each)
    return found
