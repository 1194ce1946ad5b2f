"""Sample the same images with several configurations and time them side by side.

The comparison is fair: every candidate is warm before it is timed, all of them sample the same
batches, and each batch is sampled by every candidate in turn, so that other load on the machine
affects all of them alike.
"""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
import torch

from nightpress.diffusion_core.conditioning.spec import Pixels
from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.sampling.request import ImageRequest, SamplingParams
from nightpress.diffusion_core.sampling.sampler import Fault, SampledBatch, Sampler
from nightpress.diffusion_core.theory.psnr import image_psnrs_db
from nightpress.diffusion_core.tuning.candidates import TuningConfig
from nightpress.diffusion_core.tuning.search import ConfigTrial

WARM_UP_STEPS = 2
"""Steps of a batch that warms up, enough to encode its prompts; the first batch takes more."""

MIN_TIMINGS = 3
"""Timings per candidate; if there are fewer batches, they are sampled again."""


@dataclass(frozen=True)
class Workload:
    """The images that every candidate samples, in full batches except perhaps the last."""

    batches: tuple[tuple[ImageRequest, ...], ...]
    params: SamplingParams
    batch_size: int

    @classmethod
    def of(cls, requests: Sequence[ImageRequest], params: SamplingParams, batch_size: int) -> Self:
        """Cut the images into batches.

        Raises:
            ValueError: there are no images.
        """
        if not requests:
            raise ValueError("there are no images to sample")
        starts = range(0, len(requests), batch_size)
        batches = tuple(tuple(requests[start : start + batch_size]) for start in starts)
        return cls(batches, params, batch_size)

    @property
    def num_images(self) -> int:
        """Images in all batches together."""
        return sum(map(len, self.batches))

    @property
    def num_rounds(self) -> int:
        """How often all batches are sampled to get `MIN_TIMINGS` timings."""
        return math.ceil(MIN_TIMINGS / len(self.batches))


@dataclass(frozen=True)
class CandidateResult:
    """The images that one candidate sampled from the whole workload, and how long it took."""

    pixels: Pixels
    """(n, H, W, 3)."""
    faults: tuple[Fault | None, ...]
    batch_s: tuple[float, ...]
    """Seconds for each batch, round after round."""
    warm_s: float


class Candidate:
    """A model loaded with one configuration; it is warm once it has been constructed.

    Args:
        model: the model.
        workload: what it will sample.
        few: the workload's settings with fewer steps, which warm it up; all steps by default.

    Attributes:
        warm_s: seconds until the model was warm.

    Raises:
        SettingsError, SamplingError: as `Sampler.sample` does.
    """

    def __init__(
        self, model: LoadedModel, workload: Workload, few: SamplingParams | None = None
    ) -> None:
        self._sampler = Sampler(model, workload.batch_size)
        self._params, self._first = workload.params, workload.batches[0]
        self._clock = clock_for(model.device)
        start = time.perf_counter()
        self._warm_up(workload, few or workload.params)
        self.warm_s = time.perf_counter() - start

    def _warm_up(self, workload: Workload, params: SamplingParams) -> None:
        first, *others = workload.batches
        sampled, _ = self.sample(first, params)
        if params == self._params:
            self.first = sampled
        steps = min(WARM_UP_STEPS, params.num_inference_steps)
        for batch in others:
            self.sample(batch, replace(params, num_inference_steps=steps))

    @cached_property
    def first(self) -> SampledBatch:
        """The first batch, sampled in full when this is first read."""
        return self.sample(self._first)[0]

    def sample(
        self, batch: Sequence[ImageRequest], params: SamplingParams | None = None
    ) -> tuple[SampledBatch, float]:
        """The images of a batch, and the seconds they took.

        Args:
            params: other settings than the workload's, with tensors of the same shapes.
        """
        start = self._clock()
        sampled = self._sampler.sample(batch, params or self._params).settled()
        return sampled, self._clock() - start


def clock_for(device: str) -> Callable[[], float]:
    """A clock in seconds for timing work on a device.

    If a single CPU thread does all the work, it is that thread's CPU time, so that other processes
    on the same core distort it less; otherwise it is wall time.
    """
    single_thread = device == "cpu" and torch.get_num_threads() == 1
    return time.thread_time if single_thread else time.perf_counter


