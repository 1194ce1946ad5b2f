"""Reproduce: one image from what it says of itself, and how near the new one comes.

Knows nothing of runs: the image file is all it is given, and a model that is loaded.
"""

import json
from dataclasses import dataclass

import numpy as np
from pydantic import TypeAdapter, ValidationError

from nightpress.diffusion_core.acceleration.spec import SpeedSpec
from nightpress.diffusion_core.errors import ModelError
from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.models.lora_files import LoraInfo
from nightpress.diffusion_core.sampling.request import ImageRequest, SamplingParams
from nightpress.diffusion_core.sampling.sampler import Sampler
from nightpress.diffusion_core.theory.psnr import psnr_db
from nightpress.pipelines.image_files.encoding import decoded, encode, opened
from nightpress.pipelines.job.sections import ImagesSpec
from nightpress.pipelines.records import ImageFacts

MOST = {"width": 16_384, "height": 16_384, "num_inference_steps": 10_000, "batch_size": 1024}
"""What no image goes beyond."""


@dataclass(frozen=True)
class Reproduction:
    """How an image compares with the one that it was made again as."""

    same_file: bool
    """Byte for byte."""
    same_pixels: bool
    max_difference: int
    """Of 255, over all pixels and channels."""
    psnr_db: float | None
    """Peak signal-to-noise ratio; None where the pixels are the same."""

    def __str__(self) -> str:
        """In words."""
        if self.same_file:
            return "bit-exact: the same file"
        if self.same_pixels:
            return "bit-exact pixels; the file around them differs"
        return f"differs by at most {self.max_difference} of 255, PSNR {self.psnr_db:.1f} dB"


def reproduce(
    data: bytes, facts: ImageFacts, model: LoadedModel, images: ImagesSpec
) -> tuple[Reproduction, bytes]:
    """Make an image again and compare.

    Args:
        data: the image file.
        facts: what it says of itself.
        model: the one that it names.
        images: format and quality of the file.

    Returns:
        The comparison, and the new file.

    Raises:
        ValueError: the file is no whole image, or has another size than it says.
        ModelError: it has other LoRAs than the model.
    """
    require_size(data, facts)
    sampler = Sampler(model, facts.batch_size)
    request = ImageRequest(
        prompt=facts.prompt, negative_prompt=facts.negative_prompt, seed=facts.seed
    )
    own = own_lora(facts, model.row_loras.num_always)
    params = SamplingParams(
        width=facts.width,
        height=facts.height,
        num_inference_steps=facts.num_inference_steps,
        guidance_scale=facts.guidance_scale,
        scheduler=facts.scheduler,
        lora=own.name if own else None,
        lora_scale=own.scale if own else None,
    )
    again = encode(sampler.sample([request], params).pixels[0], facts, images)
    return compare(data, again), again


def own_lora(facts: ImageFacts, num_of_all: int) -> LoraInfo | None:
    """The LoRA that an image's row named, behind those that work on every image of its run.

    Raises:
        ModelError: there are others than these.
    """
    own = facts.loras[num_of_all:]
    if len(facts.loras) < num_of_all or len(own) > 1:
        raise ModelError(
            f"it was made with {len(facts.loras)} LoRAs, and of its run {num_of_all} work on "
            "every image, and one or none on the images of a row"
        )
    return own[0] if own else None


def require_sound(facts: ImageFacts) -> ImageFacts:
    """The facts, which anybody may have written, if they can be those of an image.

    Raises:
        ValueError: a value of another kind, or beyond what any run makes.
    """
    try:
        sound = TypeAdapter(ImageFacts).validate_json(json.dumps(facts.as_dict()), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"what it says of itself is not sound: {place}: {first['msg']}") from error
    for name, most in MOST.items():
        value = getattr(sound, name)
        if not 1 <= value <= most:
            raise ValueError(f"what it says of itself is not sound: {name} {value}, at most {most}")
    try:
        SpeedSpec.from_text(sound.speed)
    except ValueError as error:
        raise ValueError(f"what it says of itself is not sound: {error}") from error
    return sound


def require_size(data: bytes, facts: ImageFacts) -> None:
    """See, before any work, that an image file can be what it says of itself.

    Raises:
        ValueError: it is no image, or has another size.
    """
    with opened(data) as image:
        width, height = image.size
    if (width, height) != (facts.width, facts.height):
        raise ValueError(
            f"it has {width} x {height} pixels, and says that it was made with "
            f"{facts.width} x {facts.height}"
        )


def compare(data: bytes, again: bytes) -> Reproduction:
    """Two image files.

    Raises:
        ValueError: the first is no whole image, or has another size.
    """
    ours, theirs = _pixels(data), _pixels(again)
    if ours.shape != theirs.shape:
        raise ValueError(f"it has {_size(ours)} pixels and was made with {_size(theirs)}")
    difference = np.abs(ours - theirs)
    largest = int(difference.max())
    mean_square = float((difference.astype(np.float64) ** 2).mean())
    return Reproduction(
        same_file=data == again,
        same_pixels=not largest,
        max_difference=largest,
        psnr_db=psnr_db(mean_square) if largest else None,
    )


def _size(pixels: np.ndarray) -> str:
    return f"{pixels.shape[1]} x {pixels.shape[0]}"


def _pixels(data: bytes) -> np.ndarray:
    """(H, W, 3) int16, so that differences fit."""
    return np.asarray(decoded(data).convert("RGB"), dtype=np.int16)
