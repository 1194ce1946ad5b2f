"""The batch size for each kind of image in a run: set by the job, or measured.

Decides which kinds are worth measuring, and derives the batch size of the others.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from nightpress.diffusion_core.sampling.request import SamplingParams
from nightpress.diffusion_core.tuning.batch_size import BestBatchSize, Ending, SizeTrial
from nightpress.pipelines.planning.layout import SettingsCount

STEPS_WORTH_MEASURING = 20_000
"""A kind is measured if its images take at least this many denoising steps in all, such as 1,000
images of 20 steps. Measuring then costs a few percent of the work."""


@dataclass(frozen=True)
class ImageKind:
    """What decides which batch size fits into memory and is fastest: image size and guidance."""

    width: int
    """Pixels of the finished image, the largest that is sampled."""
    height: int
    guided: bool
    """Whether each image is sampled both with and without its prompt."""

    @classmethod
    def of(cls, settings: SamplingParams) -> Self:
        """The kind of images with these settings."""
        return cls(*settings.final_size, settings.guidance_scale > 1)

    @property
    def name(self) -> str:
        """The kind in text, such as `1024x768-guided`."""
        return f"{self.width}x{self.height}-{'guided' if self.guided else 'unguided'}"

    @property
    def weight(self) -> int:
        """Pixels that one image takes up in a batch; guidance doubles them."""
        return self.width * self.height * (2 if self.guided else 1)


@dataclass(frozen=True)
class MeasuredKind:
    """A kind of image and its measured batch size."""

    kind: ImageKind
    best: BestBatchSize

    def as_dict(self) -> dict[str, Any]:
        """The values as JSON."""
        return {
            **asdict(self.kind),
            "batch_size": self.best.batch_size,
            "ending": self.best.ending.value,
            "trials": [asdict(trial) for trial in self.best.trials],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `as_dict`."""
        trials = tuple(SizeTrial(**trial) for trial in values["trials"])
        return cls(
            kind=ImageKind(values["width"], values["height"], values["guided"]),
            best=BestBatchSize(values["batch_size"], Ending(values["ending"]), trials),
        )


@dataclass(frozen=True)
class BatchSizes:
    """The batch size for each kind of image in one run."""

    largest: int
    """The largest of all batch sizes; the only one if no kind was measured."""
    measured: tuple[MeasuredKind, ...] = ()

    @classmethod
    def from_measurements(cls, measured: Sequence[MeasuredKind]) -> Self:
        """The batch sizes that follow from at least one measured kind."""
        return cls(max(kind.best.batch_size for kind in measured), tuple(measured))

    def of(self, kind: ImageKind) -> int:
        """The batch size for a kind of image.

        For a kind that was not measured, it is derived from the most similar measured kind: the
        largest power of two that puts no more pixels into a batch, and at most `largest`.
        """
        if not self.measured:
            return self.largest
        nearest = min(self.measured, key=lambda measured: _distance(measured.kind, kind))
        if nearest.kind == kind:
            return nearest.best.batch_size
        same_pixels = nearest.best.batch_size * nearest.kind.weight // kind.weight
        return min(self.largest, 1 << max(0, same_pixels.bit_length() - 1))

    @property
    def text(self) -> str:
        """A short description, such as `8 (512x512-guided), 2 (1024x1024-guided)`."""
        if not self.measured:
            return str(self.largest)
        return ", ".join(f"{each.best.batch_size} ({each.kind.name})" for each in self.measured)


def settings_to_measure(counts: Sequence[SettingsCount]) -> list[SamplingParams]:
    """Which settings to measure: one for each kind with enough steps, the costliest kind first.

    If only all kinds together have enough steps, the costliest kind alone is measured; if not even
    they do, none is.

    Args:
        counts: how many images have which settings.
    """
    steps: dict[ImageKind, int] = defaultdict(int)
    typical: dict[ImageKind, SettingsCount] = {}
    for count in counts:
        kind = ImageKind.of(count.settings)
        steps[kind] += _steps(count)
        typical[kind] = max(typical.get(kind, count), count, key=_steps)
    kinds = sorted(steps, key=lambda kind: -steps[kind] * kind.weight)
    chosen = [kind for kind in kinds if steps[kind] >= STEPS_WORTH_MEASURING]
    if not chosen and num_steps(counts) >= STEPS_WORTH_MEASURING:
        chosen = kinds[:1]
    return [typical[kind].settings for kind in chosen]


def num_steps(counts: Sequence[SettingsCount]) -> int:
    """Denoising steps of all images together."""
    return sum(map(_steps, counts))


def _steps(count: SettingsCount) -> int:
    return count.num_images * sum(steps for _, _, steps in count.settings.work)


def _distance(one: ImageKind, other: ImageKind) -> tuple[bool, float]:
    """How different two kinds are; equal kinds sort first."""
    return one != other, abs(math.log(one.weight / other.weight))
