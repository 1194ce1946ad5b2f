"""Control images of a batch: which ControlNets take them, and the arguments of a call with them."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from nightpress.diffusion_core.conditioning import canny
from nightpress.diffusion_core.conditioning.spec import ConditionImages, Conditioning, Pixels
from nightpress.diffusion_core.conditioning.uploads import PictureStage
from nightpress.diffusion_core.errors import SettingsError
from nightpress.diffusion_core.models.controlnet_spec import ControlNetSpec
from nightpress.diffusion_core.models.controlnets import ControlNet
from nightpress.diffusion_core.models.modes import ONE_CONTROLNET
from nightpress.diffusion_core.models.pipeline_folder import call_parameters

ENCODED = ("Flux", "QwenImage", "StableDiffusion3")
"""How the classes begin whose VAE encodes control images: they take tensors in -1..1, and use them
as they are. The other classes take 0..1."""


def used_by(controlnets: Sequence[ControlNet], names: Sequence[str]) -> list[ControlNet]:
    """The ControlNets of a batch, in the order of its control images.

    Args:
        controlnets: those of the model.
        names: `Conditioning.controls`.

    Raises:
        SettingsError: the model does not have one of them.
    """
    known = {each.spec.label: each for each in controlnets}
    if unknown := [name for name in names if name not in known]:
        raise SettingsError(
            f"there is no ControlNet {unknown[0]!r}; the model has: {', '.join(known) or 'none'}"
        )
    return [known[name] for name in names]


def check(
    controlnets: Sequence[ControlNet],
    images: Sequence[ConditionImages],
    conditioning: Conditioning,
    size: tuple[int, int],
) -> None:
    """Check that each image of a batch has one control image for each ControlNet.

    Args:
        controlnets: those of the model.
        images: the pictures of each image.
        conditioning: what all images share.
        size: (width, height) of the images in pixels.

    Raises:
        SettingsError: a ControlNet, its scale or its picture is missing, or there is one too many,
            or the mode is one without ControlNets.
    """
    number = len(used_by(controlnets, conditioning.controls))
    if len(conditioning.control_scales) != number:
        raise SettingsError(f"{len(conditioning.control_scales)} scales for {number} ControlNets")
    if ("+control" in conditioning.mode) != bool(number):
        raise SettingsError(f"mode {conditioning.mode} with {number} ControlNets")
    shape = (size[1], size[0], 3)
    for each in images:
        if len(each.control_images) != number:
            raise SettingsError(f"{len(each.control_images)} pictures for {number} ControlNets")
        for picture in each.control_images:
            if picture.shape != shape or picture.dtype != np.uint8:
                raise SettingsError(
                    f"a control image has shape {picture.shape} and type {picture.dtype}; this "
                    f"image needs shape {shape} and type uint8"
                )


def check_steps(
    controlnets: Sequence[ControlNet], names: Sequence[str], taken: int, sampler: str
) -> None:
    """Check that each ControlNet of a batch acts on a step; diffusers would leave it out silently.

    Args:
        controlnets: those of the model.
        names: `Conditioning.controls`.
        taken, sampler: as for `ControlNetSpec.why_idle`.

    Raises:
        SettingsError: one of them acts on none.
    """
    for each in used_by(controlnets, names):
        if reason := each.spec.why_idle(taken, sampler):
            raise SettingsError(reason)


def component(pipeline_class: str, used: Sequence[ControlNet]) -> Any:
    """The component `controlnet` of a pipeline: a network, or several as one.

    Several pictures for one union ControlNet go through it together, as it was trained; next to
    another ControlNet it counts once for each of its pictures.

    Args:
        pipeline_class: the model's text-to-image class.
        used: the ControlNets, at least one.

    Raises:
        SettingsError: the class takes one ControlNet at a time.
    """
    from diffusers import QwenImageMultiControlNetModel

    nets = [each.network for each in used]
    is_one = all(net is nets[0] for net in nets)
    if len(nets) == 1 or (used[0].is_union and is_one):
        return nets[0]
    if pipeline_class in ONE_CONTROLNET:
        if not is_one:
            raise SettingsError(f"{pipeline_class} takes one ControlNet for an image")
        return QwenImageMultiControlNetModel(nets[:1])
    return nets


def class_name(name: str, used: Sequence[ControlNet]) -> str:
    """The class that samples a mode with these ControlNets; SDXL's union ones have their own."""
    is_union = any(each.is_union for each in used)
    return name.replace("ControlNet", "ControlNetUnion") if is_union else name


def arguments(
    pipeline: Any,
    used: Sequence[ControlNet],
    images: Sequence[ConditionImages],
    conditioning: Conditioning,
    device: str = "cpu",
    stage: PictureStage | None = None,
) -> dict[str, Any]:
    """The arguments of a call that carry the control images of a batch.

    Args:
        pipeline: the one that is called.
        used: its ControlNets; if there are none, neither are there arguments.
        images: the pictures of each image.
        conditioning: what all images share.
        device: torch's name of where the pictures go; see `arguments.device_for`.
        stage: what `join` may have joined them in.
    """
    if not used:
        return {}
    accepted, specs = call_parameters(type(pipeline)), [each.spec for each in used]
    stage = stage or PictureStage()
    uploaded = (
        stage.upload(pictures, device, partial(_prepared, spec=spec), spec)
        for pictures, spec in zip(_pictures(images, len(used)), specs, strict=True)
    )
    pictures = [_in_range(pipeline, each) for each in uploaded]
    values: dict[str, Sequence[Any]] = {
        "control_image" if "control_image" in accepted else "image": pictures,
        "controlnet_conditioning_scale": list(map(float, conditioning.control_scales)),
        "control_guidance_start": [spec.control_guidance_start for spec in specs],
        "control_guidance_end": [spec.control_guidance_end for spec in specs],
    }
    if "control_mode" in accepted:
        values["control_mode"] = [spec.control_mode for spec in specs]
    return {name: value if len(used) > 1 else value[0] for name, value in values.items()}


def _prepared(pictures: Sequence[Pixels], spec: ControlNetSpec) -> list[Pixels]:
    """Pictures as control images; one that stands in a batch several times is prepared once."""
    if spec.preprocess != "canny":
        return list(pictures)
    distinct = {id(picture): picture for picture in pictures}
    made = {
        key: canny.edges(picture, spec.low_threshold, spec.high_threshold)
        for key, picture in distinct.items()
    }
    return [made[id(picture)] for picture in pictures]


def join(
    used: Sequence[ControlNet], images: Sequence[ConditionImages], device: str, stage: PictureStage
) -> None:
    """Prepare the control images of a later batch, and join them; arguments as for `arguments`."""
    specs = [each.spec for each in used]
    for pictures, spec in zip(_pictures(images, len(used)), specs, strict=True):
        stage.join(pictures, device, partial(_prepared, spec=spec), spec)


def _pictures(images: Sequence[ConditionImages], number: int) -> list[list[Pixels]]:
    """The pictures for each ControlNet, one for each image."""
    return [[each.control_images[index] for each in images] for index in range(number)]


def _in_range(pipeline: Any, values: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W) of values in 0..1, in the range that the pipeline takes."""
    return 2 * values - 1 if type(pipeline).__name__.startswith(ENCODED) else values
