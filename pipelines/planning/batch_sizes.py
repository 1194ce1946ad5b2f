"""How many images of each kind a run samples at once: as its job says, or as was measured.

Owns which kinds are worth measuring, and the rule for the others. Knows nothing of how it is
measured, nor of what is done where memory ends after all.
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
"""Denoising steps of all images together from which a kind is measured: 1,000 images of 20 steps.
What it takes is then a few hundredths of the work."""


@dataclass(frozen=True)
class Kind:
    """What decides how many images fit into memory, and pay: their size, and guidance."""

    width: int
    """Pixels."""
    height: int
    guided: bool
    """Whether each image is sampled twice, with its prompt and without."""

    @classmethod
    def of(cls, settings: SamplingParams) -> Self:
        """The kind of a batch with these settings."""
        return cls(settings.width, settings.height, settings.guidance_scale > 1)

    @property
    def name(self) -> str:
        """Such as `1024x768-guided`."""
        return f"{self.width}x{self.height}-{'guided' if self.guided else 'unguided'}"

    @property
    def weight(self) -> int:
        """Pixels that an image of it has in a batch."""
        return self.width * self.height * (2 if self.guided else 1)


@dataclass(frozen=True)
class MeasuredKind:
    """A kind whose best batch size was looked for."""

    kind: Kind
    knee: BestBatchSize

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            **asdict(self.kind),
            "batch_size": self.knee.batch_size,
            "ending": self.knee.ending.value,
            "trials": [asdict(trial) for trial in self.knee.trials],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `as_dict`."""
        trials = tuple(SizeTrial(**trial) for trial in values["trials"])
        return cls(
            kind=Kind(values["width"], values["height"], values["guided"]),
            knee=BestBatchSize(values["batch_size"], Ending(values["ending"]), trials),
        )


@dataclass(frozen=True)
class BatchSizes:
    """The batch size of each kind of image in one run."""

    most: int
    """Of all kinds; of every kind, where none was measured."""
    measured: tuple[MeasuredKind, ...] = ()

    @classmethod
    def found(cls, measured: Sequence[MeasuredKind]) -> Self:
        """Those that were measured; at least one."""
        return cls(max(each.knee.batch_size for each in measured), tuple(measured))

    def of(self, kind: Kind) -> int:
        """The batch size of a kind.

        One that was not measured follows the measured one nearest to it: the power of two that
        puts no more pixels into a batch, but never more images than the most that were measured.
        """
        if not self.measured:
            return self.most
        nearest = min(self.measured, key=lambda each: _distance(each.kind, kind))
        if nearest.kind == kind:
            return nearest.knee.batch_size
        as_many = nearest.knee.batch_size * nearest.kind.weight // kind.weight
        return min(self.most, 1 << max(0, as_many.bit_length() - 1))

    @property
    def text(self) -> str:
        """In a few words, such as `8 (512x512-guided), 2 (1024x1024-guided)`."""
        if not self.measured:
            return str(self.most)
        return ", ".join(f"{each.knee.batch_size} ({each.kind.name})" for each in self.measured)


def worth_measuring(counts: Sequence[SettingsCount]) -> list[SamplingParams]:
    """The settings to measure, one of each kind that has enough steps, the costliest kind first.

    Where only all kinds together have enough, the costliest alone; empty where not even they do.

    Args:
        counts: how many images have which settings.
    """
    steps: dict[Kind, int] = defaultdict(int)
    usual: dict[Kind, SettingsCount] = {}
    for each in counts:
        kind = Kind.of(each.settings)
        steps[kind] += _steps(each)
        usual[kind] = max(usual.get(kind, each), each, key=_steps)
    kinds = sorted(steps, key=lambda kind: -steps[kind] * kind.weight)
    enough = [kind for kind in kinds if steps[kind] >= STEPS_WORTH_MEASURING]
    if not enough and num_steps(counts) >= STEPS_WORTH_MEASURING:
        enough = kinds[:1]
    return [usual[kind].settings for kind in enough]


def num_steps(counts: Sequence[SettingsCount]) -> int:
    """Denoising steps of all images together."""
    return sum(map(_steps, counts))


def _steps(each: SettingsCount) -> int:
    return each.num_images * each.settings.num_inference_steps


def _distance(one: Kind, other: Kind) -> tuple[bool, float]:
    """How unlike two kinds are: none, if they are the same."""
    return one != other, abs(math.log(one.weight / other.weight))
