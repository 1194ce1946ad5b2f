"""The batch sizes of a run: what its job asks for, if that fits in memory, or what is measured.

They are decided once, with the first actor, before the run's record is written.
"""

import time
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from nightpress.diffusion_core.conditioning.edits import samples_alone
from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.diffusion_core.models.pipeline_folder import MULTIPLY_BY_GUIDANCE
from nightpress.diffusion_core.sampling.request import SamplingParams
from nightpress.diffusion_core.tuning.batch_size import Ending, padding_efficiency
from nightpress.jobs.progress.events import Event, Message
from nightpress.pipelines.formatting import plural
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.manifest.job_models import ModelInfos, job_models
from nightpress.pipelines.planning import PlanLayout
from nightpress.pipelines.planning.batch_sizes import (
    STEPS_WORTH_MEASURING,
    BatchSizes,
    ImageKind,
    MeasuredKind,
    num_steps,
    settings_to_measure,
)
from nightpress.pipelines.planning.layout import SettingsCount
from nightpress.pipelines.run_directory.run_models import AnyBatchSizes
from nightpress.pipelines.shards.batching import shared_settings

if TYPE_CHECKING:  # they import Ray, which `plan` does not need
    from nightpress.jobs.dispatch.actor import ActorFactory
    from nightpress.jobs.dispatch.first_actor import FirstActor

AUTO_BATCH_SIZE = {"cpu": 4, "cuda": 8}
"""The batch size of `batch.size: auto` by device, where it is not measured."""

MEASURING_S, KIND_S = 60.0, 30.0
"""The most seconds for all measurements together, and for one kind of image."""

PADDING_WARNING_SHARE = 0.5
"""The share of padding in all sampled images above which a warning is given."""

LARGE_FACTOR = 4
"""A batch size above this many times the usual one is checked against the memory."""


def resolve_batch_size(spec: RunSpec, device: str) -> int:
    """`batch.size`, or the fixed size that `auto` stands for where nothing is measured."""
    return AUTO_BATCH_SIZE[device] if spec.batch.size == "auto" else spec.batch.size


def decide_sizes_of_models(
    spec: RunSpec, infos: ModelInfos, layout: PlanLayout, first: "FirstActor"
) -> Generator[Event, None, AnyBatchSizes]:
    """Decide the batch sizes of a new run, and make sure that all models load that it uses.

    The only model of a job is loaded already. Several are loaded one after the other, the one with
    the most images last.

    Raises:
        ModelError: a model cannot be loaded.
        ClusterError: several actors in a row were lost.
    """
    if isinstance(infos, ModelInfo):
        return (yield from decide_batch_sizes(spec, infos, layout, first))
    usual = resolve_batch_size(spec, first.factory.device)
    sizes = dict.fromkeys(infos, BatchSizes(usual))
    for name in (name for name in infos if name not in layout.models):
        yield Message(f"no row names the model {name}", warning=True)
    used = [model for model in job_models(spec, infos) if model.name in layout.models]
    for model in sorted(used, key=lambda each: layout.of_model(each.name).num_images):
        loading = model.info.identity, usual, model.name
        yield from first.finish_loading(first.begin_loading(*loading), *loading)
        own = layout.of_model(model.name)
        sizes[model.name or ""] = yield from decide_batch_sizes(model.spec, model.info, own, first)
    return sizes


def largest_of(sizes: AnyBatchSizes) -> int:
    """The largest batch size of any kind of image and any model."""
    if isinstance(sizes, Mapping):
        return max(each.largest for each in sizes.values())
    return sizes if isinstance(sizes, int) else sizes.largest


def sizes_by_model(sizes: AnyBatchSizes) -> dict[str, int]:
    """The largest batch size of each of several models; empty for a single one."""
    if not isinstance(sizes, Mapping):
        return {}
    return {name: each.largest for name, each in sizes.items()}


def decide_batch_sizes(
    spec: RunSpec, model: ModelInfo, layout: PlanLayout, first: "FirstActor"
) -> Generator[Event, None, BatchSizes]:
    """Decide the batch sizes of one model of a new run, which the first actor has loaded.

    On an accelerator a batch that does not fit raises an error and is halved during the run. On a
    CPU it would end its process, so the memory of an unusually large one is predicted beforehand.
    """
    device = first.factory.device
    usual = resolve_batch_size(spec, device)
    if spec.batch.size == "auto":
        return (yield from _measure(spec, model, layout, first, usual))
    sizes = BatchSizes(usual)
    batched = _in_batches(layout, model)
    counts = list(_group_sizes(layout, model).values())
    if not counts:
        return sizes
    if device == "cpu" and usual > LARGE_FACTOR * AUTO_BATCH_SIZE[device]:
        sizes = yield from _fit_in_memory(spec, batched, first, usual, max(counts))
    yield from _padding_warning(counts, sizes.largest)
    return sizes


