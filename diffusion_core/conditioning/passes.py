"""Passes: each image is sampled again, larger, from its own pixels.

A pass resizes the image (Lanczos) and runs it through the model's image mode, with the prompt,
sampler and guidance of the image and a new generator of the same seed. Other pictures, ControlNets
and references condition only the first sampling.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Self

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, model_validator

from nightpress.diffusion_core.conditioning.spec import Pixels
from nightpress.diffusion_core.models.modes import least_strength

MODE = "image"
"""The mode of a model that passes need."""


class PassSpec(BaseModel):
    """A job's choice of one pass."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    scale: Annotated[
        float,
        Field(gt=1, le=8, description="How much larger the image becomes, above 1 and up to 8."),
    ]
    strength: Annotated[
        float,
        Field(gt=0, le=1, description="How much of the noising process it goes through again."),
    ]
    num_inference_steps: Annotated[
        int,
        Field(
            ge=1,
            le=10_000,
            description="Denoising steps at strength 1; of them, the share `strength` is taken.",
        ),
    ]

    @model_validator(mode="after")
    def _takes_a_step(self) -> Self:
        if int(self.num_inference_steps * self.strength) < 1:
            raise ValueError(
                f"{self.num_inference_steps} steps at strength {self.strength:g} leave no step to "
                f"take; use a strength of at least {least_strength(self.num_inference_steps):g}"
            )
        return self


@dataclass(frozen=True)
class Pass:
    """One pass of one image; sizes are in pixels."""

    scale: float
    strength: float
    num_inference_steps: int
    from_width: int
    """The size of the image before the pass."""
    from_height: int
    width: int
    """The size of the image that the pass makes."""
    height: int


def larger(side: int, scale: float, multiple: int) -> int:
    """A side of the image that a pass makes: scaled, and rounded to a multiple.

    Args:
        side: width or height before the pass, in pixels.
        multiple: what the model's widths and heights must be multiples of.
    """
    return math.floor(side * scale / multiple + 0.5) * multiple


def passes_of(
    specs: Sequence[PassSpec], width: int, height: int, multiple: int
) -> tuple[Pass, ...]:
    """The passes of an image that is first sampled at a size."""
    found: list[Pass] = []
    for spec in specs:
        size = larger(width, spec.scale, multiple), larger(height, spec.scale, multiple)
        steps = spec.num_inference_steps
        found.append(Pass(spec.scale, spec.strength, steps, width, height, *size))
        width, height = size
    return tuple(found)


def first_size(passes: Sequence[Pass], width: int, height: int) -> tuple[int, int]:
    """Width and height when an image is first sampled, given those of the finished image."""
    return (passes[0].from_width, passes[0].from_height) if passes else (width, height)


def passes_as_text(passes: Sequence[Pass]) -> str | None:
    """Compact JSON; None if there are no passes."""
    values = [asdict(each) for each in passes]
    return json.dumps(values, separators=(",", ":")) if values else None


def passes_from_text(text: str | None) -> tuple[Pass, ...]:
    """The inverse of `passes_as_text`."""
    return passes_from(json.loads(text)) if text else ()


def passes_from(values: Sequence[dict[str, Any]]) -> tuple[Pass, ...]:
    """From JSON values."""
    return tuple(Pass(**each) for each in values)


def enlarged(pixels: Pixels, width: int, height: int) -> Pixels:
    """An image, (h, w, 3), resized with Lanczos' filter; (height, width, 3)."""
    resized = Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(resized)
