"""Ways of sampling timed beside each other: the same work in turn, and only when it is warm."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from nightpress.diffusion_core.models import loading
from nightpress.diffusion_core.models.loading import LoadedModel, ModelSpec
from nightpress.diffusion_core.sampling.request import ImageRequest, SamplingParams
from nightpress.diffusion_core.sampling.sampler import Fault, SampledBatch, Sampler
from nightpress.diffusion_core.tuning import benchmark
from nightpress.diffusion_core.tuning.benchmark import Candidate, Made, Work, compared, in_turn
from nightpress.diffusion_core.tuning.candidates import TuningConfig

PARAMS = SamplingParams(width=64, height=32, num_inference_steps=3, guidance_scale=4.0)
IMAGES = [ImageRequest(f"the number {seed}", "", seed) for seed in range(5)]

Loaded = Callable[[str], LoadedModel]


class Slow(Candidate):
    """Samples nothing, and takes as long as it is told."""

    def __init__(self, name: str, seconds: Sequence[float], diary: list[str]) -> None:
        self.warm_s = 0.5
        self._name, self._seconds, self._diary = name, iter(seconds), diary

    def sample(self, batch: Sequence[ImageRequest]) -> tuple[SampledBatch, float]:
        self._diary.append(f"{self._name} {batch[0].seed}")
        pixels = np.zeros((len(batch), 2, 2, 3), np.uint8)
        return SampledBatch(pixels, (None,) * len(batch)), next(self._seconds)


def made(*seconds: float, faults: Sequence[Fault | None] = (None,), value: int = 0) -> Made:
    pixels = np.full((len(faults), 2, 2, 3), value, np.uint8)
    return Made(pixels, tuple(faults), seconds, 0.5)


def test_work_is_cut_into_batches_and_done_often_enough_to_be_timed() -> None:
    work = Work.of(IMAGES, PARAMS, 2)
    assert [len(batch) for batch in work.batches] == [2, 2, 1]
    assert (work.num_images, work.num_rounds) == (5, 1)
    assert [image for batch in work.batches for image in batch] == IMAGES
    assert Work.of(IMAGES[:4], PARAMS, 2).num_rounds == 2
    assert Work.of(IMAGES[:1], PARAMS, 2).num_rounds == 3


def test_work_without_an_image_is_refused() -> None:
    with pytest.raises(ValueError, match="no image"):
        Work.of([], PARAMS, 2)


def test_every_batch_is_sampled_by_all_in_turn() -> None:
    work, diary = Work.of(IMAGES[:2], PARAMS, 1), list[str]()
    one, other = (Slow(name, (1.0, 2.0, 3.0, 4.0), diary) for name in ("one", "other"))
    first, second = in_turn(work, [one, other])
    assert diary == ["one 0", "other 0", "one 1", "other 1"] * 2
    assert first.batch_s == second.batch_s == (1.0, 2.0, 3.0, 4.0)
    assert first.pixels.shape == (2, 2, 2, 3)
    assert first.warm_s == 0.5


def test_a_ratio_is_the_median_over_batches_that_were_timed_beside_each_other() -> None:
    work = Work.of(IMAGES[:3], PARAMS, 1)
    trial = compared(
        work, TuningConfig("bfloat16"), made(1.0, 2.0, 5.0, faults=[None] * 3), made(3.0, 4.0, 5.0)
    )
    assert trial.ratio == 2.0
    assert trial.images_per_s == 0.5
    assert trial.warm_s == 0.5


def test_a_batch_that_is_not_full_counts_by_its_images() -> None:
    work = Work.of(IMAGES[:1], PARAMS, 4)
    assert compared(work, TuningConfig(), made(2.0), made(2.0)).images_per_s == 0.5


def test_pictures_that_the_reference_spoilt_do_not_count() -> None:
    work = Work.of(IMAGES[:2], PARAMS, 1)
    reference = made(1.0, 1.0, faults=[Fault.BLANK, None])
    now = made(1.0, 1.0, faults=[Fault.BLANK, None], value=1)
    trial = compared(work, TuningConfig(), now, reference)
    assert trial.psnr_db == (pytest.approx(48.13, abs=0.01),)
    assert trial.fault is None
    with pytest.raises(ValueError, match="no sound picture"):
        compared(work, TuningConfig(), now, made(1.0, faults=[Fault.BLANK]))


def test_a_picture_that_only_a_way_spoils_is_told() -> None:
    work = Work.of(IMAGES[:1], PARAMS, 1)
    trial = compared(work, TuningConfig(), made(1.0, faults=[Fault.NON_FINITE]), made(1.0))
    assert trial.fault == "its values are not finite"


def test_what_is_timed_are_the_pictures_of_a_sampler(loaded: Loaded) -> None:
    work = Work.of(IMAGES, PARAMS, 2)
    entrant = Candidate(loaded("sd"), work)
    (found,) = in_turn(work, [entrant])
    sampler = Sampler(loaded("sd"), 2)
    expected = [sampler.sample(batch, PARAMS).pixels for batch in work.batches]
    assert (found.pixels == np.concatenate(expected)).all()
    assert len(found.batch_s) == 3
    assert min(found.batch_s) > 0
    assert found.warm_s > 0


def test_a_reference_is_as_fast_and_as_near_as_itself(loaded: Loaded) -> None:
    work = Work.of(IMAGES[:1], PARAMS, 2)
    (found,) = in_turn(work, [Candidate(loaded("sd"), work)])
    trial = compared(work, TuningConfig(), found, found)
    assert trial.ratio == 1.0
    assert trial.psnr_db == (math.inf,)


def test_a_way_is_as_near_as_its_pictures_are(loaded: Loaded, saved: Callable[[str], Path]) -> None:
    way = TuningConfig.of(deep_features={"interval": 3})
    spec = ModelSpec.model_validate(way.onto({"source": str(saved("sd"))}))
    work = Work.of(IMAGES[:2], PARAMS, 2)
    faster = loading.load(saved("sd"), spec, "cpu")
    reference, found = in_turn(work, [Candidate(loaded("sd"), work), Candidate(faster, work)])
    trial = compared(work, way, found, reference)
    assert 0 < trial.lowest_db < math.inf
    assert trial.way == way


def test_prompts_are_encoded_before_anything_is_timed(loaded: Loaded) -> None:
    work = Work.of(IMAGES, PARAMS, 2)
    entrant = Candidate(loaded("sd"), work)
    conditioner = entrant._sampler._conditioner

    def encode(prompt: str) -> None:
        raise AssertionError(f"{prompt!r} was encoded while it was timed")

    conditioner._encode = encode  # type: ignore[method-assign,assignment]
    in_turn(work, [entrant])


def test_one_thread_is_timed_by_its_own_work(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    assert benchmark.clock_of("cpu") is time.thread_time
    assert benchmark.clock_of("cuda") is time.perf_counter
    monkeypatch.setattr(benchmark.torch, "get_num_threads", lambda: 2)
    assert benchmark.clock_of("cpu") is time.perf_counter
