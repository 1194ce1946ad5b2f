"""Check embedded metadata before it is used: anybody may have written it."""

import json
from collections.abc import Sequence
from typing import get_args

from pydantic import TypeAdapter, ValidationError

from nightpress.diffusion_core.acceleration.spec import SpeedSpec
from nightpress.diffusion_core.conditioning.passes import Pass
from nightpress.pipelines.inputs.fitting import Fit
from nightpress.pipelines.inputs.preparing import NOT_FITTED
from nightpress.pipelines.job.images_section import MAX_FPS, MAX_SIDE
from nightpress.pipelines.job.sections import MAX_FRAMES
from nightpress.pipelines.manifest.modes import BASES
from nightpress.pipelines.records import ImageFacts

MAXIMUM = {"width": MAX_SIDE, "height": MAX_SIDE, "num_inference_steps": 10_000, "batch_size": 1024}
"""The largest values that embedded metadata may have."""

MAX_LISTED = {"loras": 64, "controlnets": 16, "references": 16, "inputs": 256, "passes": 8}
"""The most entries that its lists may have."""

FITS = (*get_args(Fit), NOT_FITTED)


def require_sound(facts: ImageFacts) -> ImageFacts:
    """Check embedded metadata; returns it.

    Raises:
        ValueError: a value has the wrong type or is out of range.
    """
    try:
        sound = TypeAdapter(ImageFacts).validate_json(json.dumps(facts.as_dict()), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise ValueError(f"invalid embedded metadata: {key}: {first['msg']}") from error
    for name, most in MAXIMUM.items():
        value = getattr(sound, name)
        if not 1 <= value <= most:
            raise ValueError(
                f"invalid embedded metadata: {name} is {value}, but must be from 1 to {most}"
            )
    try:
        SpeedSpec.from_text(sound.speed)
        _require_sound_conditions(sound)
    except ValueError as error:
        raise ValueError(f"invalid embedded metadata: {error}") from error
    return sound


def _require_sound_conditions(facts: ImageFacts) -> None:
    for name, most in MAX_LISTED.items():
        if len(getattr(facts, name)) > most:
            raise ValueError(f"{name}: {len(getattr(facts, name))} entries, but at most {most}")
    base, *extras = facts.mode.split("+")
    if base not in BASES or extras not in (
        [],
        ["control"],
        ["reference"],
        ["control", "reference"],
    ):
        raise ValueError(f"mode: there is no mode {facts.mode!r}")
    if facts.strength is not None and not 0 < facts.strength <= 1:
        raise ValueError(f"strength is {facts.strength:g}, but must be above 0 and up to 1")
    if facts.canvas is not None and not _is_canvas(facts.canvas, facts.width, facts.height):
        raise ValueError(
            f"canvas is {list(facts.canvas)}, but must be 4 numbers that leave some of the image"
        )
    for each in facts.inputs:
        if each.fit not in FITS:
            raise ValueError(f"inputs: there is no fit {each.fit!r}")
    _require_sound_passes(facts.passes, (facts.width, facts.height))
    _require_sound_clip(facts)


def _require_sound_clip(facts: ImageFacts) -> None:
    if facts.num_frames is not None and not 1 <= facts.num_frames <= MAX_FRAMES:
        raise ValueError(f"num_frames is {facts.num_frames}, but must be from 1 to {MAX_FRAMES}")
    if (facts.num_frames is None) != (facts.fps is None):
        raise ValueError("fps: a clip has a number of frames and a frame rate, an image neither")
    if facts.fps is not None and not 0 < facts.fps <= MAX_FPS:
        raise ValueError(f"fps is {facts.fps:g}, but must be above 0 and up to {MAX_FPS:g}")


def _is_canvas(canvas: Sequence[int], width: int, height: int) -> bool:
    if len(canvas) != 4 or min(canvas) < 0:
        return False
    left, top, right, bottom = canvas
    return left + right < width and top + bottom < height


def _require_sound_passes(passes: Sequence[Pass], size: tuple[int, int]) -> None:
    """Check that each pass makes the image larger, and that they end at its size."""
    for each in reversed(passes):
        if (each.width, each.height) != size:
            raise ValueError(
                f"passes: one ends at {each.width} x {each.height}, not {size[0]} x {size[1]}"
            )
        if not (1 <= each.from_width <= each.width and 1 <= each.from_height <= each.height):
            raise ValueError("passes: one begins with a larger image than it ends with")
        if not (0 < each.strength <= 1 and 1 <= each.num_inference_steps <= 10_000):
            raise ValueError(
                "passes: strength must be above 0 and up to 1, and steps from 1 to 10000"
            )
        size = each.from_width, each.from_height
