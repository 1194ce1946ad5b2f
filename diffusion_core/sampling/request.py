"""What an image is made from. Importing this loads no framework."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from nightpress.diffusion_core.conditioning.passes import MODE, Pass, enlarged, passes_from
from nightpress.diffusion_core.conditioning.spec import (
    NO_IMAGES,
    TEXT_ALONE,
    ConditionImages,
    Conditioning,
    Pixels,
)


@dataclass(frozen=True)
class SamplingParams:
    """The settings that all images of a batch share."""

    width: int
    """Pixels; with `passes`, when the image is sampled for the first time."""
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
    passes: tuple[Pass, ...] = ()
    """How each image is sampled again, larger."""
    num_frames: int | None = None
    """Frames of each clip; None for still images."""
    fps: float | None = None
    """Frames a second, where they are an input of the model; None for its own default."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `dataclasses.asdict`, also for values of older versions."""
        conditioning = Conditioning.from_dict(values.get("conditioning") or {})
        larger = passes_from(values.get("passes") or ())
        return cls(**{**values, "conditioning": conditioning, "passes": larger})

    @property
    def final_size(self) -> tuple[int, int]:
        """Width and height of the finished image, in pixels."""
        sizes = [(self.width, self.height), *((each.width, each.height) for each in self.passes)]
        return sizes[-1]

    @property
    def work(self) -> Iterator[tuple[int, int, int]]:
        """Width, height and steps of every time that an image, or one frame, is sampled."""
        yield self.width, self.height, _steps_taken(self.num_inference_steps, self.conditioning)
        for each in self.pass_params:
            yield from each.work

    @property
    def cost(self) -> int:
        """Pixels times steps, over every time that an image and each of its frames is sampled."""
        return sum(map(math.prod, self.work)) * (self.num_frames or 1)

    @property
    def pass_params(self) -> Iterator[Self]:
        """The settings of each pass, as those of an image that is made from another."""
        for each in self.passes:
            yield replace(
                self,
                width=each.width,
                height=each.height,
                num_inference_steps=each.num_inference_steps,
                conditioning=Conditioning(MODE, strength=each.strength),
                passes=(),
            )


def _steps_taken(steps: int, conditioning: Conditioning) -> int:
    """The denoising steps that are taken; fewer from an initial image."""
    share = 1.0 if conditioning.strength is None else conditioning.strength
    return max(1, int(steps * share))


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
    to_seed: int | None = None
    """Where a walk ends, in a clip that a model of still images makes; None for `seed`."""
    to_prompt: str | None = None
    """Likewise; None for `prompt`."""
    at: float = 0.0
    """Where a frame of a walk lies, from 0 at its start to 1 at its end; set by `walks`."""


def with_init_image(request: ImageRequest, pixels: Pixels, params: SamplingParams) -> ImageRequest:
    """The request for a pass over an image, (h, w, 3), that was just made."""
    resized = enlarged(pixels, params.width, params.height)
    return replace(request, images=ConditionImages(init_image=resized))
