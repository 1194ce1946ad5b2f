"""Reproduce one image from its embedded metadata, and measure how close the new image comes."""

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
from nightpress.diffusion_core.theory.psnr import image_psnrs_db
from nightpress.pipelines.image_files.encoding import decoded, encode, opened
from nightpress.pipelines.job.sections import ImagesSpec
from nightpress.pipelines.records import ImageFacts

MAXIMUM = {"width": 16_384, "height": 16_384, "num_inference_steps": 10_000, "batch_size": 1024}
"""The largest values that embedded metadata may have."""


@dataclass(frozen=True)
class Reproduction:
    """How a reproduced image compares with the original."""

    same_file: bool
    """Whether the files are equal byte for byte."""
    same_pixels: bool
    max_difference: int
    """The largest difference of any pixel in any channel, out of 255."""
    psnr_db: float | None
    """Peak signal-to-noise ratio; None if the pixels are the same."""

    def __str__(self) -> str:
        """The comparison in words."""
        if self.same_file:
            return "bit-exact: the same file"
        if self.same_pixels:
            return "bit-exact pixels, but a different file"
        return f"differs by at most {self.max_difference} of 255, PSNR {self.psnr_db:.1f} dB"


def reproduce(
    data: bytes, facts: ImageFacts, model: LoadedModel, images: ImagesSpec
) -> tuple[Reproduction, bytes]:
    """Make an image again and compare it with the original.

    Args:
        data: the original image file.
        facts: its embedded metadata.
        model: the model that the metadata names.
        images: format and quality of the new file.

    Returns:
        The comparison and the new file.

    Raises:
        ValueError: the file is not an intact image, or its size is not the one in its metadata.
        ModelError: the image was made with other LoRAs than the model has.
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
        scheduler=_scheduler(facts, model),
        lora=own.name if own else None,
        lora_scale=own.scale if own else None,
    )
    again = encode(sampler.sample([request], params).pixels[0], facts, images)
    return compare(data, again), again


def _scheduler(facts: ImageFacts, model: LoadedModel) -> str:
    """The sampler to use again; metadata may name the model's own scheduler by its class."""
    own = facts.scheduler == model.scheduler_config["_class_name"]
    return "default" if own else facts.scheduler


def own_lora(facts: ImageFacts, num_shared: int) -> LoraInfo | None:
    """The LoRA that the image's own row names, if any.

    Args:
        facts: lists the LoRAs of the run first, then that of the row.
        num_shared: how many LoRAs the run applies to every image.

    Raises:
        ModelError: the image does not have `num_shared` LoRAs and at most one more.
    """
    own = facts.loras[num_shared:]
    if len(facts.loras) < num_shared or len(own) > 1:
        raise ModelError(
            f"the image was made with {len(facts.loras)} LoRAs, but its run applies {num_shared} "
            "to every image and at most one more to the images of a row"
        )
    return own[0] if own else None


def require_sound(facts: ImageFacts) -> ImageFacts:
    """Check embedded metadata, which anybody may have written; returns it.

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
    except ValueError as error:
        raise ValueError(f"invalid embedded metadata: {error}") from error
    return sound


def require_size(data: bytes, facts: ImageFacts) -> None:
    """Check that an image file has the size that its metadata states, without decoding it.

    Raises:
        ValueError: the file is not an image, or has another size.
    """
    with opened(data) as image:
        width, height = image.size
    if (width, height) != (facts.width, facts.height):
        raise ValueError(
            f"the image has {width} x {height} pixels, but its embedded metadata says "
            f"{facts.width} x {facts.height}"
        )


def compare(data: bytes, again: bytes) -> Reproduction:
    """Compare two image files.

    Raises:
        ValueError: the first file is not an intact image, or the sizes differ.
    """
    original, new = _pixels(data), _pixels(again)
    if original.shape != new.shape:
        raise ValueError(
            f"the image has {_size(original)} pixels, but its model makes {_size(new)}"
        )
    largest = int(np.abs(original.astype(np.int16) - new).max())
    return Reproduction(
        same_file=data == again,
        same_pixels=not largest,
        max_difference=largest,
        psnr_db=image_psnrs_db([original], [new])[0] if largest else None,
    )


def _size(pixels: np.ndarray) -> str:
    return f"{pixels.shape[1]} x {pixels.shape[0]}"


def _pixels(data: bytes) -> np.ndarray:
    """(H, W, 3) uint8."""
    return np.asarray(decoded(data).convert("RGB"))
