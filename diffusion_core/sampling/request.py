"""What an image is made from. Importing this loads no framework."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from nightpress.diffusion_core.conditioning.spec import (
    NO_IMAGES,
    TEXT_ALONE,
    ConditionImages,
    Conditioning,
)


@dataclass(frozen=True)
class SamplingParams:
    """The settings that all images of a batch share."""

    width: int
    """Pixels."""
    height: int
    """Pixels."""
    num_inference_steps: int
    guidance_scale: float
    scheduler: str = "default"
    """One of `samplers.SAMPLER_NAMES`."""
    lora: str | None = None
    """Label of the LoRA of `ModelSpec.row_loras` that is active; None for none of them."""
    lora_scale: float | None = None
    """Scale of that LoRA; None for the scale in the job."""
    conditioning: Conditioning = TEXT_ALONE

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `dataclasses.asdict`, also for values of older versions."""
        conditioning = Conditioning.from_dict(values.get("conditioning") or {})
        return cls(**{**values, "conditioning": conditioning})


@dataclass(frozen=True)
class ImageRequest:
    """What one image is made from, beside the settings of its batch."""

    prompt: str
    negative_prompt: str
    """"" for the pipeline's own default."""
    seed: int
    guidance_scale: float | None = None
    """This image's own scale, where `Sampler.supports_per_image_guidance`; None for the batch's."""
    images: ConditionImages = field(default=NO_IMAGES, compare=False)
