"""Sorts images by what a job says of all of its rows, and writes these jobs."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, get_args

from nightpress.diffusion_core.models.prompt_syntax import found_tag
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.pipelines.image_files.importing.made_image import MadeImage, UsedLora, merged
from nightpress.pipelines.job.spec import RunSpec

_LORA_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,127}")

BRACKETS = re.compile(r"[()\[\]\\]|\bBREAK\b")
"""Matches prompts that A1111 and ComfyUI do not take as mere text."""

UNNAMED_MODEL = "unnamed-model"
"""The model in a job whose images name none, so that no run begins with another one."""

LONG_PROMPT_CHARS = 250
"""Some prompts from this length on are longer than CLIP reads at once."""


@dataclass(frozen=True)
class Replacements:
    """Where the person says that models and LoRAs lie."""

    model: str | None = None
    """The source of the model of all images."""
    loras: str | None = None
    """The folder or URL with LoRAs."""

    def lora_source(self, lora: UsedLora) -> str:
        """Where a LoRA is looked for."""
        folder = "" if self.loras is None else f"{self.loras.rstrip('/')}/"
        return f"{folder}{lora.name}.safetensors"


@dataclass
class Group:
    """Images that one job can make."""

    images: list[MadeImage] = field(default_factory=list)

    @property
    def model(self) -> str | None:
        """What the images call their model."""
        return self.images[0].model


def grouped(images: Sequence[MadeImage], replacements: Replacements) -> list[Group]:
    """The images by what only a job can say, the largest group first."""
    groups: dict[str, Group] = {}
    for made in images:
        groups.setdefault(_key(made, replacements), Group()).images.append(made)
    return sorted(groups.values(), key=lambda group: -len(group.images))


def _key(made: MadeImage, replacements: Replacements) -> str:
    """What images must share to be made by one job."""
    several = [(each.name, each.scale) for each in made.loras] if len(made.loras) > 1 else []
    passes = [each.model_dump() for each in made.passes]
    model = replacements.model or made.model
    values = [made.reads_weights, made.is_flow, model, made.clip_skip, several, passes, made.job]
    return json.dumps(values, sort_keys=True)


def row_lora(made: MadeImage) -> UsedLora | None:
    """The LoRA that a row names; several are on every image of a job."""
    return made.loras[0] if len(made.loras) == 1 else None


def lora_label(lora: UsedLora) -> str:
    """The name of a LoRA in a job, without characters that a job does not take."""
    if _LORA_NAME.fullmatch(lora.name):
        return lora.name
    label = re.sub(r"[^A-Za-z0-9 ._-]+", "-", lora.name).strip(" ._-")[:100]
    return label or "lora"


def job_of(group: Group, manifest: str, replacements: Replacements) -> dict[str, Any]:
    """The job that makes the images of a group.

    Notes what of their prompts and encoders the job cannot say.

    Args:
        group: the images.
        manifest: the URL of their rows, as the job is to name it.
        replacements: where models and LoRAs lie.
    """
    first = group.images[0]
    stem = re.sub(r"\.[^.]+$", "", PurePosixPath(manifest).name)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("._-")[:128] or "imported"
    source = replacements.model or first.model or UNNAMED_MODEL
    model: dict[str, Any] = {"source": source} | _loras(group, replacements)
    if prompts := _prompts(group):
        model["prompts"] = prompts
    job: dict[str, Any] = {} if name == stem else {"name": name}
    job |= {"manifest": manifest, "output": "runs", **merged({"model": model}, first.job)}
    if first.passes:
        job["passes"] = [each.model_dump() for each in first.passes]
    RunSpec.from_dict({"name": name} | job)  # what is written can be read
    return job


def _loras(group: Group, replacements: Replacements) -> dict[str, Any]:
    """LoRAs that rows name, or those on every image."""
    first = group.images[0]
    if len(first.loras) > 1:
        return {"loras": [_lora(each, replacements) for each in first.loras]}
    named = {each.name: each for made in group.images if (each := row_lora(made))}
    found = [{**_lora(each, replacements), "scale": 1.0} for each in named.values()]
    return {"row_loras": found} if found else {}


def _lora(lora: UsedLora, replacements: Replacements) -> dict[str, Any]:
    source = replacements.lora_source(lora)
    return {"source": source, "name": lora_label(lora), "scale": lora.scale}


def _prompts(group: Group) -> dict[str, Any]:
    """How the job must read the prompts, so that they mean what they did."""
    known = type(ModelSpec().prompts).model_fields
    found: dict[str, Any] = {}
    for made in group.images:
        found |= made.allows
    weights = set(get_args(known["weights"].annotation))
    bracketed = [made for made in group.images if made.reads_weights and _has_brackets(made)]
    if bracketed and "a1111" in weights and not group.images[0].is_flow:
        found["weights"] = "a1111"
        for made in bracketed:
            if made.program == "ComfyUI":
                detail = "ComfyUI takes [words] as they are, and scales weighted ones otherwise"
                made.differs("weights", detail)
    elif any(found_tag(text) for made in bracketed for text in _texts(made)):
        found["weights"] = "literal"
        for made in bracketed:
            made.leave_out("weights", "brackets and weights in its prompts are taken as text")
    found |= _long(group, set(get_args(known["long"].annotation)))
    skip = group.images[0].clip_skip
    if skip is not None and "clip_skip" in known:
        found["clip_skip"] = skip - 1
    elif skip is not None:
        for made in group.images:
            made.leave_out("clip skip", skip)
    return found


def _long(group: Group, allowed: set[str]) -> dict[str, Any]:
    """Prompts in chunks, if the job knows them and some may need them."""
    if "chunks" not in allowed or group.images[0].is_flow or not group.images[0].reads_weights:
        return {}
    texts = (text for made in group.images for text in _texts(made))
    return {"long": "chunks"} if any(len(text) >= LONG_PROMPT_CHARS for text in texts) else {}


def _texts(made: MadeImage) -> list[str]:
    return [str(made.settings.get(name, "")) for name in ("prompt", "negative_prompt")]


def _has_brackets(made: MadeImage) -> bool:
    return any(BRACKETS.search(text) for text in _texts(made))
