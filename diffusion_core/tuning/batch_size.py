"""Find the batch size: the smallest one that samples nearly as many images a second as any other.

Owns the search and the prediction of memory use. The caller samples, times and reads the memory.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from nightpress.diffusion_core.errors import OutOfMemory

MAX_BATCH_SIZE = 512
"""The largest batch size that is tried."""

NEARLY_BEST = 0.97
"""Share of the best rate from which a batch size counts as equally fast."""

LINEAR_MEMORY_SIZE = 8
"""Batch size from which peak memory grows linearly with the number of images."""


class Ending(StrEnum):
    """Why the search stopped; the values are stored in `run.json`."""

    RATE = "more at once make no more a second"
    MEMORY = "more would not fit into the memory"
    TIME = "the time for measuring was over"
    ENOUGH = "more are not wanted"

    @property
    def explanation(self) -> str:
        """The reason in words, for messages."""
        return _EXPLANATIONS[self]


_EXPLANATIONS = {
    Ending.RATE: "larger batches are no faster",
    Ending.MEMORY: "larger batches do not fit into memory",
    Ending.TIME: "the time for measuring ran out",
    Ending.ENOUGH: "no larger batch is needed",
}


@dataclass(frozen=True)
class Measurement:
    """Time and peak memory of sampling one batch."""

    seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class SizeTrial:
    """A batch size that was sampled and fits into memory."""

    batch_size: int
    images_per_s: float
    peak_bytes: int


@dataclass(frozen=True)
class BestBatchSize:
    """The batch size to use, and the trials that it was found from."""

    batch_size: int
    ending: Ending
    trials: tuple[SizeTrial, ...]
    """Ordered by batch size."""


MeasureBatch = Callable[[int], Measurement]
"""Sample a batch of this many images; raises OutOfMemory if it does not fit."""


def find_best_batch_size(
    measure: MeasureBatch,
    limit_bytes: int,
    default: int,
    budget_s: float,
    efficiency: Callable[[int], float] = lambda size: 1.0,
    clock: Callable[[], float] = time.perf_counter,
) -> BestBatchSize:
    """The smallest power of two whose rate is at least `NEARLY_BEST` of the best that fits.

    Batch sizes are doubled until a doubling gains less than that, does not fit, or would take
    longer than the remaining time.

    Args:
        measure: samples one batch.
        limit_bytes: the most memory that may be in use.
        default: a low gain stops the search only above it; the smallest result if time runs out.
        budget_s: after the first trial, none is started that is expected to exceed it.
        efficiency: batch size -> the share of sampled images that are not padding.
        clock: seconds.
    """
    trials: list[SizeTrial] = []
    ending, end_at, last_s = Ending.ENOUGH, clock() + budget_s, 0.0
    for size in _powers_of_two(MAX_BATCH_SIZE):
        started_at = clock()
        if trials and started_at + 2 * last_s > end_at:
            ending = Ending.TIME
            break
        trial = _measured(measure, size, trials, limit_bytes)
        if trial is None:
            ending = Ending.MEMORY
            break
        trials.append(trial)
        last_s = clock() - started_at
        if size > default and nearly_best(_effective_rates(trials, efficiency)) < size:
            ending = Ending.RATE
            break
    smallest = default if ending is Ending.TIME else 1
    best = max(smallest, nearly_best(_effective_rates(trials, efficiency)))
    return BestBatchSize(best, ending, tuple(trials))


def largest_fitting(measure: MeasureBatch, limit_bytes: int, wanted: int) -> BestBatchSize:
    """`wanted` if a batch of that size fits into memory; else halved until it does.

    Only small batches are sampled; the memory of larger ones is predicted. Meant for devices on
    which running out of memory ends the process.
    """
    trials: list[SizeTrial] = []
    for size in _powers_of_two(min(wanted, LINEAR_MEMORY_SIZE)):
        trial = _sampled(measure, size)
        if trial is None:
            return BestBatchSize(max(1, size // 2), Ending.MEMORY, tuple(trials))
        trials.append(trial)
    fitting = wanted
    while fitting > 1 and predicted_peak_bytes(trials, fitting) > limit_bytes:
        fitting //= 2
    ending = Ending.ENOUGH if fitting == wanted else Ending.MEMORY
    return BestBatchSize(fitting, ending, tuple(trials))


def predicted_peak_bytes(trials: Sequence[SizeTrial], size: int) -> int:
    """The peak memory of a larger batch, on the line through the last two trials.

    0 before there are two trials. The slope is the memory of one image; weights and everything
    else in memory do not grow with the batch.
    """
    if len(trials) < 2:
        return 0
    before, last = trials[-2:]
    per_image = (last.peak_bytes - before.peak_bytes) / (last.batch_size - before.batch_size)
    return int(last.peak_bytes + max(0.0, per_image) * (size - last.batch_size))


def _measured(
    measure: MeasureBatch, size: int, trials: Sequence[SizeTrial], limit_bytes: int
) -> SizeTrial | None:
    """The trial of a batch size that fits, or None; the first trial counts as fitting."""
    if predicted_peak_bytes(trials, size) > limit_bytes:
        return None
    trial = _sampled(measure, size)
    return None if trial is not None and trials and trial.peak_bytes > limit_bytes else trial


def _sampled(measure: MeasureBatch, size: int) -> SizeTrial | None:
    """The trial of a batch size; None if it runs out of memory."""
    try:
        found = measure(size)
    except OutOfMemory:
        return None
    return SizeTrial(size, size / found.seconds, found.peak_bytes)


def _effective_rates(
    trials: Sequence[SizeTrial], efficiency: Callable[[int], float]
) -> dict[int, float]:
    """Images/s by batch size, padding not counted."""
    return {trial.batch_size: trial.images_per_s * efficiency(trial.batch_size) for trial in trials}


def nearly_best(rates: Mapping[int, float]) -> int:
    """The smallest batch size whose rate is at least `NEARLY_BEST` of the best; 1 if there is none.

    Args:
        rates: images/s by batch size.
    """
    enough = NEARLY_BEST * max(rates.values(), default=0.0)
    return min((size for size, rate in rates.items() if rate >= enough), default=1)


def padding_efficiency(counts: Sequence[int]) -> Callable[[int], float]:
    """Batch size -> the share of sampled images that are not padding.

    Args:
        counts: the number of images in each group that can share batches.
    """

    def efficiency(size: int) -> float:
        return sum(counts) / sum(-(-count // size) * size for count in counts)

    return efficiency


def _powers_of_two(most: int) -> Iterator[int]:
    size = 1
    while size <= most:
        yield size
        size *= 2
