"""`preview`: a few varied images, sampled as the run would sample them, on one sheet."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
from PIL import Image

from nightpress.diffusion_core.conditioning.spec import TEXT
from nightpress.jobs.cluster.connection import cluster, remote_value
from nightpress.jobs.dispatch.actor import NO_SCORERS, RemoteActor
from nightpress.jobs.dispatch.batch_size import resolve_batch_size
from nightpress.jobs.dispatch.first_actor import FirstActor
from nightpress.jobs.dispatch.preview_images import Sampled
from nightpress.jobs.progress.events import Event, Message
from nightpress.jobs.runs.column_lines import column_messages
from nightpress.jobs.runs.input_session import with_input_root
from nightpress.jobs.runs.mode_lines import conditions
from nightpress.jobs.runs.shared import OnEvent, actor_factory, ignore, planning_mapper
from nightpress.jobs.runs.table_manifest import TableManifest, readable_manifest
from nightpress.pipelines.image_files.clips.frames import first_frame
from nightpress.pipelines.job.models_section import MODEL, MODEL_NAME
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.manifest.frames import Frame
from nightpress.pipelines.manifest.job_models import JobModel, ModelInfos, job_models
from nightpress.pipelines.planning import PlanLayout, check, select_images
from nightpress.pipelines.planning.model_comparison import compared_prompts
from nightpress.pipelines.reporting.contact_sheet import CELL, contact_sheet
from nightpress.pipelines.shards.batching import PlannedImage, planned_images
from nightpress.pipelines.storage import Store

Choose = Callable[[ModelInfos, PlanLayout], pa.Table]
"""Chooses images of a job whose manifest is checked; returns rows of its plan."""


@dataclass(frozen=True)
class PreviewImage:
    """One image of a preview."""

    image: PlannedImage
    pixels: np.ndarray
    """uint8 (H, W, 3); (F, H, W, 3) of a clip."""
    fault: str | None
    """What is wrong with the pixels; None if nothing is."""
    model: str | None = None
    """The name of its model, if the job has several."""


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

    The pixels are those of the run, but for their last bits if the run measures its batch size or
    samples faster by `model.speed: auto`. The whole manifest is checked first.

    Args:
        spec: the job.
        num_images: how many images to sample; all of them if the job has fewer.
        by: the columns to spread over, as settings or under their names in the manifest; by default
            those that `planning.select_images` names. `model` alone compares the models of a job
            with several: a row of the sheet for each prompt, and a column for each model.
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
        if compares_models(readable, by):
            return _comparison(readable, num_images, on_event)
        samples = sample_images(readable, num_images, by, on_event)
    pictures = [Image.fromarray(first_frame(sample.pixels)) for sample in samples]
    return contact_sheet(pictures, list(map(caption, samples)))


def compares_models(spec: RunSpec, by: Sequence[str] | None) -> bool:
    """Whether a preview is to compare the models of a job."""
    column = spec.columns.get(MODEL, MODEL)
    named = column if isinstance(column, str) else MODEL if column is None else column.column
    return bool(spec.models) and list(by or ()) in ([MODEL], [named])


def _comparison(spec: RunSpec, num_images: int, on_event: OnEvent) -> Image.Image:
    """A sheet with a row for each prompt and a column for each model."""
    cells: list[tuple[str, str, str | None]] = []

    def choose(infos: ModelInfos, layout: PlanLayout) -> pa.Table:
        compared = compared_prompts(spec, infos, layout, num_images)
        cells.extend(compared.cells())
        return compared.images

    samples = {each.image.image_id: each for each in _sampled(spec, choose, on_event)}
    images, captions = [], []
    for prompt, model, image_id in cells:
        if image_id is None:
            images.append(Image.new("RGB", (8, 8), CELL))
            captions.append(f"{model}: no row has this prompt: {prompt}")
        else:
            images.append(Image.fromarray(first_frame(samples[image_id].pixels)))
            captions.append(caption(samples[image_id]))
    return contact_sheet(images, captions, columns=len(spec.models))


def caption(sample: PreviewImage) -> str:
    """The prompt, after its model, what else conditions it and what is wrong with its pixels."""
    how = conditions(sample.image.params)
    text = sample.image.prompt if how == TEXT else f"{how}: {sample.image.prompt}"
    text = text if sample.model is None else f"{sample.model}: {text}"
    return text if sample.fault is None else f"[{sample.fault}] {text}"


def sample_images(
    spec: RunSpec,
    num_images: int,
    by: Sequence[str] | None = None,
    on_event: OnEvent = ignore,
) -> list[PreviewImage]:
    """Sample images that show the values of the manifest's columns; see `preview`."""

    def choose(infos: ModelInfos, layout: PlanLayout) -> pa.Table:
        return select_images(spec, infos, layout, num_images, by)

    return _sampled(spec, choose, on_event)


def _sampled(spec: RunSpec, choose: Choose, on_event: OnEvent) -> list[PreviewImage]:
    """Sample the images that are chosen of the checked manifest, in the order of the choice."""
    spec = with_input_root(spec)
    with cluster(spec.cluster):
        factory = replace(actor_factory(spec), scorers=NO_SCORERS)
        batch_size = resolve_batch_size(spec, factory.device)
        with _ended(FirstActor(factory, spec.cluster.load_timeout_s, lambda: None)) as first:
            infos = _told(first.start(), on_event)
            layout = check(spec, infos, batch_size, mapper=planning_mapper(spec))
            for message in column_messages(spec, layout.files):
                on_event(message)
            if spec.gates is not None:
                on_event(Message("gates are not applied: each picture is the first draw"))
            chosen = choose(infos, layout)
            sampled: dict[str, PreviewImage] = {}
            for model in job_models(spec, infos):
                images = _images_of(model, chosen)
                if not images:
                    continue
                loading = model.info.identity, batch_size, model.name
                for event in first.finish_loading(first.begin_loading(*loading), *loading):
                    on_event(event)
                by_id = {image.image_id: image for image in images}
                for image_id, pixels, fault in _sample(first.handle, images, model.spec):
                    sampled[image_id] = PreviewImage(by_id[image_id], pixels, fault, model.name)
            return [sampled[image_id] for image_id in chosen.column("image_id").to_pylist()]


def _images_of(model: JobModel, chosen: pa.Table) -> list[PlannedImage]:
    if model.name is not None:
        chosen = chosen.filter(pc.equal(chosen.column(MODEL_NAME), model.name))
    return planned_images(chosen)


def _told(start: Generator[Event, None, ModelInfos], on_event: OnEvent) -> ModelInfos:
    """What is known about the models, which a start returns, once its events are passed on."""
    while True:
        try:
            event = next(start)
        except StopIteration as end:
            infos: ModelInfos = end.value
            return infos
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
