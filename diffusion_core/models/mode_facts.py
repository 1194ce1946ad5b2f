"""What diffusers' classes say about the modes of a model, before it is loaded."""

from collections.abc import Iterable
from typing import Any

from nightpress.diffusion_core.acceleration.spec import SpeedSpec
from nightpress.diffusion_core.models.modes import (
    OUTPAINT_STRENGTH,
    PICTURE_MODES,
    class_for,
    modes_of,
)
from nightpress.diffusion_core.models.pipeline_folder import call_default

Strengths = tuple[tuple[str, float], ...]
"""Pairs of a mode without references, and its default strength."""


def supported_modes(
    pipeline_class: Any,
    speed: SpeedSpec,
    has_controls: bool = False,
    has_references: bool = False,
) -> tuple[str, ...]:
    """The modes that a model has together with its `model.speed`.

    Args:
        pipeline_class: the class that its folder is loaded as.
        speed: the choices of `model.speed`.
        has_controls, has_references: as for `modes.modes_of`.
    """
    import diffusers

    name = pipeline_class.__name__
    modes = modes_of(name, has_controls, has_references)
    if not speed.caches:
        return modes
    from nightpress.diffusion_core.acceleration.apply import unsupported_by

    return tuple(
        mode
        for mode in modes
        if class_for(name, mode) == name
        or unsupported_by(getattr(diffusers, class_for(name, mode)), speed) is None
    )


def default_strengths(pipeline_class: Any, modes: Iterable[str]) -> Strengths:
    """The strength of a picture without one of its own, for each mode that has a strength.

    Args:
        pipeline_class: the class that the model's folder is loaded as.
        modes: those of the model.
    """
    import diffusers

    found = []
    for mode in modes:
        base = mode.partition("+")[0]
        if base not in PICTURE_MODES or mode.endswith("+reference"):
            continue
        owner = getattr(diffusers, class_for(pipeline_class.__name__, mode))
        strength = OUTPAINT_STRENGTH if base == "outpaint" else call_default(owner, "strength")
        if strength is not None:
            found.append((mode, float(strength)))
    return tuple(found)
