"""Checks that a batch can be sampled with its pictures and its strength."""

from collections.abc import Sequence
from typing import Any

from nightpress.diffusion_core import patching
from nightpress.diffusion_core.conditioning.arguments import strength_of
from nightpress.diffusion_core.conditioning.spec import ConditionImages, Conditioning, Pixels
from nightpress.diffusion_core.errors import SettingsError
from nightpress.diffusion_core.models.modes import (
    PICTURE_MODES,
    TAKES_ALL_STEPS,
    least_strength,
    too_many_steps,
)


def check_pictures(
    images: Sequence[ConditionImages], conditioning: Conditioning, size: tuple[int, int]
) -> None:
    """Check that each image has the pictures that its mode needs, and no other.

    Those are the init image, the last image and the mask.

    Args:
        images: the pictures of each image of a batch.
        conditioning: what all images of the batch share.
        size: (width, height) of the images in pixels.

    Raises:
        SettingsError: a picture is missing, is not used, or has another size.
    """
    base = conditioning.base
    needed = {
        "init_image": base in (*PICTURE_MODES, "edit", "first-last"),
        "last_image": base == "first-last",
        "mask_image": base in ("inpaint", "outpaint"),
    }
    for name, is_needed in needed.items():
        for each in images:
            picture: Pixels | None = getattr(each, name)
            if is_needed and picture is None:
                raise SettingsError(f"mode {conditioning.mode} needs a picture {name}")
            if picture is not None and not is_needed:
                raise SettingsError(f"mode {conditioning.mode} does not use a picture {name}")
            if picture is not None and base in (*PICTURE_MODES, "first-last"):
                _check_shape(name, picture, size)


def _check_shape(name: str, picture: Pixels, size: tuple[int, int]) -> None:
    width, height = size
    shape = (height, width) if name == "mask_image" else (height, width, 3)
    if picture.shape != shape or picture.dtype != "uint8":
        raise SettingsError(
            f"{name} has shape {picture.shape} and type {picture.dtype}; an image of {width} x "
            f"{height} pixels needs shape {shape} and type uint8"
        )


def check_strength(conditioning: Conditioning, pipeline_class: Any, steps: int) -> None:
    """Check that the strength leaves a step to take, or as many as the class always takes.

    Args:
        conditioning: of the batch.
        pipeline_class: the class that samples its mode.
        steps: `num_inference_steps`.

    Raises:
        SettingsError: it does not, or is not above 0 and up to 1.
    """
    strength = strength_of(conditioning, pipeline_class)
    if strength is None:
        return
    if not 0 < strength <= 1:
        raise SettingsError(f"strength {strength:g} is not above 0 and up to 1")
    if reason := too_many_steps(pipeline_class.__name__, steps, strength):
        raise SettingsError(reason)
    if pipeline_class.__name__ not in TAKES_ALL_STEPS and int(steps * strength) < 1:
        raise SettingsError(
            f"{steps} steps at strength {strength:g} leave no step to take; use at least "
            f"{least_strength(steps):g}, or more steps"
        )


def check_scheduler(scheduler: Any, pipeline_class: Any, sampler: str) -> None:
    """Check that a scheduler can noise a picture as a pipeline asks for.

    Read against diffusers 0.42.1. Relies on `prepare_latents` calling the scheduler's `scale_noise`
    for flow-matching models.

    Args:
        scheduler: of the batch.
        pipeline_class: the class that samples its mode.
        sampler: the sampler's name.

    Raises:
        SettingsError: it cannot.
    """
    prepare = getattr(pipeline_class, "prepare_latents", None)
    if prepare is None or hasattr(scheduler, "scale_noise"):
        return
    if patching.refers_to(prepare, "scale_noise"):
        raise SettingsError(
            f"scheduler {sampler}: {pipeline_class.__name__} cannot begin with a picture with "
            f"{type(scheduler).__name__}; use flow-euler"
        )