def sample_in_turn(workload: Workload, candidates: Sequence[Candidate]) -> list[CandidateResult]:
    """Sample the workload with every candidate, taking turns batch by batch.

    Raises:
        SamplingError: as `Sampler.sample` does.
    """
    timed: list[list[tuple[SampledBatch, float]]] = [[] for _ in candidates]
    for _ in range(workload.num_rounds):
        for batch in workload.batches:
            for candidate, batches in zip(candidates, timed, strict=True):
                batches.append(candidate.sample(batch))
    pairs = zip(candidates, timed, strict=True)
    return [_result(workload, candidate, batches) for candidate, batches in pairs]


def time_in_turn(
    workload: Workload, candidates: Sequence[Candidate], few: SamplingParams
) -> list[tuple[float, ...]]:
    """Time a few steps of the first batch with every candidate in turn; for one batch of images.

    Returns:
        for each candidate the seconds that all steps would take, round after round.

    Args:
        few: the workload's settings with fewer steps.

    Raises:
        SamplingError: as `Sampler.sample` does.
    """
    scale = workload.params.cost / few.cost
    timed: list[list[float]] = [[] for _ in candidates]
    for _ in range(MIN_TIMINGS):
        for candidate, seconds in zip(candidates, timed, strict=True):
            seconds.append(candidate.sample(workload.batches[0], few)[1] * scale)
    return [tuple(seconds) for seconds in timed]


def _result(
    workload: Workload, candidate: Candidate, timed: Sequence[tuple[SampledBatch, float]]
) -> CandidateResult:
    """Keep the images of the first round only; the later rounds make the same ones."""
    first_round = [sampled for sampled, _ in timed[: len(workload.batches)]]
    return CandidateResult(
        pixels=np.concatenate([sampled.pixels for sampled in first_round]),
        faults=tuple(fault for sampled in first_round for fault in sampled.faults),
        batch_s=tuple(seconds for _, seconds in timed),
        warm_s=candidate.warm_s,
    )


@dataclass(frozen=True)
class Likeness:
    """How close the images of a configuration are to those of the reference."""

    psnr_db: tuple[float, ...]
    """PSNR of each image that is sound in the reference."""
    fault: str | None
    """What is wrong with one of these images."""


def likeness(
    result: SampledBatch | CandidateResult, reference: SampledBatch | CandidateResult
) -> Likeness:
    """Compare the images, without those that are faulty in the reference.

    Raises:
        ValueError: every image of the reference is faulty.
    """
    sound = [index for index, fault in enumerate(reference.faults) if fault is None]
    if not sound:
        raise ValueError("every image of the reference is faulty")
    faults = (result.faults[index] for index in sound)
    return Likeness(
        tuple(image_psnrs_db(result.pixels[sound], reference.pixels[sound])),
        next((fault.value for fault in faults if fault is not None), None),
    )


def compare(
    workload: Workload, config: TuningConfig, result: CandidateResult, reference: CandidateResult
) -> ConfigTrial:
    """How fast a configuration is, and how close its images are to the reference's.

    Raises:
        ValueError: every image of the reference is faulty.
    """
    close = likeness(result, reference)
    seconds = reference.batch_s, result.batch_s
    return timed(workload, config, *seconds, result.warm_s).compared(close.psnr_db, close.fault)


def timed(
    workload: Workload,
    config: TuningConfig,
    reference_s: Sequence[float],
    batch_s: Sequence[float],
    warm_s: float,
) -> ConfigTrial:
    """How fast a configuration is; its images are not compared yet.

    Args:
        reference_s: seconds of each batch with the reference.
        batch_s: seconds of the same batches with the configuration.
        warm_s: seconds until the model was warm.
    """
    ratio = statistics.median(
        before / now for before, now in zip(reference_s, batch_s, strict=True)
    )
    images_per_batch = workload.num_images / len(workload.batches)
    return ConfigTrial(config, images_per_batch / statistics.median(batch_s), ratio, (), warm_s)
