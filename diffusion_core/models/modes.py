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
    """Whether it takes reference images: by IP-Adapters, or, if the image is edited, as it is."""
    image_is_edited: bool = False
    """Whether the model edits an image, so that `init_image` is `edit` and not `image`."""
    makes_text: bool = True
    """Whether a prompt alone is enough; not so for models that only edit."""


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
    "StableDiffusionXLPipeline": Family(
        {
            "image": "StableDiffusionXLImg2ImgPipeline",
            "inpaint": "StableDiffusionXLInpaintPipeline",
        }
    ),
    "FluxPipeline": Family({"image": "FluxImg2ImgPipeline", "inpaint": "FluxInpaintPipeline"}),
    # Models that edit images.
    "FluxKontextPipeline": Family({"edit": "FluxKontextPipeline"}, image_is_edited=True),
    "Flux2Pipeline": Family({"edit": "Flux2Pipeline"}, True, image_is_edited=True),
    "Flux2KleinPipeline": Family({"edit": "Flux2KleinPipeline"}, True, image_is_edited=True),
    "Flux2KleinKVPipeline": Family({"edit": "Flux2KleinKVPipeline"}, True, image_is_edited=True),
    "QwenImageEditPipeline": Family(
        {"edit": "QwenImageEditPipeline"}, image_is_edited=True, makes_text=False
    ),
    "QwenImageEditPlusPipeline": Family(
        {"edit": "QwenImageEditPlusPipeline"}, True, image_is_edited=True, makes_text=False
    ),
}
"""Name of a text-to-image class -> its family; a class without one has the mode `text` alone."""

TAKES_ADAPTERS = frozenset({"StableDiffusionPipeline", "StableDiffusionXLPipeline", "FluxPipeline"})
"""Text-to-image classes whose families take IP-Adapters."""

WITHOUT_REFERENCES = frozenset({"FluxControlNetImg2ImgPipeline", "FluxControlNetInpaintPipeline"})
"""Classes that take no IP-Adapter, unlike others of their families."""


def modes_of(
    pipeline_class: str, has_controls: bool = False, has_references: bool = False
) -> tuple[str, ...]:
    """The modes of a model, `text` first if it has it.

    Args:
        pipeline_class: name of the diffusers class in its folder.
        has_controls: whether the job gives it ControlNets.
        has_references: whether the job gives it IP-Adapters.
    """
    family = FAMILIES.get(pipeline_class)
    if family is None:
        return ("text",)
    modes = ["text"] if family.makes_text else []
    for mode in family.classes:
        if has_controls or not mode.endswith("+control"):
            modes.append(mode)
            if mode.startswith("inpaint"):
                modes.append(mode.replace("inpaint", "outpaint"))
    edits_several = family.image_is_edited and family.takes_references
    if edits_several or (has_references and takes_adapters(pipeline_class)):
        modes += [
            f"{mode}+reference"
            for mode in modes
            if class_for(pipeline_class, mode) not in WITHOUT_REFERENCES
        ]
    return tuple(modes)


def class_for(pipeline_class: str, mode: str) -> str:
    """The name of the diffusers class that samples a mode of a model.

    Raises:
        KeyError: the model does not have the mode.
    """
    plain = mode.removesuffix("+reference").replace("outpaint", "inpaint")
    family = FAMILIES.get(pipeline_class)
    if plain == "text" and (family is None or family.makes_text):
        return pipeline_class
    return FAMILIES[pipeline_class].classes[plain]


def takes_adapters(pipeline_class: str) -> bool:
    """Whether IP-Adapters can be loaded into a model."""
    return pipeline_class in TAKES_ADAPTERS
