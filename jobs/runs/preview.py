"""`preview`: a few varied images, sampled as the run would sample them, on one sheet."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import ray
from PIL import Image

from nightpress.diffusion_core.conditioning.spec import TEXT
from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.jobs.cluster.connection import cluster, remote_value
from nightpress.jobs.dispatch.actor import NO_SCORERS, RemoteActor, Sampled
from nightpress.jobs.dispatch.batch_size import resolve_batch_size
from nightpress.jobs.dispatch.first_actor import FirstActor
from nightpress.jobs.progress.events import Event, Message
from nightpress.jobs.runs.column_lines import column_messages
from nightpress.jobs.runs.input_session import with_input_root
from nightpress.jobs.runs.mode_lines import conditions
from nightpress.jobs.runs.shared import OnEvent, actor_factory, ignore, planning_mapper
from nightpress.jobs.runs.table_manifest import TableManifest, readable_manifest
from nightpress.pipelines.image_files.clips.frames import first_frame
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.manifest.frames import Frame
from nightpress.pipelines.planning import check, select_images
from nightpress.pipelines.reporting.contact_sheet import contact_sheet
from nightpress.pipelines.shards.batching import PlannedImage, planned_images
from nightpress.pipelines.storage import Store


@dataclass(frozen=True)
class PreviewImage:
    """One image of a preview."""

    image: PlannedImage
    pixels: np.ndarray
    """uint8 (H, W, 3); (F, H, W, 3) of a clip."""
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
            those that `planning.select_images` names.
        manifest: a pyarrow Table, or a pandas or polars frame, to preview instead of the job's
            `manifest`; see `run`.
        on_event: called with what the manifest's columns are read as, and with what takes long.

    Returns:
        The sheet; below each image are its prompt and, before it, what else conditions it.

    Raises:
        SpecError, ManifestError, ModelError, StoreError, ClusterError: as `run` raises them.
        ClusterError: several actors in a row failed to start.
    """
    table = None if manifest is None else TableManifest.of(manifest)
    with readable_manifest(spec, table) as readable:
        samples = sample_images(readable, num_images, by, on_event)
    captions = [caption(sample) for sample in samples]
    return contact_sheet(
        [Image.fromarray(first_frame(sample.pixels)) for sample in samples], captions
    )


def caption(sample: PreviewImage) -> str:
    """The prompt, after what conditions the image besides it and what is wrong with its pixels."""
    how = conditions(sample.image.params)
    text = sample.image.prompt if how == TEXT else f"{how}: {sample.image.prompt}"
    return text if sample.fault is None else f"[{sample.fault}] {text}"


def sample_images(
    spec: RunSpec,
    num_images: int,
    by: Sequence[str] | None = None,
    on_event: OnEvent = ignore,
) -> list[PreviewImage]:
    """Sample images that show the values of the manifest's columns; see `preview`."""
    spec = with_input_root(spec)
    with cluster(spec.cluster):
        factory = replace(actor_factory(spec), scorers=NO_SCORERS)
        batch_size = resolve_batch_size(spec, factory.device)
        with _ended(FirstActor(factory, spec.cluster.load_timeout_s, lambda: None)) as first:
            model = _told(first.start(), on_event)
            layout = check(spec, model, batch_size, mapper=planning_mapper(spec))
            for message in column_messages(spec, layout.files):
                on_event(message)
            if spec.gates is not None:
                on_event(Message("gates are not applied: each picture is the first draw"))
            images = planned_images(select_images(spec, model, layout, num_images, by))
            loading = first.begin_loading(model.identity, batch_size)
            for event in first.finish_loading(loading, model.identity, batch_size):
                on_event(event)
            by_id = {image.image_id: image for image in images}
            sampled = {
                image_id: PreviewImage(by_id[image_id], pixels, fault)
                for image_id, pixels, fault in _sample(first.handle, images, spec)
            }
            return [sampled[image.image_id] for image in images]


def _told(start: Generator[Event, None, ModelInfo], on_event: OnEvent) -> ModelInfo:
    """The model that a start returns, once its events are passed on."""
    while True:
        try:
            event = next(start)
        except StopIteration as end:
            model: ModelInfo = end.value
            return model
        on_event(event)


def _sample(actor: RemoteActor, images: list[PlannedImage], spec: RunSpec) -> Iterator[Sampled]:
    url = Store(spec.url, spec.storage).url  # the actor has another working folder
    stream = actor.sample.options(num_returns="streaming").remote(images, spec, url)
    for reference in stream:
        yield from remote_value(reference)


@contextmanager
def _ended(first: FirstActor) -> Iterator[FirstActor]:
    """End the actor afterwards, if there is one by then."""
    try:
        yield first
    finally:
        if hasattr(first, "handle"):
            ray.kill(first.handle)
