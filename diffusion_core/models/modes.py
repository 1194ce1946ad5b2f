"""Which modes a pipeline class has, and which diffusers class samples each of them.

A mode says which pictures condition an image. All classes of a family share their components, so
that one set of weights serves every mode.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """The diffusers classes over the components of one text-to-image pipeline, by mode.

    `outpaint` is sampled by the class of `inpaint`.
    """

    classes: Mapping[str, str]
    """Mode without references -> name of the class: `image`, `inpaint`, `text+control` ..."""
    takes_references: bool = False
    """Whether its classes take an IP-Adapter."""
    image_is_edited: bool = False
    """Whether the model edits an image, so that `init_image` is `edit` and not `image`."""


FAMILIES: dict[str, Family] = {
    "StableDiffusionPipeline": Family(
        {
            "image": "StableDiffusionImg2ImgPipeline",
            "inpaint": "StableDiffusionInpaintPipeline",
            "text+control": "StableDiffusionControlNetPipeline",
            "image+control": "StableDiffusionControlNetImg2ImgPipeline",
            "inpaint+control": "StableDiffusionControlNetInpaintPipeline",
        },
        takes_references=True,
    ),
}
"""Name of a text-to-image class -> its family; a class without one has the mode `text` alone."""

CONTROL_CLASSES: dict[str, dict[str, str]] = {
    "StableDiffusionXLPipeline": {
        "text+control": "StableDiffusionXLControlNetPipeline",
        "image+control": "StableDiffusionXLControlNetImg2ImgPipeline",
        "inpaint+control": "StableDiffusionXLControlNetInpaintPipeline",
    },
    "StableDiffusion3Pipeline": {"text+control": "StableDiffusion3ControlNetPipeline"},
    "FluxPipeline": {
        "text+control": "FluxControlNetPipeline",
        "image+control": "FluxControlNetImg2ImgPipeline",
        "inpaint+control": "FluxControlNetInpaintPipeline",
    },
    "QwenImagePipeline": {"text+control": "QwenImageControlNetPipeline"},
}
"""Name of a text-to-image class -> mode -> class, for the modes with ControlNets.

The inpainting classes of SD3 and Qwen-Image are left out: they take no initial image, only
ControlNets that were trained for inpainting."""

ONE_CONTROLNET = frozenset({"QwenImagePipeline"})
"""Text-to-image classes in whose family an image uses one ControlNet, with one or more pictures."""


def modes_of(
    pipeline_class: str, has_controls: bool = False, has_references: bool = False
) -> tuple[str, ...]:
    """The modes of a model, `text` first.

    Args:
        pipeline_class: name of the diffusers class in its folder.
        has_controls: whether the job gives it ControlNets.
        has_references: whether the job gives it IP-Adapters.
    """
    modes = ["text"]
    for mode in _classes(pipeline_class):
        if has_controls or not mode.endswith("+control"):
            modes.append(mode)
            if mode.startswith("inpaint"):
                modes.append(mode.replace("inpaint", "outpaint"))
    family = FAMILIES.get(pipeline_class)
    if has_references and family is not None and family.takes_references:
        modes += [f"{mode}+reference" for mode in modes if "edit" not in mode]
    return tuple(modes)


def class_for(pipeline_class: str, mode: str) -> str:
    """The name of the diffusers class that samples a mode of a model.

    Raises:
        KeyError: the model does not have the mode.
    """
    plain = mode.removesuffix("+reference").replace("outpaint", "inpaint")
    return pipeline_class if plain == "text" else _classes(pipeline_class)[plain]


def _classes(pipeline_class: str) -> dict[str, str]:
    """Mode without references -> name of the class that samples it; without the mode `text`."""
    family = FAMILIES.get(pipeline_class, Family({}))
    return {**family.classes, **CONTROL_CLASSES.get(pipeline_class, {})}
