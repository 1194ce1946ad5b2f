"""How many images a run samples at once: what its job says, if it fits, or what is measured.

Decided once, by the first actor, before the run's record is written. Knows nothing of how it is
measured; `batch_sizes` knows which kinds are, and what the others get.
"""

import time
from collections import Counter
from collections.abc import Generator, Iterator, Sequence

from nightpress.diffusion_core.models.loading import ModelInfo
from nightpress.diffusion_core.models.pipeline_folder import MULTIPLY_BY_GUIDANCE
from nightpress.diffusion_core.sampling.request import SamplingParams
from nightpress.diffusion_core.tuning.batch_size import Ending, padding_efficiency
from nightpress.jobs.cluster.connection import most_cpus
from nightpress.jobs.dispatch.actor import ActorFactory
from nightpress.jobs.dispatch.first_actor import FirstActor
from nightpress.jobs.progress.events import Event, Message
from nightpress.pipelines.formatting import plural
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.planning import PlanLayout
from nightpress.pipelines.planning.batch_sizes import (
    STEPS_WORTH_MEASURING,
    BatchSizes,
    ImageKind,
    MeasuredKind,
    num_steps,
    settings_to_measure,
)
from nightpress.pipelines.shards.batching import shared_settings

AUTO_BATCH_SIZE = {"cpu": 4, "cuda": 8}
"""What `batch.size: auto` stands for where it is not measured."""

MEASURING_S, KIND_S = 60.0, 30.0
"""What all measuring together may take, and that of one kind of images."""

PADDING_WORTH_A_WORD = 0.5
"""Share of what is sampled."""

FAR = 4
"""A size that is so many times the usual one may be too large for the memory."""


def resolve_batch_size(spec: RunSpec, device: str) -> int:
    """`batch.size`, with `auto` as it is where nothing is measured."""
    return AUTO_BATCH_SIZE[device] if spec.batch.size == "auto" else spec.batch.size


def decided(
    spec: RunSpec, model: ModelInfo, layout: PlanLayout, first: FirstActor
) -> Generator[Event, None, BatchSizes]:
    """The batch sizes of a run that begins; its first actor has loaded the model.

    On an accelerator a batch that does not fit is refused and halved. On a CPU it would end its
    process, so a size far beyond the usual one is tried in small, and foretold.
    """
    device = first.factory.device
    usual = resolve_batch_size(spec, device)
    if spec.batch.size == "auto":
        return (yield from _measured(spec, model, layout, first, usual))
    sizes = BatchSizes(usual)
    counts = list(_alike(layout, model).values())
    if device == "cpu" and usual > FAR * AUTO_BATCH_SIZE[device]:
        sizes = yield from _fitting(spec, layout, first, usual, max(counts))
    yield from _padding_warning(counts, sizes.largest)
    return sizes


def _measured(
    spec: RunSpec, model: ModelInfo, layout: PlanLayout, first: FirstActor, usual: int
) -> Generator[Event, None, BatchSizes]:
    wanted = settings_to_measure(layout.batches)
    if not wanted:
        yield Message(
            f"batch.size auto: {usual}; it is measured from {STEPS_WORTH_MEASURING:,} denoising "
            f"steps on, and these images have {num_steps(layout.batches):,}"
        )
    found: list[MeasuredKind] = []
    alike = _alike(layout, model)
    share, end_at = memory_share(spec, first.factory), time.monotonic() + MEASURING_S
    for settings in wanted:
        left_s = min(KIND_S, end_at - time.monotonic())
        if left_s <= 0:
            break
        counts = [
            number for each, number in alike.items() if ImageKind.of(each) == ImageKind.of(settings)
        ]
        knee = yield from first.measured(
            first.handle.find_best_batch_size.remote(settings, counts, usual, share, left_s)
        )
        if knee is None:
            break
        found.append(MeasuredKind(ImageKind.of(settings), knee))
        yield Message(f"batch.size auto: {_told(found[-1])}")
    return BatchSizes.from_measurements(found) if found else BatchSizes(usual)


def _fitting(
    spec: RunSpec, layout: PlanLayout, first: FirstActor, wanted: int, most_alike: int
) -> Generator[Event, None, BatchSizes]:
    """The size that is wanted if it fits; else halved, as long as it holds all that are alike."""
    heaviest = max((each.settings for each in layout.batches), key=lambda s: ImageKind.of(s).weight)
    share = memory_share(spec, first.factory)
    pending = first.handle.largest_fitting.remote(heaviest, wanted, share)
    knee = yield from first.measured(pending)
    if knee is None or knee.ending is not Ending.MEMORY:
        return BatchSizes(wanted)
    size = knee.batch_size
    while size // 2 >= most_alike:
        size //= 2
    yield Message(
        f"batch.size: {wanted:,} images would not fit into the memory of an actor at once; it "
        f"takes {size:,}",
        warning=True,
    )
    return BatchSizes(size)


def _padding_warning(counts: Sequence[int], size: int) -> Iterator[Event]:
    padding = 1.0 - padding_efficiency(counts)(size)
    if padding > PADDING_WORTH_A_WORD:
        yield Message(
            f"batch.size: in batches of {size:,}, {padding:.0%} of what is sampled is padding: no "
            f"more than {plural(max(counts), 'image')} are alike in their settings",
            warning=True,
        )


def memory_share(spec: RunSpec, factory: ActorFactory) -> float:
    """The part of a device's memory that is one actor's, where a node holds as many as it can."""
    if factory.gpus:
        return min(1.0, factory.gpus)
    beside = max(1, int(most_cpus() // factory.cpus))
    return 1.0 / min(beside, spec.cluster.max_actors or beside)


def _alike(layout: PlanLayout, model: ModelInfo) -> dict[SamplingParams, int]:
    """How many images can share batches, by what they share."""
    counts: Counter[SamplingParams] = Counter()
    for each in layout.batches:
        shared = shared_settings(each.settings, model.pipeline in MULTIPLY_BY_GUIDANCE)
        counts[shared] += each.num_images
    return counts


def _told(measured: MeasuredKind) -> str:
    best = measured.best
    return f"{best.batch_size} at {measured.kind.name}; {best.ending.explanation}"
