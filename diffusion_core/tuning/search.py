"""Which speed configurations to try, in which order, and which one to use.

Owns the rules of the search. The caller tries each configuration and records its result before it
asks for the next one.
"""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from nightpress.diffusion_core.tuning.candidates import TuningConfig

MIN_SPEEDUP = 1.03
"""A smaller speed-up is not worth a setting and may be noise."""


@dataclass(frozen=True)
class ConfigTrial:
    """How fast one configuration sampled, and how close its images are to the reference's."""

    config: TuningConfig
    images_per_s: float
    ratio: float
    """Speed-up over the reference: the median over batches that were timed side by side."""
    psnr_db: tuple[float, ...]
    """PSNR of each image; infinite if no pixel differs; none if the images were not compared."""
    warm_s: float
    """Seconds before the first timing: compilation, if any, and a batch to warm up with."""
    fault: str | None = None
    """What is wrong with an image that the reference made without a fault."""

    def compared(self, psnr_db: Sequence[float], fault: str | None) -> "ConfigTrial":
        """The same once its images are compared."""
        return replace(self, psnr_db=tuple(psnr_db), fault=fault)

    @property
    def is_compared(self) -> bool:
        """Whether its images were compared."""
        return bool(self.psnr_db)

    @property
    def lowest_db(self) -> float:
        """PSNR of the image that differs most; not a number if the images were not compared."""
        return min(self.psnr_db, default=math.nan)

    @property
    def recorded_lowest_db(self) -> float | None:
        """`lowest_db` as it is written down, to a tenth; None if it is not finite."""
        return round(self.lowest_db, 1) if math.isfinite(self.lowest_db) else None

    @property
    def mean_db(self) -> float:
        """Mean PSNR of the images that differ; infinite if none does."""
        differing = [value for value in self.psnr_db if not math.isinf(value)]
        return statistics.mean(differing) if differing else math.inf

    @property
    def is_faster(self) -> bool:
        """Whether it beats the reference by at least `MIN_SPEEDUP`."""
        return self.ratio >= MIN_SPEEDUP

    def within(self, tolerance_db: float) -> bool:
        """Whether every image has at least this PSNR; if infinite, no pixel may differ."""
        return self.fault is None and self.lowest_db >= tolerance_db


Trials = Mapping[TuningConfig, ConfigTrial | None]
"""The result of each configuration that was tried; None if it could not be used."""


def configs_to_try(
    configs: Sequence[TuningConfig], trials: Trials, tolerance_db: float
) -> Iterator[TuningConfig]:
    """Yield each configuration alone, then combinations of those that are faster.

    Combining starts from the fastest configuration of each kind, because two that each lose much
    quality may lose too much together, where a third one would still combine with one of them. To
    each start, the other faster configurations are added in order of speed; one stays if it is
    compatible, gains speed and keeps the images within the tolerance. The search is greedy: it does
    not try every combination.

    Args:
        configs: the ones to try alone.
        trials: must hold the result of each yielded configuration before the next one is requested.
        tolerance_db: the lowest PSNR that an image may have.
    """
    yield from configs
    alone = [trial for trial in map(trials.get, configs) if trial is not None]
    faster = [trial for trial in alone if trial.is_faster and trial.within(tolerance_db)]
    faster.sort(key=lambda trial: -trial.ratio)
    for best in _leaders(faster):
        for other in faster:
            combined = best.config.combined_with(other.config)
            if combined is None:
                continue
            if combined not in trials:
                yield combined
            trial = trials[combined]
            if trial is None or trial.ratio < MIN_SPEEDUP * best.ratio:
                continue
            if trial.within(tolerance_db):
                best = trial


def _leaders(trials: Sequence[ConfigTrial]) -> list[ConfigTrial]:
    """The trials that set no field that an earlier, faster one sets."""
    leaders: list[ConfigTrial] = []
    fields: frozenset[str] = frozenset()
    for trial in trials:
        if not fields & trial.config.fields:
            leaders.append(trial)
            fields |= trial.config.fields
    return leaders


def fastest(trials: Trials, tolerance_db: float) -> ConfigTrial | None:
    """The simplest of the configurations that are nearly the fastest within the tolerance.

    None if no configuration within the tolerance is faster than the reference.
    """
    done = [trial for trial in trials.values() if trial is not None]
    eligible = [trial for trial in done if trial.is_faster and trial.within(tolerance_db)]
    if not eligible:
        return None
    best = max(trial.ratio for trial in eligible)
    nearly = [trial for trial in eligible if trial.ratio * MIN_SPEEDUP > best]
    return min(nearly, key=lambda trial: (len(trial.config.fields), -trial.lowest_db, -trial.ratio))
