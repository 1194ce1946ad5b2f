"""What an image is asked for with. Light: importing it loads no framework."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SamplingParams:
    """The settings that all images of a batch share."""

    width: int
    """Pixels."""
    height: int
    num_inference_steps: int
    guidance_scale: float
    scheduler: str = "default"
    """One of `schedulers.SAMPLER_NAMES`."""
    lora: str | None = None
    """The one of `ModelSpec.row_loras` that works on them, by its label."""
    lora_scale: float | None = None
    """How strongly; None for its own scale."""


@dataclass(frozen=True)
class ImageRequest:
    """What one image is made from, beside the settings of its batch."""

    prompt: str
    negative_prompt: str
    """"" for the pipeline's own default."""
    seed: int
    guidance_scale: float | None = None
    """This image's own scale, where `Sampler.supports_per_image_guidance`; else the setting."""
