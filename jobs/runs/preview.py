"""`preview`: a few varied images, sampled as the run would sample them, on one sheet."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import ray
from PIL import Image

from nightpress.diffusion_core.models.loading import ModelInfo
from nightpress.jobs.cluster.capacity import FIRST_NOTICE_S, Notices, waiting_line
from nightpress.jobs.cluster.connection import cluster, remote_value, room
from nightpress.jobs.dispatch.actor import ActorFactory, RemoteActor, Sampled
from nightpress.jobs.dispatch.batch_size import resolve_batch_size
from nightpress.jobs.progress.events import Message
from nightpress.jobs.runs.column_lines import column_messages
from nightpress.jobs.runs.shared import OnEvent, actor_factory, ignore, planning_mapper
from nightpress.jobs.runs.table_manifest import TableManifest, readable_manifest
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.manifest.columns import column_uses
from nightpress.pipelines.manifest.frames import Frame
from nightpress.pipelines.planning import check, select_images
from nightpress.pipelines.reporting.contact_sheet import contact_sheet
from nightpress.pipelines.shards.batching import PlannedImage, planned_images

POLL_S = 1.0
"""Seconds between two looks at whether a wait must be reported."""


@dataclass(frozen=True)
class PreviewImage:
    """One image of a preview."""

    image: PlannedImage
    pixels: np.ndarray
    """uint8 (H, W, 3)."""
    fault: str | None
    """What is wrong with the pixels; None if nothing is."""


def preview(
    spec: RunSpec,
    num_images: int = 16,
    *,
    by: Sequence[str] | None = None,
    manifest: Frame | None = None,
    on_event: OnEvent = ignore,
) -> Image.Image:
    """Sample images that show the manifest's variety onto a contact sheet, writing nothing.

    The images are chosen so that they show as many values of the columns as possible; columns with
    few values come first. The same job always gives the same images.

    The pixels are the same as in the run, except that their last bits may differ if the run
    measures its batch size. The whole manifest is checked first.

    Args:
        spec: the job.
        num_images: how many images to sample; all of them if the job has fewer.
        by: the columns to spread over, as settings or under their names in the manifest; by default
            the settings except prompt, id and seed, and the carried columns with few values.
        manifest: a pyarrow Table, or a pandas or polars frame, to preview instead of the job's
            `manifest`; see `run`.
        on_event: called with what the manifest's columns are read as.

    Returns:
        The sheet, each image with its prompt below it.

    Raises:
        SpecError, ManifestError, ModelError, StoreError, ClusterError: as `run` raises them.
    """
    table = None if manifest is None else TableManifest.of(manifest)
    with readable_manifest(spec, table) as readable:
        samples = sample_images(readable, num_images, by, on_event)
    captions = [
        sample.image.prompt if sample.fault is None else f"[{sample.fault}] {sample.image.prompt}"
        for sample in samples
    ]
    return contact_sheet([Image.fromarray(sample.pixels) for sample in samples], captions)


def sample_images(
    spec: RunSpec,
    num_images: int,
    by: Sequence[str] | None = None,
    on_event: OnEvent = ignore,
) -> list[PreviewImage]:
    """Sample images that show the values of the manifest's columns; see `preview`."""
    with cluster(spec.cluster):
        factory = actor_factory(spec)
        batch_size = resolve_batch_size(spec, factory.device)
        with _started(factory) as actor:
            model = _described(actor, factory, on_event)
            layout = check(spec, model, batch_size, mapper=planning_mapper(spec))
            for message in column_messages(column_uses(spec, layout.files)):
                on_event(message)
            images = planned_images(select_images(spec, model, layout, num_images, by))
            remote_value(actor.load.remote(model.identity, batch_size))
            by_id = {image.image_id: image for image in images}
            sampled = {
                image_id: PreviewImage(by_id[image_id], pixels, fault)
                for image_id, pixels, fault in _sample(actor, images)
            }
            return [sampled[image.image_id] for image in images]


def _described(actor: RemoteActor, factory: ActorFactory, on_event: OnEvent) -> ModelInfo:
    """The actor's model; while the actor cannot start, says what it needs."""
    pending = actor.describe.remote()
    fits = room(factory.cpus, factory.gpus) > 0
    notices = Notices(time.monotonic(), FIRST_NOTICE_S if fits else 0.0)
    while not ray.wait([pending], timeout=POLL_S, fetch_local=False)[0]:
        if notices.due(time.monotonic()):
            line = waiting_line("the actor of the preview", factory.cpus, factory.gpus)
            on_event(Message(line, warning=not fits))
    model: ModelInfo = remote_value(pending)
    return model


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
