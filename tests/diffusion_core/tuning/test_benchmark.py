"""Configurations timed side by side: the same workload in turn, and only once it is warm."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nightpress.diffusion_core.models import loading
from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.sampling.request import ImageRequest, SamplingParams
from nightpress.diffusion_core.sampling.sampler import Fault, SampledBatch, Sampler
from nightpress.diffusion_core.tuning import benchmark
from nightpress.diffusion_core.tuning.benchmark import (
    Candidate,
    CandidateResult,
    Workload,
    compare,
    likeness,
    sample_in_turn,
    time_in_turn,
    timed,
)
from nightpress.diffusion_core.tuning.candidates import TuningConfig

PARAMS = SamplingParams(width=64, height=32, num_inference_steps=3, guidance_scale=4.0)
IMAGES = [ImageRequest(f"the number {seed}", "", seed) for seed in range(5)]

Loaded = Callable[[str], LoadedModel]


class Slow(Candidate):
    """Samples nothing and reports the given times."""

    def __init__(self, name: str, seconds: Sequence[float], diary: list[str]) -> None:
        self.warm_s = 0.5
        self.first = SampledBatch(np.zeros((1, 2, 2, 3), np.uint8), (None,))
        self._name, self._seconds, self._diary = name, iter(seconds), diary

    def sample(
        self, batch: Sequence[ImageRequest], params: SamplingParams | None = None
    ) -> tuple[SampledBatch, float]:
        self._diary.append(f"{self._name} {batch[0].seed}")
        pixels = np.zeros((len(batch), 2, 2, 3), np.uint8)
        return SampledBatch(pixels, (None,) * len(batch)), next(self._seconds)


def result(
    *seconds: float, faults: Sequence[Fault | None] = (None,), value: int = 0
) -> CandidateResult:
    pixels = np.full((len(faults), 2, 2, 3), value, np.uint8)
    return CandidateResult(pixels, tuple(faults), seconds, 0.5)


def test_a_workload_is_cut_into_batches_and_repeated_for_enough_timings() -> None:
    workload = Workload.of(IMAGES, PARAMS, 2)
    assert [len(batch) for batch in workload.batches] == [2, 2, 1]
    assert (workload.num_images, workload.num_rounds) == (5, 1)
    assert [image for batch in workload.batches for image in batch] == IMAGES
    assert Workload.of(IMAGES[:4], PARAMS, 2).num_rounds == 2
    assert Workload.of(IMAGES[:1], PARAMS, 2).num_rounds == 3


def test_a_workload_without_images_is_refused() -> None:
    with pytest.raises(ValueError, match="no image"):
        Workload.of([], PARAMS, 2)


def test_every_batch_is_sampled_by_all_candidates_in_turn() -> None:
    workload, diary = Workload.of(IMAGES[:2], PARAMS, 1), list[str]()
    one, other = (Slow(name, (1.0, 2.0, 3.0, 4.0), diary) for name in ("one", "other"))
    first, second = sample_in_turn(workload, [one, other])
    assert diary == ["one 0", "other 0", "one 1", "other 1"] * 2
    assert first.batch_s == second.batch_s == (1.0, 2.0, 3.0, 4.0)
    assert first.pixels.shape == (2, 2, 2, 3)
    assert first.warm_s == 0.5


def test_a_ratio_is_the_median_over_batches_timed_side_by_side() -> None:
    workload = Workload.of(IMAGES[:3], PARAMS, 1)
    trial = compare(
        workload,
        TuningConfig("bfloat16"),
        result(1.0, 2.0, 5.0, faults=[None] * 3),
        result(3.0, 4.0, 5.0),
    )
    assert trial.ratio == 2.0
    assert trial.images_per_s == 0.5
    assert trial.warm_s == 0.5


def test_the_rate_of_a_partial_batch_counts_its_images() -> None:
    workload = Workload.of(IMAGES[:1], PARAMS, 4)
    assert compare(workload, TuningConfig(), result(2.0), result(2.0)).images_per_s == 0.5


def test_images_that_are_faulty_in_the_reference_do_not_count() -> None:
    workload = Workload.of(IMAGES[:2], PARAMS, 1)
    reference = result(1.0, 1.0, faults=[Fault.BLANK, None])
    now = result(1.0, 1.0, faults=[Fault.BLANK, None], value=1)
    trial = compare(workload, TuningConfig(), now, reference)
    assert trial.psnr_db == (pytest.approx(48.13, abs=0.01),)
    assert trial.fault is None
    with pytest.raises(ValueError, match="every image of the reference is faulty"):
        compare(workload, TuningConfig(), now, result(1.0, faults=[Fault.BLANK]))


def test_an_image_that_only_the_candidate_spoils_is_reported() -> None:
    workload = Workload.of(IMAGES[:1], PARAMS, 1)
    trial = compare(workload, TuningConfig(), result(1.0, faults=[Fault.NON_FINITE]), result(1.0))
    assert trial.fault == "its values are not finite"


def test_the_timed_images_are_those_of_a_sampler(loaded: Loaded) -> None:
    workload = Workload.of(IMAGES, PARAMS, 2)
    candidate = Candidate(loaded("sd"), workload)
    (found,) = sample_in_turn(workload, [candidate])
    sampler = Sampler(loaded("sd"), 2)
    expected = [sampler.sample(batch, PARAMS).pixels for batch in workload.batches]
    assert (found.pixels == np.concatenate(expected)).all()
    assert len(found.batch_s) == 3
    assert min(found.batch_s) > 0
    assert found.warm_s > 0


def test_a_few_steps_are_timed_and_the_pixels_are_those_of_all_steps(loaded: Loaded) -> None:
    params = replace(PARAMS, num_inference_steps=6)
    workload, few = Workload.of(IMAGES[:2], params, 2), replace(params, num_inference_steps=2)
    one, other = (Candidate(loaded("sd"), workload) for _ in range(2))
    taken = list[int]()

    def counted(candidate: Candidate) -> None:
        sample = candidate._sampler.sample

        def count(batch: Sequence[ImageRequest], given: SamplingParams) -> SampledBatch:
            taken.append(given.num_inference_steps)
            return sample(batch, given)

        candidate._sampler.sample = count  # type: ignore[method-assign,assignment]

    counted(one)
    counted(other)
    first, second = time_in_turn(workload, [one, other], few)
    assert taken == [2] * 6
    assert len(first) == len(second) == 3
    expected = Sampler(loaded("sd"), 2).sample(IMAGES[:2], params)
    assert (one.first.pixels == expected.pixels).all()
    assert taken == [2] * 6, "the first batch had warmed up"
    assert likeness(one.first, expected).psnr_db == (math.inf, math.inf)


@pytest.mark.parametrize(("few", "taken"), [(1, [1, 3]), (3, [3])])
def test_a_few_steps_warm_up_what_is_timed_with_few(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch, few: int, taken: list[int]
) -> None:
    steps, sample = list[int](), Sampler.sample

    def counted(self: Sampler, batch: Any, params: SamplingParams, *rest: Any) -> Any:
        steps.append(params.num_inference_steps)
        return sample(self, batch, params, *rest)

    monkeypatch.setattr(Sampler, "sample", counted)
    workload = Workload.of(IMAGES[:2], PARAMS, 2)
    candidate = Candidate(loaded("sd"), workload, replace(PARAMS, num_inference_steps=few))
    assert len(candidate.first.faults) == 2
    assert steps == taken


def test_what_was_only_timed_has_no_psnr_and_is_within_no_tolerance() -> None:
    workload = Workload.of(IMAGES[:2], PARAMS, 2)
    trial = timed(workload, TuningConfig(), (3.0, 3.0, 3.0), (1.0, 2.0, 3.0), 0.5)
    assert (trial.ratio, trial.images_per_s, trial.warm_s) == (1.5, 1.0, 0.5)
    assert not trial.is_compared
    assert not trial.within(0.0)
    assert trial.recorded_lowest_db is None
    assert trial.compared([80.0, 90.0], None).within(80.0)


def test_the_time_of_a_few_steps_is_told_as_that_of_all() -> None:
    workload = Workload.of(IMAGES[:1], replace(PARAMS, num_inference_steps=6), 1)
    slow = Slow("slow", (1.0, 2.0, 3.0), [])
    (seconds,) = time_in_turn(workload, [slow], replace(PARAMS, num_inference_steps=2))
    assert seconds == (3.0, 6.0, 9.0)


def test_a_reference_compared_with_itself_has_ratio_one_and_no_difference(loaded: Loaded) -> None:
    workload = Workload.of(IMAGES[:1], PARAMS, 2)
    (found,) = sample_in_turn(workload, [Candidate(loaded("sd"), workload)])
    trial = compare(workload, TuningConfig(), found, found)
    assert trial.ratio == 1.0
    assert trial.psnr_db == (math.inf,)


def test_the_psnr_of_a_lossy_config_is_finite(loaded: Loaded, saved: Callable[[str], Path]) -> None:
    config = TuningConfig.of(deep_features={"interval": 3})
    spec = ModelSpec.model_validate(config.applied_to({"source": str(saved("sd"))}))
    workload = Workload.of(IMAGES[:2], PARAMS, 2)
    faster = loading.load(saved("sd"), spec, "cpu")
    reference, found = sample_in_turn(
        workload, [Candidate(loaded("sd"), workload), Candidate(faster, workload)]
    )
    trial = compare(workload, config, found, reference)
    assert 0 < trial.lowest_db < math.inf
    assert trial.config == config


def test_prompts_are_encoded_before_anything_is_timed(loaded: Loaded) -> None:
    workload = Workload.of(IMAGES, PARAMS, 2)
    candidate = Candidate(loaded("sd"), workload)
    conditioner = candidate._sampler._conditioner

    def encode(prompt: str) -> None:
        raise AssertionError(f"{prompt!r} was encoded while it was timed")

    conditioner._encode = encode  # type: ignore[method-assign,assignment]
    sample_in_turn(workload, [candidate])


def test_a_single_thread_is_timed_by_its_cpu_time(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    assert benchmark.clock_for("cpu") is time.thread_time
    assert benchmark.clock_for("cuda") is time.perf_counter
    monkeypatch.setattr(benchmark.torch, "get_num_threads", lambda: 2)
    assert benchmark.clock_for("cpu") is time.perf_counter
