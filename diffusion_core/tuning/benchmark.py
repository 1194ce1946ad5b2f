"""Sampling the same images in several ways, timed beside each other.

Owns what is fair: every way is warm before it is timed, all sample the same batches, and each batch
is sampled by all of them in turn, so that what else the machine does meets all alike.
"""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch

from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.sampling.request import ImageRequest, SamplingParams
from nightpress.diffusion_core.sampling.sampler import Fault, Pixels, SampledBatch, Sampler
from nightpress.diffusion_core.tuning.candidates import TuningConfig
from nightpress.diffusion_core.tuning.psnr import psnr_db
from nightpress.diffusion_core.tuning.search import Trial

WARM_UP_STEPS = 2
"""Denoising steps by which a batch's prompts are encoded; the first batch is sampled whole."""

FEWEST_TIMINGS = 3
"""Of a way; where there are fewer batches, they are sampled again."""


@dataclass(frozen=True)
class Work:
    """The images that every way makes: full batches, but for the last one perhaps."""

    batches: tuple[tuple[ImageRequest, ...], ...]
    params: SamplingParams
    batch_size: int

    @classmethod
    def of(cls, requests: Sequence[ImageRequest], params: SamplingParams, batch_size: int) -> Self:
        """The images cut into batches.

        Raises:
            ValueError: there are none.
        """
        if not requests:
            raise ValueError("there is no image to sample")
        starts = range(0, len(requests), batch_size)
        batches = tuple(tuple(requests[start : start + batch_size]) for start in starts)
        return cls(batches, params, batch_size)

    @property
    def num_images(self) -> int:
        """Of all batches."""
        return sum(map(len, self.batches))

    @property
    def num_rounds(self) -> int:
        """How often all batches are sampled, for enough timings."""
        return math.ceil(FEWEST_TIMINGS / len(self.batches))


@dataclass(frozen=True)
class Made:
    """What was made of all the work in one way."""

    pixels: Pixels
    """(n, H, W, 3)."""
    faults: tuple[Fault | None, ...]
    batch_s: tuple[float, ...]
    """Of each batch, round by round."""
    warm_s: float


class Candidate:
    """A loaded model that samples in one way; warm once it is made.

    Raises:
        SettingsError, SamplingError: as `Sampler.sample` does.
    """

    def __init__(self, model: LoadedModel, work: Work) -> None:
        self._sampler = Sampler(model, work.batch_size)
        self._params = work.params
        self._clock = clock_of(model.device)
        start = time.perf_counter()
        self._warm_up(work)
        self.warm_s = time.perf_counter() - start

    def _warm_up(self, work: Work) -> None:
        first, *others = work.batches
        self._sampler.sample(first, self._params)
        steps = min(WARM_UP_STEPS, self._params.num_inference_steps)
        for batch in others:
            self._sampler.sample(batch, replace(self._params, num_inference_steps=steps))

    def sample(self, batch: Sequence[ImageRequest]) -> tuple[SampledBatch, float]:
        """The images, and the seconds that they took."""
        start = self._clock()
        sampled = self._sampler.sample(batch, self._params)
        return sampled, self._clock() - start


def clock_of(device: str) -> Callable[[], float]:
    """Seconds; of work where one thread does all of it, so that who shares its core counts less."""
    alone = device == "cpu" and torch.get_num_threads() == 1
    return time.thread_time if alone else time.perf_counter


def in_turn(work: Work, entrants: Sequence[Candidate]) -> list[Made]:
    """Have all sample all of the work, batch by batch; what each of them made.

    Raises:
        SamplingError: as `Sampler.sample` does.
    """
    done: list[list[tuple[SampledBatch, float]]] = [[] for _ in entrants]
    for _ in range(work.num_rounds):
        for batch in work.batches:
            for entrant, so_far in zip(entrants, done, strict=True):
                so_far.append(entrant.sample(batch))
    pairs = zip(entrants, done, strict=True)
    return [_made(work, entrant, batches) for entrant, batches in pairs]


def _made(work: Work, entrant: Candidate, done: Sequence[tuple[SampledBatch, float]]) -> Made:
    """Pictures are those of the first round; the same are made in every other."""
    first = [sampled for sampled, _ in done[: len(work.batches)]]
    return Made(
        pixels=np.concatenate([sampled.pixels for sampled in first]),
        faults=tuple(fault for sampled in first for fault in sampled.faults),
        batch_s=tuple(seconds for _, seconds in done),
        warm_s=entrant.warm_s,
    )


def compared(work: Work, way: TuningConfig, made: Made, reference: Made) -> Trial:
    """A way's speed, and its pictures' likeness to the reference's.

    Pictures that are faulty in the reference do not count.

    Raises:
        ValueError: every picture of the reference is faulty.
    """
    sound = [place for place, fault in enumerate(reference.faults) if fault is None]
    if not sound:
        raise ValueError("the reference has no sound picture")
    images_a_batch = work.num_images / len(work.batches)
    faults = (made.faults[place] for place in sound)
    return Trial(
        way=way,
        images_per_s=images_a_batch / statistics.median(made.batch_s),
        ratio=statistics.median(
            before / now for before, now in zip(reference.batch_s, made.batch_s, strict=True)
        ),
        psnr_db=tuple(psnr_db(made.pixels[sound], reference.pixels[sound])),
        warm_s=made.warm_s,
        fault=next((fault.value for fault in faults if fault is not None), None),
    )
