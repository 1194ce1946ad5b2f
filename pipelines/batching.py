"""Batches: neighbouring rows of equal sampling settings, never more than a batch holds."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby

import pyarrow as pa

from diffusion_core.requests import ImageRequest, SamplingParams
from pipelines.records import PLAN_SCHEMA


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

    @property
    def params(self) -> SamplingParams:
        """The settings that a whole batch must share."""
        return SamplingParams(
            width=self.width,
            height=self.height,
            num_inference_steps=self.num_inference_steps,
            guidance_scale=self.guidance_scale,
            scheduler=self.scheduler,
        )

    @property
    def request(self) -> ImageRequest:
        """What this image alone asks of the sampler."""
        return ImageRequest(
            prompt=self.prompt, negative_prompt=self.negative_prompt, seed=self.seed
        )


def planned_images(rows: pa.Table) -> list[PlannedImage]:
    """The rows of a plan table, in order."""
    return [PlannedImage(**row) for row in rows.select(PLAN_SCHEMA.names).to_pylist()]


def batches(
    images: list[PlannedImage], size: Callable[[PlannedImage], int]
) -> Iterator[list[PlannedImage]]:
    """Cut runs of equal settings into batches; the last one of each may be short.

    Args:
        images: in order.
        size: how many the batch of an image holds, asked anew for each batch.
    """
    for _, group in groupby(images, key=lambda image: (image.params, size(image))):
        members = list(group)
        while members:
            number = size(members[0])
            yield members[:number]
            members = members[number:]
