"""Which modes a pipeline class has, and which diffusers class samples each of them.

A mode says which pictures condition an image. All classes of a family share their components, so
that one set of weights serves every mode.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

PICTURE_MODES = ("image", "inpaint", "outpaint")
"""The modes that begin with a picture of the image's own size, which `strength` changes."""

MULTIPLY_MODES = ("text", *PICTURE_MODES)
"""The modes whose classes only multiply by a guidance scale, where that of `text` does; see
`pipeline_folder.MULTIPLY_BY_GUIDANCE`."""

OUTPAINT_STRENGTH = 1.0
"""The default strength of `outpaint`: what is added has no picture of its own to begin with."""

TAKES_ALL_STEPS = frozenset({"LatentConsistencyModelImg2ImgPipeline"})
"""Classes whose scheduler spreads all steps over what the strength of a picture leaves."""


LCM_STEPS = 50
"""`original_inference_steps` of LCMScheduler: the most steps that it can take, at strength 1."""


@dataclass(frozen=True)
class Family:
    """The diffusers classes over the components of one text-to-image pipeline, by mode.

    `outpaint` is sampled by the class of `inpaint`.
    """

    classes: Mapping[str, str]
    """Mode without references -> name of the class: `image`, `inpaint`, `text+control` ...

    The mode `text` is sampled by the text-to-image class itself."""
    takes_references: bool = False
    """Whether it takes reference images: by IP-Adapters, or, if the image is edited, as it is."""
    image_is_edited: bool = False
    """Whether the model edits an image, so that `init_image` is `edit` and not `image`."""
    makes_text: bool = True
    """Whether a prompt alone is enough; not so for models made for inpainting, or only to edit."""


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
            "text+control": "StableDiffusionXLControlNetPipeline",
            "image+control": "StableDiffusionXLControlNetImg2ImgPipeline",
            "inpaint+control": "StableDiffusionXLControlNetInpaintPipeline",
        },
        takes_references=True,
    ),
    # Left out: the inpainting classes of SD3 and Qwen-Image with ControlNets, which take no initial
    # image and only ControlNets that were trained for inpainting.
    "StableDiffusion3Pipeline": Family(
        {
            "image": "StableDiffusion3Img2ImgPipeline",
            "inpaint": "StableDiffusion3InpaintPipeline",
            "text+control": "StableDiffusion3ControlNetPipeline",
        }
    ),
    "FluxPipeline": Family(
        {
            "image": "FluxImg2ImgPipeline",
            "inpaint": "FluxInpaintPipeline",
            "text+control": "FluxControlNetPipeline",
            "image+control": "FluxControlNetImg2ImgPipeline",
            "inpaint+control": "FluxControlNetInpaintPipeline",
        },
        takes_references=True,
    ),
    "QwenImagePipeline": Family(
        {
            "image": "QwenImageImg2ImgPipeline",
            "inpaint": "QwenImageInpaintPipeline",
            "text+control": "QwenImageControlNetPipeline",
        }
    ),
    "ZImagePipeline": Family(
        {"image": "ZImageImg2ImgPipeline", "inpaint": "ZImageInpaintPipeline"}
    ),
    "ChromaPipeline": Family(
        {"image": "ChromaImg2ImgPipeline", "inpaint": "ChromaInpaintPipeline"}
    ),
    "LatentConsistencyModelPipeline": Family({"image": "LatentConsistencyModelImg2ImgPipeline"}),
    "SanaSprintPipeline": Family({"image": "SanaSprintImg2ImgPipeline"}),
    "StableDiffusionPAGPipeline": Family(
        {
            "image": "StableDiffusionPAGImg2ImgPipeline",
            "inpaint": "StableDiffusionPAGInpaintPipeline",
        }
    ),
    "StableDiffusionXLPAGPipeline": Family(
        {
            "image": "StableDiffusionXLPAGImg2ImgPipeline",
            "inpaint": "StableDiffusionXLPAGInpaintPipeline",
        }
    ),
    # Made for inpainting: the denoiser also sees the mask and the masked picture.
    "StableDiffusionInpaintPipeline": Family(
        {"inpaint": "StableDiffusionInpaintPipeline"}, makes_text=False
    ),
    "StableDiffusionXLInpaintPipeline": Family(
        {"inpaint": "StableDiffusionXLInpaintPipeline"}, makes_text=False
    ),
    "FluxFillPipeline": Family({"inpaint": "FluxFillPipeline"}, makes_text=False),
    # The refiner of SDXL, which conditions on an aesthetic score instead of a target size.
    "StableDiffusionXLImg2ImgPipeline": Family(
        {
            "image": "StableDiffusionXLImg2ImgPipeline",
            "inpaint": "StableDiffusionXLInpaintPipeline",
        },
        makes_text=False,
    ),
    # Models that make clips from a first picture, and perhaps a last one.
    "LTXPipeline": Family({"image": "LTXImageToVideoPipeline"}),
    "CogVideoXImageToVideoPipeline": Family(
        {"image": "CogVideoXImageToVideoPipeline"}, makes_text=False
    ),
    "StableVideoDiffusionPipeline": Family(
        {"image": "StableVideoDiffusionPipeline"}, makes_text=False
    ),
    "WanImageToVideoPipeline": Family(
        {"image": "WanImageToVideoPipeline", "first-last": "WanImageToVideoPipeline"},
        makes_text=False,
    ),
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
"""Name of a text-to-image class -> its family."""

