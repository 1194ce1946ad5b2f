"""A preview: a spread of a job's rows, sampled as the run would sample them, on one sheet."""

from collections.abc import Iterator
from contextlib import contextmanager

import ray
from PIL import Image

from diffusion_core.model import ModelInfo
from jobs.actors import ActorFactory, RemoteActor, Sampled
from jobs.cluster import cluster, remote_value
from jobs.runner import actor_factory, planning_mapper, resolve_batch_size
from pipelines.batching import PlannedImage, planned_images
from pipelines.contact_sheet import contact_sheet
from pipelines.planning import PlanLayout, check, plan_part
from pipelines.spec import RunSpec
from pipelines.storage import find


def preview(spec: RunSpec, num_images: int) -> Image.Image:
    """Sample `num_images` images, evenly spread over the job, onto a contact sheet.

    The whole manifest is validated first; nothing is written. The pixels are those that the run
    itself will make.

    Raises:
        SpecError, ManifestError, ModelError, ClusterError: as `jobs.run` does.
    """
    find(spec.manifests, spec.storage)
    with cluster(spec.cluster):
        factory = actor_factory(spec)
        batch_size = resolve_batch_size(spec, factory.device)
        with _actor(factory) as actor:
            model: ModelInfo = remote_value(actor.describe.remote())
            layout = check(spec, model, batch_size, mapper=planning_mapper(spec))
            images = spread(spec, model, layout, num_images)
            remote_value(actor.load.remote(model.fingerprint, batch_size))
            sampled = list(_sample(actor, images))
    captions = [
        image.prompt if fault is None else f"[{fault}] {image.prompt}"
        for image, (_, fault) in zip(images, sampled, strict=True)
    ]
    return contact_sheet([Image.fromarray(pixels) for pixels, _ in sampled], captions)


def spread(
    spec: RunSpec, model: ModelInfo, layout: PlanLayout, num_images: int
) -> list[PlannedImage]:
    """That many planned images, at even distances over the whole plan."""
    count = min(num_images, layout.num_images)
    picks = [index * layout.num_images // count for index in range(count)]
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
