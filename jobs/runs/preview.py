"""A preview: a spread of a job's rows, sampled as the run would sample them, on one sheet."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import ray
from PIL import Image

from nightpress.diffusion_core.models.loading import ModelInfo
from nightpress.diffusion_core.theory.spacing import evenly_spaced
from nightpress.jobs.cluster.connection import cluster, remote_value
from nightpress.jobs.dispatch.actor import ActorFactory, RemoteActor, Sampled
from nightpress.jobs.dispatch.batch_size import resolve_batch_size
from nightpress.jobs.runs.runner import actor_factory, planning_mapper
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.planning import PlanLayout, check, plan_part
from nightpress.pipelines.reporting.contact_sheet import contact_sheet
from nightpress.pipelines.shards.batching import PlannedImage, planned_images
from nightpress.pipelines.storage import find


@dataclass(frozen=True)
class Sample:
    """One image of a preview."""

    image: PlannedImage
    pixels: np.ndarray
    """uint8 (H, W, 3)."""
    fault: str | None


def preview(spec: RunSpec, num_images: int) -> Image.Image:
    """Sample `num_images` images, evenly spread over the job, onto a contact sheet.

    Raises:
        SpecError, ManifestError, ModelError, ClusterError: as `jobs.run` does.
    """
    samples = sample_spread(spec, num_images)
    captions = [
        sample.image.prompt if sample.fault is None else f"[{sample.fault}] {sample.image.prompt}"
        for sample in samples
    ]
    return contact_sheet([Image.fromarray(sample.pixels) for sample in samples], captions)


def sample_spread(spec: RunSpec, num_images: int) -> list[Sample]:
    """Images of a spread of rows, with the pixels that the run itself will make.

    Their last bits may differ where the run measures its batch size. The whole manifest is
    validated first, and nothing is written.
    """
    find(spec.manifests, spec.storage)
    with cluster(spec.cluster):
        factory = actor_factory(spec)
        batch_size = resolve_batch_size(spec, factory.device)
        with _actor(factory) as actor:
            model: ModelInfo = remote_value(actor.describe.remote())
            layout = check(spec, model, batch_size, mapper=planning_mapper(spec))
            images = spread(spec, model, layout, num_images)
            remote_value(actor.load.remote(model.identity, batch_size))
            by_id = {image.image_id: image for image in images}
            made = {
                image_id: Sample(by_id[image_id], pixels, fault)
                for image_id, pixels, fault in _sample(actor, images)
            }
            return [made[image.image_id] for image in images]


def spread(
    spec: RunSpec, model: ModelInfo, layout: PlanLayout, num_images: int
) -> list[PlannedImage]:
    """That many planned images, at even distances over the whole plan."""
    picks = evenly_spaced(range(layout.num_images), num_images, endpoint=False)
    chosen: list[PlannedImage] = []
    start = 0
    for index, part in enumerate(layout.parts):
        inside = [pick - start for pick in picks if start <= pick < start + part.num_images]
        if inside:
            chosen += planned_images(plan_part(spec, model, layout, index).take(inside))
        start += part.num_images
    return chosen


def _sample(actor: RemoteActor, images: list[PlannedImage]) -> Iterator[Sampled]:
    stream = actor.sample.options(num_returns="streaming").remote(images)
    for reference in stream:
        yield from remote_value(reference)


@contextmanager
def _actor(factory: ActorFactory) -> Iterator[RemoteActor]:
    actor = factory.start()
    try:
        yield actor
    finally:
        ray.kill(actor)
