"""How many images to sample at once: as few as make nearly as many a second as any number does.

Owns the search, and the line by which memory is foretold. Knows nothing of models and devices:
whoever calls it samples, and reads the clock and the memory.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from nightpress.diffusion_core.errors import OutOfMemory

MOST = 512
"""Images at once beyond which nothing is looked for."""

NEARLY = 0.97
"""Of the best rate: who makes so much of it is as good."""

FORETOLD_FROM = 8
"""Images at once from which memory grows by the image, and no more by what lies about."""


class Ending(StrEnum):
    """Why larger batches were not tried, in words."""

    RATE = "more at once make no more a second"
    MEMORY = "more would not fit into the memory"
    TIME = "the time for measuring was over"
    ENOUGH = "more are not wanted"


@dataclass(frozen=True)
class Reading:
    """What sampling some images at once took."""

    seconds: float
    peak_bytes: int
    """The most memory that was in use."""


@dataclass(frozen=True)
class SizeTrial:
    """A number of images that were sampled at once, and fitted."""

    batch_size: int
    images_per_s: float
    peak_bytes: int


@dataclass(frozen=True)
class BestBatchSize:
    """The number to sample at once, and what it was found from."""

    batch_size: int
    ending: Ending
    trials: tuple[SizeTrial, ...]
    """By size."""


Sample = Callable[[int], Reading]
"""Samples so many images at once; raises OutOfMemory where they do not fit."""


def find_best_batch_size(
    sample: Sample,
    room_bytes: int,
    usual: int,
    budget_s: float,
    useful: Callable[[int], float] = lambda size: 1.0,
    clock: Callable[[], float] = time.perf_counter,
) -> BestBatchSize:
    """The smallest power of two whose useful rate is `NEARLY` the best of all that fit.

    Sizes are doubled until one gains less than that, or would not fit, or the time is over.

    Args:
        sample: tries one size.
        room_bytes: the most memory that may be in use.
        usual: up to this size the rate ends nothing; it is taken if the time is over before.
        budget_s: seconds; after the first trial, none is begun that would last longer.
        useful: size -> the share of what is sampled that is no padding.
        clock: seconds.
    """
    trials: list[SizeTrial] = []
    ending, end_at, lasted_s = Ending.ENOUGH, clock() + budget_s, 0.0
    for size in _doubled(MOST):
        started_at = clock()
        if trials and started_at + 2 * lasted_s > end_at:
            ending = Ending.TIME
            break
        trial = _tried(sample, size) if predicted_peak_bytes(trials, size) <= room_bytes else None
        if trial is None or (trials and trial.peak_bytes > room_bytes):
            ending = Ending.MEMORY
            break
        trials.append(trial)
        lasted_s = clock() - started_at
        if size > usual and nearly_best(_useful_rates(trials, useful)) < size:
            ending = Ending.RATE
            break
    knee = nearly_best(_useful_rates(trials, useful))
    return BestBatchSize(max(knee, usual) if ending is Ending.TIME else knee, ending, tuple(trials))


def largest_fitting(sample: Sample, room_bytes: int, wanted: int) -> BestBatchSize:
    """`wanted` images at once if the memory holds them; else halved until it does.

    Only small batches are sampled, and what larger ones need is foretold: for devices on which
    the process ends where the memory does.
    """
    trials: list[SizeTrial] = []
    for size in _doubled(min(wanted, FORETOLD_FROM)):
        trial = _tried(sample, size)
        if trial is None:
            return BestBatchSize(max(1, size // 2), Ending.MEMORY, tuple(trials))
        trials.append(trial)
    fitting = wanted
    while fitting > 1 and predicted_peak_bytes(trials, fitting) > room_bytes:
        fitting //= 2
    ending = Ending.ENOUGH if fitting == wanted else Ending.MEMORY
    return BestBatchSize(fitting, ending, tuple(trials))


def predicted_peak_bytes(trials: Sequence[SizeTrial], size: int) -> int:
    """The peak of a larger batch, on the line through the last two trials; 0 before there are two.

    What a batch needs grows with its images; weights and what else lies in memory do not.
    """
    if len(trials) < 2:
        return 0
    before, last = trials[-2:]
    per_image = (last.peak_bytes - before.peak_bytes) / (last.batch_size - before.batch_size)
    return int(last.peak_bytes + max(0.0, per_image) * (size - last.batch_size))


def _tried(sample: Sample, size: int) -> SizeTrial | None:
    """The trial of a size; None if it does not fit."""
    try:
        reading = sample(size)
    except OutOfMemory:
        return None
    return SizeTrial(size, size / reading.seconds, reading.peak_bytes)


def _useful_rates(trials: Sequence[SizeTrial], useful: Callable[[int], float]) -> dict[int, float]:
    return {trial.batch_size: trial.images_per_s * useful(trial.batch_size) for trial in trials}


def nearly_best(rates: Mapping[int, float]) -> int:
    """The smallest size whose rate is `NEARLY` the best; 1 where there is none.

    Args:
        rates: by size, images/s.
    """
    enough = NEARLY * max(rates.values(), default=0.0)
    return min((size for size, rate in rates.items() if rate >= enough), default=1)


def padding_efficiency(counts: Sequence[int]) -> Callable[[int], float]:
    """Size -> the share of what is sampled that is no padding, where like images share batches.

    Args:
        counts: how many images are alike, of each sort.
    """

    def share(size: int) -> float:
        return sum(counts) / sum(-(-count // size) * size for count in counts)

    return share


def _doubled(most: int) -> Iterator[int]:
    size = 1
    while size <= most:
        yield size
        size *= 2
