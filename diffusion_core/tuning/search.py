"""Which ways of sampling faster are tried, in which order, and which of them is taken.

Owns the rules. Knows nothing of models: whoever asks for the next way tries it, and notes what came
of it.
"""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from nightpress.diffusion_core.tuning.candidates import TuningConfig

WORTH = 1.03
"""Times as fast: less than that is not worth a choice, and may be chance."""


@dataclass(frozen=True)
class Trial:
    """What sampling in one way took, and how near its pictures stayed to those of the reference."""

    way: TuningConfig
    images_per_s: float
    ratio: float
    """Times as fast as the reference, the median over batches that were timed beside it."""
    psnr_db: tuple[float, ...]
    """Of each picture; infinite where no pixel differs."""
    warm_s: float
    """What came before: compiling, if it does, and a first batch."""
    fault: str | None = None
    """What is wrong with a picture that the reference made well."""

    @property
    def lowest_db(self) -> float:
        """Of the picture that is least alike."""
        return min(self.psnr_db)

    @property
    def mean_db(self) -> float:
        """Over the pictures that differ; infinite where none does."""
        differing = [value for value in self.psnr_db if not math.isinf(value)]
        return statistics.mean(differing) if differing else math.inf

    @property
    def pays(self) -> bool:
        """Whether it is faster than the reference by more than chance."""
        return self.ratio >= WORTH

    def within(self, tolerance_db: float) -> bool:
        """Whether every picture is as near as that; none may differ where it is infinite."""
        return self.fault is None and self.lowest_db >= tolerance_db


Tried = Mapping[TuningConfig, Trial | None]
"""What came of each way that was tried; None where it could not be done."""


def ways_to_try(
    ways: Sequence[TuningConfig], tried: Tried, tolerance_db: float
) -> Iterator[TuningConfig]:
    """The ways by themselves, then those that pay, combined in turn.

    Combining begins with the fastest way of each kind, for two that lose much may be too much
    together where a third would have gone with one of them. To it is added, fastest first, each
    that goes with what is there already, gains, and stays within the tolerance. That is greedy: not
    every combination is tried.

    Args:
        ways: by themselves.
        tried: what came of a way must be in here before the next one is asked for.
        tolerance_db: the lowest PSNR that a picture may have.
    """
    yield from ways
    paying = [trial for trial in map(tried.get, ways) if trial is not None]
    paying = [trial for trial in paying if trial.pays and trial.within(tolerance_db)]
    paying.sort(key=lambda trial: -trial.ratio)
    for best in _leaders(paying):
        for other in paying:
            both = best.way.beside(other.way)
            if both is None:
                continue
            if both not in tried:
                yield both
            trial = tried[both]
            gains = trial is not None and trial.ratio >= WORTH * best.ratio
            if trial is not None and gains and trial.within(tolerance_db):
                best = trial


def _leaders(trials: Sequence[Trial]) -> list[Trial]:
    """Of the fastest first, those that decide nothing that one before them does."""
    leaders: list[Trial] = []
    decided: frozenset[str] = frozenset()
    for trial in trials:
        if not decided & trial.way.fields:
            leaders.append(trial)
            decided |= trial.way.fields
    return leaders


def fastest(tried: Tried, tolerance_db: float) -> Trial | None:
    """The way to take: of those that are nearly the fastest within the tolerance, the simplest.

    None where nothing within it pays.
    """
    trials = [trial for trial in tried.values() if trial is not None]
    fitting = [trial for trial in trials if trial.pays and trial.within(tolerance_db)]
    if not fitting:
        return None
    best = max(trial.ratio for trial in fitting)
    nearly = [trial for trial in fitting if trial.ratio * WORTH > best]
    return min(nearly, key=lambda trial: (len(trial.way.fields), -trial.lowest_db, -trial.ratio))
