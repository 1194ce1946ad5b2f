"""The arguments of a pipeline's `__call__` that carry the pictures of a batch."""

from collections.abc import Sequence
from typing import Any

from nightpress.diffusion_core.conditioning.spec import ConditionImages, Conditioning, Pixels
from nightpress.diffusion_core.conditioning.uploads import PictureStage
from nightpress.diffusion_core.models.modes import OUTPAINT_STRENGTH, PICTURE_MODES
from nightpress.diffusion_core.models.pipeline_folder import call_default

TAKE_DEVICE = ("StableDiffusion", "Flux")
"""How the classes begin that prepare a picture on the device where it is.

Read against diffusers 0.42.1: they preprocess tensors by `VaeImageProcessor`, and only then move
them. Other classes get pictures in host memory.
"""

IN_0_TO_1 = ("image", "mask_image")
"""The arguments made here whose values are in 0..1."""


def arguments(
    images: Sequence[ConditionImages],
    conditioning: Conditioning,
    device: str = "cpu",
    stage: PictureStage | None = None,
) -> dict[str, Any]:
    """The arguments for a batch; pictures are (B, 3, H, W) float32 in 0..1, masks (B, 1, H, W).

    Args:
        images: the pictures of each image, at their final sizes, as `checking.check` wants them.
        conditioning: what all images of the batch share.
        device: torch's name of where the pictures go; see `device_for`.
        stage: what `join` may have joined them in.
    """
    stage, found = stage or PictureStage(), dict[str, Any]()
    for name, pictures in _pictures(images, conditioning).items():
        found[name] = stage.upload(pictures, device)
    if (strength := strength_of(conditioning)) is not None:
        found["strength"] = strength
    return found


def join(
    images: Sequence[ConditionImages], conditioning: Conditioning, device: str, stage: PictureStage
) -> None:
    """Join the pictures of a later batch in a stage; arguments as for `arguments`."""
    for pictures in _pictures(images, conditioning).values():
        stage.join(pictures, device)


def _pictures(
    images: Sequence[ConditionImages], conditioning: Conditioning
) -> dict[str, list[Pixels]]:
    """Argument -> the pictures, one for each image."""
    found = dict[str, list[Pixels | None]]()
    if conditioning.base in PICTURE_MODES:
        found["image"] = [each.init_image for each in images]
    if conditioning.base in ("inpaint", "outpaint"):
        found["mask_image"] = [each.mask_image for each in images]
    return {name: [e for e in each if e is not None] for name, each in found.items()}


def strength_of(conditioning: Conditioning, pipeline_class: Any = None) -> float | None:
    """The strength of a picture: the batch's own, or else the default of its mode or class.

    Args:
        conditioning: of the batch.
        pipeline_class: samples its mode; None to leave the default to it.
    """
    if conditioning.base not in PICTURE_MODES:
        return None
    if conditioning.strength is not None:
        return conditioning.strength
    if conditioning.base == "outpaint":
        return OUTPAINT_STRENGTH
    default = None if pipeline_class is None else call_default(pipeline_class, "strength")
    return None if default is None else float(default)


def device_for(pipeline_class: str, device: str) -> str:
    """Where the pictures of a batch go before the pipeline prepares them.

    Args:
        pipeline_class: name of the diffusers class that samples the batch.
        device: torch's name of the model's device.
    """
    return device if pipeline_class.startswith(TAKE_DEVICE) else "cpu"