NO_FAMILY = Family({})
"""That of every other class: it has the mode `text` alone."""

ONE_CONTROLNET = frozenset({"QwenImagePipeline"})
"""Text-to-image classes in whose family an image uses one ControlNet, with one or more pictures."""

WITHOUT_REFERENCES = frozenset({"FluxControlNetImg2ImgPipeline", "FluxControlNetInpaintPipeline"})
"""Classes that take no IP-Adapter, unlike others of their families."""


def modes_of(
    pipeline_class: str, has_controls: bool = False, has_references: bool = False
) -> tuple[str, ...]:
    """The modes of a model, `text` first if it has it.

    Args:
        pipeline_class: name of the diffusers class that its folder is loaded as.
        has_controls: whether the job gives it ControlNets.
        has_references: whether the job gives it IP-Adapters.
    """
    family = FAMILIES.get(pipeline_class, NO_FAMILY)
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
    family = FAMILIES.get(pipeline_class, NO_FAMILY)
    if plain == "text" and family.makes_text:
        return pipeline_class
    return family.classes[plain]


def text_to_image_sibling(pipeline_class: str) -> str:
    """The text-to-image class over the components of an image or inpainting class.

    Args:
        pipeline_class: the class that a folder names; returned as it is if it is no such class.
    """
    for name, family in FAMILIES.items():
        siblings = [family.classes.get(mode) for mode in ("image", "inpaint")]
        if family.makes_text and pipeline_class in siblings:
            return name
    return pipeline_class


def samplers_for(samplers: Sequence[str], own_sampler: str, mode: str) -> tuple[str, ...]:
    """Those of a model's samplers that sample a mode.

    diffusers noises a picture for a flow-matching model with `scale_noise`, which the solvers for
    diffusion models do not have.

    Args:
        samplers: those that sample text, as `samplers.compatible_samplers` gives them.
        own_sampler: what `default` stands for.
        mode: such as `inpaint+control`.
    """
    if mode.partition("+")[0] not in PICTURE_MODES or "flow-euler" not in samplers:
        return tuple(samplers)
    solvers = ("dpmsolver++", "dpmsolver-sde", "unipc")
    unfit = {*solvers, *(["default"] if own_sampler in solvers else [])}
    return tuple(name for name in samplers if name not in unfit)


def steps_taken(pipeline_class: str, num_steps: int, strength: float | None) -> int:
    """How many of an image's steps are taken, at least one.

    Source: `get_timesteps` of diffusers' classes that take ControlNets; those of FLUX round up.

    Args:
        pipeline_class: the class that samples it, or its text-to-image class.
        num_steps: `num_inference_steps`.
        strength: of its picture; None if it begins from noise alone.
    """
    if strength is None:
        return num_steps
    share = min(num_steps * strength, num_steps)
    if pipeline_class.startswith("Flux"):
        return num_steps - int(num_steps - share)
    return max(int(share), 1)


def least_strength(num_steps: int, left: int = 1) -> float:
    """The smallest strength, to three digits, that leaves some of so many steps.

    Source: `get_timesteps` of diffusers' classes, which takes `int(num_steps * strength)` steps.

    Args:
        num_steps: the steps of an image from noise alone.
        left: how many must be left, at most `num_steps`.
    """
    scale = 10.0 ** (2 + len(str(num_steps)))
    strength = math.ceil(scale * left / num_steps) / scale
    return strength if int(num_steps * strength) >= left else strength + 1 / scale


def too_many_steps(pipeline_class: str, num_steps: int, strength: float) -> str | None:
    """Why the strength of a picture leaves a class in `TAKES_ALL_STEPS` too few timesteps.

    Source: `LCMScheduler.set_timesteps` of diffusers 0.42.1, which fails then.

    Args:
        pipeline_class: the class that samples it.
        num_steps: `num_inference_steps`.
        strength: of its picture.

    Returns:
        The reason; None if there are enough, or for another class.
    """
    left = int(LCM_STEPS * strength)
    if pipeline_class not in TAKES_ALL_STEPS or num_steps <= left:
        return None
    enough = least_strength(LCM_STEPS, min(num_steps, LCM_STEPS))
    advice = f"a strength of at least {enough:g}, or " if num_steps <= LCM_STEPS else ""
    return (
        f"the strength {strength:g} leaves {left} of {LCM_STEPS} timesteps, fewer than the "
        f"{num_steps} to take; use {advice}fewer steps"
    )


def why_not_editable(pipeline_class: str, width: int, height: int) -> str | None:
    """Why a model that edits images takes no picture of this size; None if it does.

    Source: `Flux2ImageProcessor.check_image_input` of diffusers 0.42.1, which fails then.

    Args:
        pipeline_class: the model's class.
        width, height: of the picture, in pixels.
    """
    short, long = sorted((width, height))
    if not pipeline_class.startswith("Flux2") or (short >= 64 and long <= 8 * short):
        return None
    return (
        f"{width} x {height} pixels, but FLUX.2 takes pictures of at least 64 pixels a side, at "
        "most 8 times as long as wide"
    )


def takes_adapters(pipeline_class: str) -> bool:
    """Whether IP-Adapters can be loaded into a model."""
    family = FAMILIES.get(pipeline_class, NO_FAMILY)
    return family.takes_references and not family.image_is_edited
