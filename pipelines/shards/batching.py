"""Batches: planned images grouped by their sampling settings and cut to the batch size."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import pyarrow as pa

from nightpress.diffusion_core.conditioning.passes import first_size, passes_from_text
from nightpress.diffusion_core.conditioning.spec import NO_IMAGES, ConditionImages, Conditioning
from nightpress.diffusion_core.models.modes import MULTIPLY_MODES
from nightpress.diffusion_core.sampling.request import ImageRequest, SamplingParams
from nightpress.pipelines.records import PLAN_SCHEMA, PlannedInput
from nightpress.pipelines.scoring.draws import draw_seed


@dataclass(frozen=True)
class PlannedClip:
    """How an image moves."""

    num_frames: int
    fps: float
    to_prompt: str | None = None
    """The prompt that a walk ends at."""
    to_seed: int | None = None
    model_fps: float | None = None
    """The frames a second that the model is told; None where they are no input of it."""

    @property
    def is_walk(self) -> bool:
        """Whether a model of still images makes it, frame by frame."""
        return self.to_prompt is not None or self.to_seed is not None


STILL = PlannedClip(1, 0.0)


def as_facts(clip: PlannedClip | None) -> dict[str, Any]:
    """The values of an image's facts that say how it moves; none for a still image."""
    values = {} if clip is None else asdict(clip)
    return {name: value for name, value in values.items() if name != "model_fps"}


@dataclass(frozen=True)
class PlannedImage:
    """One row of the plan, without its carried columns."""

    image_id: str
    id: str
    variant: int
    shard: int
    file: str
    prompt: str
    negative_prompt: str
    seed: int
    width: int
    """Pixels of the finished image."""
    height: int
    num_inference_steps: int
    guidance_scale: float
    scheduler: str
    lora: str | None = None
    lora_scale: float | None = None
    conditioning: str | None = None
    """`Conditioning.as_text`."""
    inputs: tuple[PlannedInput, ...] = ()
    """The pictures that it is made from."""
    passes: str | None = None
    """`passes_as_text`."""
    parent: str | None = None
    """The image that it is another variant of, if it was made again."""
    num_chunks: int = 1
    """The chunks of its prompts; see `counted`."""
    clip: PlannedClip | None = None
    """None for a still image."""

    @property
    def params(self) -> SamplingParams:
        """The settings that all images of a batch share."""
        passes = passes_from_text(self.passes)
        width, height = first_size(passes, self.width, self.height)
        return SamplingParams(
            width=width,
            height=height,
            num_inference_steps=self.num_inference_steps,
            guidance_scale=self.guidance_scale,
            scheduler=self.scheduler,
            lora=self.lora,
            lora_scale=self.lora_scale,
            conditioning=Conditioning.from_text(self.conditioning),
            passes=passes,
            num_frames=None if self.clip is None else self.clip.num_frames,
            fps=(self.clip or STILL).model_fps,
        )

    def drawn(self, draw: int) -> Self:
        """The image with the seed of one of its draws; see `scoring.draws`."""
        return replace(self, seed=draw_seed(self.seed, self.id, self.variant, draw))

    def request(self, images: ConditionImages = NO_IMAGES) -> ImageRequest:
        """The part of the sampler's input that differs from image to image.

        Args:
            images: the pictures of `inputs`, decoded.
        """
        return ImageRequest(
            prompt=self.prompt,
            negative_prompt=self.negative_prompt,
            seed=self.seed,
            guidance_scale=self.guidance_scale,
            images=images,
            to_prompt=(self.clip or STILL).to_prompt,
            to_seed=(self.clip or STILL).to_seed,
        )

    def num_together(self, batch_size: int) -> int:
        """How many images like it are sampled together, so that they fill a batch.

        The frames of a walk fill batches by themselves.
        """
        if self.clip is None or not self.clip.is_walk:
            return batch_size
        return max(1, batch_size // self.clip.num_frames)


def counted(
    images: Iterable[PlannedImage], count: Callable[[ImageRequest, SamplingParams], int]
) -> list[PlannedImage]:
    """The images with the number of their prompts' chunks, by which they share batches.

    A batch has as many chunks as its longest prompt, and an image's bits depend on that number.

    Args:
        count: `Sampler.num_chunks`.
    """
    return [replace(image, num_chunks=count(image.request(), image.params)) for image in images]


def planned_images(rows: pa.Table) -> list[PlannedImage]:
    """The rows of a plan table, in order."""
    return [_planned_image(row) for row in rows.select(PLAN_SCHEMA.names).to_pylist()]


def _planned_image(row: dict[str, Any]) -> PlannedImage:
    inputs = tuple(PlannedInput(**each) for each in row["inputs"] or ())
    clip = None if row["clip"] is None else PlannedClip(**row["clip"])
    return PlannedImage(**{**row, "inputs": inputs, "clip": clip})


def shared_settings(settings: SamplingParams, supports_per_image_guidance: bool) -> SamplingParams:
    """The settings by which images are grouped into batches.

    Where a model supports guidance per image, guidance scales may differ within a batch. Guided and
    unguided images still go into different batches, because a guided image is sampled twice.
    """
    is_plain = settings.conditioning.mode in MULTIPLY_MODES and not settings.passes
    if not (supports_per_image_guidance and is_plain):
        return settings
    return replace(settings, guidance_scale=2.0 if settings.guidance_scale > 1 else 1.0)


def batches(
    images: list[PlannedImage],
    size: Callable[[PlannedImage], int],
    supports_per_image_guidance: bool = False,
) -> Iterator[list[PlannedImage]]:
    """Cut images into batches of equal settings; the last batch of each setting may be short.

    Images of equal settings whose prompts have other numbers of chunks count as of other settings.

    The sampler pads a short batch to the full size, so that an image's bits do not depend on how
    many others share its batch.

    Args:
        images: in plan order; LoRAs, and the settings of each LoRA, keep the order of their first
            image.
        size: the batch size for an image; called again for each batch, since it may shrink.
        supports_per_image_guidance: whether guidance scales may differ within a batch.
    """
    groups: dict[tuple[SamplingParams, int, int], list[PlannedImage]] = {}
    for image in images:
        settings = shared_settings(image.params, supports_per_image_guidance)
        groups.setdefault((settings, image.num_chunks, size(image)), []).append(image)
    for members in _by_lora(groups.values()):
        while members:
            together = members[0].num_together(size(members[0]))
            yield members[:together]
            members = members[together:]


def _by_lora(groups: Iterable[list[PlannedImage]]) -> Iterator[list[PlannedImage]]:
    """Order groups so that those with the same LoRA and scale follow each other."""
    by_lora: dict[tuple[str | None, float | None], list[list[PlannedImage]]] = {}
    for members in groups:
        by_lora.setdefault((members[0].lora, members[0].lora_scale), []).append(members)
    for same_lora in by_lora.values():
        yield from same_lora


def with_next(
    cut: Iterable[list[PlannedImage]],
) -> Iterator[tuple[list[PlannedImage], list[PlannedImage]]]:
    """Pair each batch with the one after it, an empty one after the last; reads one ahead."""
    coming = iter(cut)
    batch = next(coming, None)
    while batch is not None:
        following = next(coming, None)
        yield batch, following or []
        batch = following
