"""Reproduce one image from its embedded metadata, and measure how close the new image comes."""

from dataclasses import dataclass, replace

import numpy as np

from nightpress.diffusion_core.conditioning.passes import first_size
from nightpress.diffusion_core.conditioning.spec import NO_IMAGES, ConditionImages, Conditioning
from nightpress.diffusion_core.errors import ModelError
from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.models.lora_files import LoraInfo
from nightpress.diffusion_core.sampling.request import ImageRequest, SamplingParams
from nightpress.diffusion_core.sampling.sampler import Sampler
from nightpress.diffusion_core.theory.psnr import image_psnrs_db
from nightpress.pipelines.image_files.clips.frames import frames_sha256, is_clip
from nightpress.pipelines.image_files.clips.reading import frames_in
from nightpress.pipelines.image_files.content_credentials import require_packages
from nightpress.pipelines.image_files.content_credentials.parts import split, with_store
from nightpress.pipelines.image_files.encoding import decoded, encode, opened
from nightpress.pipelines.job.images_section import ImagesSpec
from nightpress.pipelines.job.provenance_section import Embed
from nightpress.pipelines.records import ImageFacts


@dataclass(frozen=True)
class Reproduction:
    """How a reproduced image compares with the original."""

    same_file: bool
    """Whether the files are equal byte for byte."""
    same_pixels: bool
    max_difference: int
    """The largest difference of any pixel in any channel, out of 255."""
    psnr_db: float | None
    """Peak signal-to-noise ratio; None if the pixels are the same. Of a clip, the lowest of any
    frame, as both files show them."""
    same_frames: bool | None = None
    """Whether the raw frames of a clip are those that were recorded; None for a still image."""

    def __str__(self) -> str:
        """The comparison in words."""
        if self.same_file:
            return "bit-exact: the same file"
        if self.same_frames:
            return "bit-exact frames, but a different file; another version of av writes others"
        if self.same_pixels:
            return "bit-exact pixels, but a different file"
        if self.psnr_db is None:
            return "the raw frames differ, but not as the files show them"
        return f"differs by at most {self.max_difference} of 255, PSNR {self.psnr_db:.1f} dB"


@dataclass(frozen=True)
class RecordedInputs:
    """How pictures condition an image, and the pictures; see `recorded_inputs`."""

    conditioning: Conditioning
    pictures: ConditionImages = NO_IMAGES


def reproduce(
    data: bytes,
    facts: ImageFacts,
    model: LoadedModel,
    images: ImagesSpec,
    inputs: RecordedInputs | None = None,
    embed: Embed = "full",
) -> tuple[Reproduction, bytes]:
    """Make an image again and compare it with the original.

    Args:
        data: the original image file.
        facts: its embedded metadata.
        model: the model that the metadata names.
        images: format and quality of the new file.
        inputs: the pictures that it is made from; none by default.
        embed: what the new file has of the metadata.

    Returns:
        The comparison and the new file.

    Raises:
        ValueError: the file is not an intact image, or its size is not the one in its metadata.
        ModelError: the image was made with other LoRAs than the model has.
        SpecError: the image is signed, and the packages that check credentials are missing.
    """
    require_size(data, facts)
    inputs = inputs or RecordedInputs(conditioning_of(facts))
    sampler = Sampler(model, facts.batch_size)
    params = _params(facts, model, inputs.conditioning)
    pixels = sampler.sample([_request(facts, inputs)], params).pixels[0]
    if is_clip(pixels):
        made = replace(facts, frames_sha256=frames_sha256(pixels))
        again = encode(pixels, made, images, embed)
        return compare_clips(data, again, facts.frames_sha256 == made.frames_sha256), again
    again = encode(pixels, facts, images, embed)
    again = signed_like(data, again)
    return compare(data, again), again


def _request(facts: ImageFacts, inputs: RecordedInputs) -> ImageRequest:
    return ImageRequest(
        prompt=facts.prompt,
        negative_prompt=facts.negative_prompt,
        seed=facts.seed,
        images=inputs.pictures,
        to_prompt=facts.to_prompt,
        to_seed=facts.to_seed,
    )


def signed_like(data: bytes, again: bytes) -> bytes:
    """A new file with the credential of the original, if that is valid for it too.

    Equal files get equal credentials from a key, so the key is not needed to say that they are.

    Raises:
        SpecError: the original is signed, and the packages that check credentials are missing.
    """
    parts = split(data)
    if parts is None or parts.unsigned != again:
        return again
    require_packages()
    from nightpress.pipelines.image_files.content_credentials.validation import has_valid_credential

    return with_store(again, parts.store) if has_valid_credential(data) else again


def _params(facts: ImageFacts, model: LoadedModel, conditioning: Conditioning) -> SamplingParams:
    own = own_lora(facts, model.row_loras.num_always)
    width, height = first_size(facts.passes, facts.width, facts.height)
    return SamplingParams(
        width=width,
        height=height,
        num_inference_steps=facts.num_inference_steps,
        guidance_scale=facts.guidance_scale,
        scheduler=_scheduler(facts, model),
        lora=own.name if own else None,
        lora_scale=own.scale if own else None,
        conditioning=conditioning,
        passes=facts.passes,
        num_frames=facts.num_frames,
        fps=facts.fps if model.clips is not None and model.clips.takes_fps else None,
    )


def conditioning_of(facts: ImageFacts) -> Conditioning:
    """How an image was conditioned, as far as its metadata says.

    Raises:
        ValueError: it does not say which reference image goes with which IP-Adapter.
    """
    roles = [each.role for each in facts.inputs if each.role.startswith("reference_image")]
    names = [each.name for each in facts.references]
    if len(names) > 1 and "reference_image" in roles:
        raise ValueError("its metadata does not say which reference image belongs to which adapter")
    counts = [sum(role.endswith(f".{name}") for role in roles) for name in names]
    if len(names) <= 1:
        counts = [len(roles)] if roles else []
    canvas = facts.canvas
    return Conditioning(
        mode=facts.mode,
        strength=facts.strength,
        canvas=None if canvas is None else (canvas[0], canvas[1], canvas[2], canvas[3]),
        controls=tuple(each.name for each in facts.controlnets),
        control_scales=tuple(each.scale for each in facts.controlnets),
        adapters=tuple(names),
        num_references=tuple(counts),
        reference_scales=tuple(each.scale for each in facts.references),
    )


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


def compare_clips(data: bytes, again: bytes, same_frames: bool) -> Reproduction:
    """Compare two files of a clip.

    Args:
        same_frames: whether their raw frames are the same; H.264 does not keep them.

    Raises:
        ValueError: the first file is not an intact clip, or the sizes differ.
        SpecError: they are MP4 files, and what decodes them is not installed.
    """
    if same_frames:
        return Reproduction(data == again, True, 0, None, True)
    original, new = list(frames_in(data)), list(frames_in(again))
    if [each.shape for each in original] != [each.shape for each in new]:
        raise ValueError(
            f"the clip has {len(original)} frames of {_size(original[0])} pixels, but its model "
            f"makes {len(new)} of {_size(new[0])}"
        )
    largest = max(
        int(np.abs(one.astype(np.int16) - two).max())
        for one, two in zip(original, new, strict=True)
    )
    worst = min(image_psnrs_db(original, new)) if largest else None
    return Reproduction(False, False, largest, worst, False)


def _size(pixels: np.ndarray) -> str:
    return f"{pixels.shape[1]} x {pixels.shape[0]}"


def _pixels(data: bytes) -> np.ndarray:
    """(H, W, 3) uint8."""
    return np.asarray(decoded(data).convert("RGB"))
