"""`preview`: images of evenly spread rows, sampled as the run would sample them, on one sheet."""

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
from nightpress.jobs.runs.shared import actor_factory, planning_mapper
from nightpress.jobs.runs.table_manifest import readable_manifest
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.manifest.frames import Frame
from nightpress.pipelines.planning import PlanLayout, check, plan_part
from nightpress.pipelines.reporting.contact_sheet import contact_sheet
from nightpress.pipelines.shards.batching import PlannedImage, planned_images


@dataclass(frozen=True)
class PreviewImage:
    """One image of a preview."""

    image: PlannedImage
    pixels: np.ndarray
    """uint8 (H, W, 3)."""
    fault: str | None
    """What is wrong with the pixels; None if nothing is."""


def preview(spec: RunSpec, num_images: int = 16, *, manifest: Frame | None = None) -> Image.Image:
    """Sample images of evenly spread rows onto a contact sheet, without writing anything.

    The pixels are the same as in the run, except that their last bits may differ if the run
    measures its batch size. The whole manifest is checked first.

    Args:
        spec: the job.
        num_images: how many images to sample; all of them if the job has fewer.
        manifest: a pyarrow Table, or a pandas or polars frame, to preview instead of the job's
            `manifest`; see `run`.

    Returns:
        The sheet, each image with its prompt below it.

    Raises:
        SpecError, ManifestError, ModelError, StoreError, ClusterError: as `run` raises them.
    """
    with readable_manifest(spec, manifest) as readable:
        samples = sample_evenly(readable, num_images)
    captions = [
        sample.image.prompt if sample.fault is None else f"[{sample.fault}] {sample.image.prompt}"
        for sample in samples
    ]
    return contact_sheet([Image.fromarray(sample.pixels) for sample in samples], captions)


def sample_evenly(spec: RunSpec, num_images: int) -> list[PreviewImage]:
    """Sample images that are evenly spread over a job's plan, in plan order."""
    with cluster(spec.cluster):
        factory = actor_factory(spec)
        batch_size = resolve_batch_size(spec, factory.device)
        with _started(factory) as actor:
            model: ModelInfo = remote_value(actor.describe.remote())
            layout = check(spec, model, batch_size, mapper=planning_mapper(spec))
            images = _evenly_spread(spec, model, layout, num_images)
            remote_value(actor.load.remote(model.identity, batch_size))
            by_id = {image.image_id: image for image in images}
            sampled = {
                image_id: PreviewImage(by_id[image_id], pixels, fault)
                for image_id, pixels, fault in _sample(actor, images)
            }
            return [sampled[image.image_id] for image in images]


def _evenly_spread(
    spec: RunSpec, model: ModelInfo, layout: PlanLayout, num_images: int
) -> list[PlannedImage]:
    """Planned images at even distances over the whole plan."""
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
def _started(factory: ActorFactory) -> Iterator[RemoteActor]:
    actor = factory.start()
    try:
        yield actor
    finally:
        ray.kill(actor)
