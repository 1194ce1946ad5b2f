"""Sampling the images of a preview in an actor, without storing them."""

from collections.abc import Iterator, Sequence

import numpy as np

from nightpress.diffusion_core.sampling.sampler import Sampler
from nightpress.pipelines.inputs.preparing import NO_INPUTS
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.shards.batch_inputs import BatchInputs
from nightpress.pipelines.shards.batching import PlannedImage, batches, counted, with_next
from nightpress.pipelines.shards.missing import without


def preview_batches(
    sampler: Sampler, images: Sequence[PlannedImage], spec: RunSpec, url: str, batch_size: int
) -> Iterator[list[tuple[str, np.ndarray, str | None]]]:
    """Sample images; yields, batch by batch, each one's id, its pixels (H, W, 3) and its fault.

    An image whose pictures cannot be read is black.

    Args:
        sampler: of the loaded model.
        images: what to sample.
        spec: the job; says where the pictures are that the images are made from.
        url: URL of the run directory that the job would have.
        batch_size: images in a batch, at most.
    """
    inputs = BatchInputs(spec, url)
    if spec.model.prompts.reads_chunks:
        images = counted(images, sampler.num_chunks)
    cut = batches(list(images), lambda image: batch_size, sampler.supports_per_image_guidance)
    for batch, following in with_next(cut):
        inputs.prefetch(batch)
        inputs.prefetch(following)
        pictures = inputs.take(batch)
        assert pictures is not None  # noqa: S101 - nobody stops it
        yield [(each.image.image_id, _black(each.image), each.error) for each in pictures.failed]
        usable = without(batch, pictures.failed)
        if usable:
            prepared = [pictures.prepared.get(each.image_id, NO_INPUTS) for each in usable]
            pairs = zip(usable, prepared, strict=True)
            requests = [image.request(each.images) for image, each in pairs]
            sampled = sampler.sample(requests, usable[0].params)
            ids = [image.image_id for image in usable]
            yield list(zip(ids, sampled.pixels, sampled.faults, strict=True))
    inputs.close()


def _black(image: PlannedImage) -> np.ndarray:
    """The place of an image that cannot be made; (H, W, 3)."""
    return np.zeros((image.height, image.width, 3), np.uint8)
