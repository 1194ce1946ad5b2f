"""Batches: rows of equal sampling settings, never more than a batch holds."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import pyarrow as pa

from nightpress.diffusion_core.sampling.request import ImageRequest, SamplingParams
from nightpress.pipelines.records import PLAN_SCHEMA


@dataclass(frozen=True)
class PlannedImage:
    """One row of the plan, less its carried columns."""

    image_id: str
    id: str
    variant: int
    shard: int
    file: str
    prompt: str
    negative_prompt: str
    seed: int
    width: int
    height: int
    num_inference_steps: int
    guidance_scale: float
    scheduler: str
    lora: str | None = None
    lora_scale: float | None = None

    @property
    def params(self) -> SamplingParams:
        """The settings that a whole batch must share."""
        return SamplingParams(
            width=self.width,
            height=self.height,
            num_inference_steps=self.num_inference_steps,
            guidance_scale=self.guidance_scale,
            scheduler=self.scheduler,
            lora=self.lora,
            lora_scale=self.lora_scale,
        )

    @property
    def request(self) -> ImageRequest:
        """What this image alone asks of the sampler."""
        return ImageRequest(
            prompt=self.prompt,
            negative_prompt=self.negative_prompt,
            seed=self.seed,
            guidance_scale=self.guidance_scale,
        )


def planned_images(rows: pa.Table) -> list[PlannedImage]:
    """The rows of a plan table, in order."""
    return [PlannedImage(**row) for row in rows.select(PLAN_SCHEMA.names).to_pylist()]


def shared_settings(settings: SamplingParams, supports_per_image_guidance: bool) -> SamplingParams:
    """What the images of a batch have in common: all settings, or all but the guidance scale.

    Even then guided images share none with others: each of them is sampled twice.
    """
    if not supports_per_image_guidance:
        return settings
    return replace(settings, guidance_scale=2.0 if settings.guidance_scale > 1 else 1.0)


def batches(
    images: list[PlannedImage],
    size: Callable[[PlannedImage], int],
    supports_per_image_guidance: bool = False,
) -> Iterator[list[PlannedImage]]:
    """Cut images into batches of equal settings; the last one of each setting may be short.

    A short batch is sampled in the shape of a whole one, padded: only so are an image's bits the
    same beside any others.

    Args:
        images: in order; LoRAs, and settings with each, come in that of their first images.
        size: how many the batch of an image holds, asked anew for each batch.
        supports_per_image_guidance: whether images whose guidance scales differ may share one, if all have some.
    """
    groups: dict[tuple[SamplingParams, int], list[PlannedImage]] = {}
    for image in images:
        settings = shared_settings(image.params, supports_per_image_guidance)
        groups.setdefault((settings, size(image)), []).append(image)
    for members in _by_lora(groups.values()):
        while members:
            number = size(members[0])
            yield members[:number]
            members = members[number:]


def _by_lora(groups: Iterable[list[PlannedImage]]) -> Iterator[list[PlannedImage]]:
    """Groups with one LoRA and scale behind each other, so that it is switched once."""
    together: dict[tuple[str | None, float | None], list[list[PlannedImage]]] = {}
    for members in groups:
        together.setdefault((members[0].lora, members[0].lora_scale), []).append(members)
    for alike in together.values():
        yield from alike


def with_the_next(
    cut: Iterable[list[PlannedImage]],
) -> Iterator[tuple[list[PlannedImage], list[PlannedImage]]]:
    """Each batch and the one after it, which is empty after the last; one is asked for ahead."""
    coming = iter(cut)
    batch = next(coming, None)
    while batch is not None:
        following = next(coming, None)
        yield batch, following or []
        batch = following