def _measure(
    spec: RunSpec, model: ModelInfo, layout: PlanLayout, first: "FirstActor", usual: int
) -> Generator[Event, None, BatchSizes]:
    """Measure the best batch size of each kind of image that has enough denoising steps."""
    kinds = settings_to_measure(_in_batches(layout, model))
    if not kinds:
        yield Message(
            f"batch.size auto: {usual}, not measured: that needs at least "
            f"{STEPS_WORTH_MEASURING:,} denoising steps, and this run has "
            f"{num_steps(_in_batches(layout, model)):,}"
        )
    found: list[MeasuredKind] = []
    group_sizes = _group_sizes(layout, model)
    share, end_at = memory_share(spec, first.factory), time.monotonic() + MEASURING_S
    for settings in kinds:
        left_s = min(KIND_S, end_at - time.monotonic())
        if left_s <= 0:
            break
        kind = ImageKind.of(settings)
        counts = [size for group, size in group_sizes.items() if ImageKind.of(group) == kind]
        best = yield from first.measure(
            first.handle.find_best_batch_size.remote(settings, counts, usual, share, left_s)
        )
        if best is None:
            break
        found.append(MeasuredKind(kind, best))
        yield Message(
            f"batch.size auto: {best.batch_size} for {kind.name}; {best.ending.explanation}"
        )
    sizes = BatchSizes.from_measurements(found) if found else BatchSizes(usual)
    yield from _not_measured(kinds[len(found) :], sizes)
    return sizes


def _not_measured(kinds: Sequence[SamplingParams], sizes: BatchSizes) -> Iterator[Event]:
    """Say what becomes of kinds of images that measuring did not come to."""
    how = "derived from the most similar kind" if sizes.measured else "the usual size"
    for kind in map(ImageKind.of, kinds):
        yield Message(
            f"batch.size auto: {sizes.of(kind)} for {kind.name}, which was not measured; {how}"
        )


def _fit_in_memory(
    spec: RunSpec,
    batched: Sequence[SettingsCount],
    first: "FirstActor",
    wanted: int,
    largest_group: int,
) -> Generator[Event, None, BatchSizes]:
    """The wanted batch size, halved until it fits in memory.

    If it was halved at all, it is halved further while a batch still holds the largest group.
    """
    heaviest = max((each.settings for each in batched), key=lambda s: ImageKind.of(s).weight)
    share = memory_share(spec, first.factory)
    pending = first.handle.largest_fitting.remote(heaviest, wanted, share)
    largest = yield from first.measure(pending)
    if largest is None or largest.ending is not Ending.MEMORY:
        return BatchSizes(wanted)
    size = largest.batch_size
    while size // 2 >= largest_group:
        size //= 2
    yield Message(
        f"batch.size: a batch of {wanted:,} images would not fit in the memory of an actor; using "
        f"{size:,}",
        warning=True,
    )
    return BatchSizes(size)


def _in_batches(layout: PlanLayout, model: ModelInfo) -> list[SettingsCount]:
    """The settings whose images are not sampled one at a time; the frames of a walk are images."""
    return [
        each
        for each in map(_as_images, layout.batches)
        if not samples_alone(model.pipeline, each.settings.conditioning)
    ]


def _as_images(count: SettingsCount) -> SettingsCount:
    """The frames of walks, which fill batches, as the images that they are."""
    frames = count.settings.num_frames
    if frames is None:
        return count
    settings = replace(count.settings, num_frames=None)
    return replace(count, settings=settings, num_images=count.num_images * frames)


def _padding_warning(counts: Sequence[int], size: int) -> Iterator[Event]:
    padding = 1.0 - padding_efficiency(counts)(size)
    if padding > PADDING_WARNING_SHARE:
        yield Message(
            f"batch.size: {padding:.0%} of what is sampled in batches of {size:,} is padding: no "
            f"more than {plural(max(counts), 'image')} can share a batch",
            warning=True,
        )


def memory_share(spec: RunSpec, factory: "ActorFactory") -> float:
    """An actor's share of its device's memory, assuming that the node is full of actors."""
    from nightpress.jobs.cluster.capacity import most_memory_bytes
    from nightpress.jobs.cluster.connection import most_cpus

    if factory.gpus:
        return min(1.0, factory.gpus)
    per_node = max(1, int(most_cpus() // factory.cpus))
    if factory.memory_bytes:
        per_node = max(1, min(per_node, most_memory_bytes() // factory.memory_bytes))
    return 1.0 / min(per_node, spec.cluster.max_actors or per_node)


def _group_sizes(layout: PlanLayout, model: ModelInfo) -> dict[SamplingParams, int]:
    """Settings -> how many images have them, so that they can share batches."""
    counts: Counter[SamplingParams] = Counter()
    for each in _in_batches(layout, model):
        shared = shared_settings(each.settings, model.pipeline in MULTIPLY_BY_GUIDANCE)
        counts[shared] += each.num_images
    return counts
