"""The search for a batch size, on devices simulated by a formula."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightpress.diffusion_core.errors import OutOfMemory
from nightpress.diffusion_core.tuning.batch_size import (
    LINEAR_MEMORY_SIZE,
    NEARLY_BEST,
    BestBatchSize,
    Ending,
    Measurement,
    SizeTrial,
    find_best_batch_size,
    largest_fitting,
    nearly_best,
    padding_efficiency,
    predicted_peak_bytes,
)

ROOMY = 10**15


@dataclass
class Device:
    """Time and memory are linear in the number of images."""

    batch_s: float = 1.0
    image_s: float = 0.01
    weights: int = 1_000
    image_bytes: int = 100
    memory: int = ROOMY
    now: float = 0.0
    tried: list[int] = field(default_factory=list)

    def __call__(self, size: int) -> Measurement:
        self.tried.append(size)
        peak = self.weights + size * self.image_bytes
        if peak > self.memory:
            raise OutOfMemory(f"{peak} of {self.memory}")
        seconds = self.batch_s + size * self.image_s
        self.now += seconds
        return Measurement(seconds, peak)

    def rate(self, size: int) -> float:
        return size / (self.batch_s + size * self.image_s)

    def clock(self) -> float:
        return self.now


def best_of(
    device: Device, limit: int = ROOMY, default: int = 4, budget_s: float = 1e9
) -> BestBatchSize:
    return find_best_batch_size(device, limit, default, budget_s, clock=device.clock)


@given(batch_s=st.floats(0, 10), image_s=st.floats(0.001, 1))
def test_no_smaller_size_is_nearly_as_fast_and_no_tried_size_is_much_faster(
    batch_s: float, image_s: float
) -> None:
    device = Device(batch_s, image_s)
    found = best_of(device)
    best = max(map(device.rate, device.tried))
    assert device.rate(found.batch_size) >= NEARLY_BEST * best
    assert all(device.rate(s) < NEARLY_BEST * best for s in device.tried if s < found.batch_size)
    assert [trial.batch_size for trial in found.trials] == device.tried


def test_sizes_are_doubled_until_doubling_gains_little() -> None:
    device = Device(batch_s=10, image_s=0.1)
    found = best_of(device)
    assert device.tried == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    assert (found.batch_size, found.ending) == (512, Ending.ENOUGH)
    quicker = Device(batch_s=0.1, image_s=0.1)
    found = best_of(quicker)
    assert quicker.tried == [1, 2, 4, 8, 16, 32]
    assert (found.batch_size, found.ending) == (16, Ending.RATE)


def test_if_batching_gains_nothing_the_batch_size_is_one() -> None:
    device = Device(batch_s=0.0, image_s=1.0)
    found = best_of(device)
    assert (found.batch_size, found.ending, device.tried) == (1, Ending.RATE, [1, 2, 4, 8])


def test_a_size_predicted_not_to_fit_is_not_tried() -> None:
    device = Device(memory=5_000)
    found = best_of(device, limit=3_000)
    assert device.tried == [1, 2, 4, 8, 16]
    assert (found.batch_size, found.ending) == (16, Ending.MEMORY)


def test_running_out_of_memory_ends_the_search() -> None:
    device = Device(memory=3_000)
    found = best_of(device)
    assert device.tried == [1, 2, 4, 8, 16, 32]
    assert (found.batch_size, found.ending) == (16, Ending.MEMORY)
    assert best_of(Device(memory=1_000)) == BestBatchSize(1, Ending.MEMORY, ())


def test_a_peak_above_the_limit_counts_as_not_fitting() -> None:
    class Steep(Device):
        def __call__(self, size: int) -> Measurement:
            return Measurement(super().__call__(size).seconds, 1_000 * size**2)

    found = best_of(Steep(), limit=20_000)
    assert [trial.batch_size for trial in found.trials] == [1, 2, 4]
    assert (found.batch_size, found.ending) == (4, Ending.MEMORY)


def test_no_trial_is_started_that_would_end_too_late() -> None:
    device = Device(batch_s=1.0, image_s=1.0)
    found = best_of(device, budget_s=12.0)
    assert device.tried == [1, 2, 4]
    assert device.now <= 12.0
    assert (found.batch_size, found.ending) == (4, Ending.TIME)


def test_a_model_too_slow_to_measure_keeps_the_default_size() -> None:
    device = Device(batch_s=60.0)
    found = best_of(device, default=8, budget_s=30.0)
    assert (device.tried, found.batch_size, found.ending) == ([1], 8, Ending.TIME)


def test_padding_counts_against_a_size() -> None:
    device = Device(batch_s=10, image_s=0.1)
    efficiency = padding_efficiency([24] * 50)
    assert [efficiency(size) for size in (1, 8, 16, 32)] == [1.0, 1.0, 0.75, 0.75]
    found = find_best_batch_size(device, ROOMY, 4, 1e9, efficiency, device.clock)
    assert (found.batch_size, found.ending) == (32, Ending.RATE)
    assert device.tried == [1, 2, 4, 8, 16, 32, 64]
    alone = find_best_batch_size(device, ROOMY, 4, 1e9, padding_efficiency([3] * 50), device.clock)
    assert alone.batch_size == 4


@given(
    wanted=st.integers(1, 100_000),
    image_bytes=st.integers(1, 1_000),
    limit=st.integers(10_000, 10_000_000),
)
def test_a_requested_size_is_halved_until_it_fits(
    wanted: int, image_bytes: int, limit: int
) -> None:
    device = Device(image_bytes=image_bytes)
    found = largest_fitting(device, limit, wanted)
    sizes = {wanted >> k for k in range(17)} - {0}
    assert found.batch_size in sizes
    assert max(device.tried) <= min(wanted, LINEAR_MEMORY_SIZE)
    if wanted > 1:
        fitting = {size for size in sizes if 1_000 + size * image_bytes <= limit}
        assert found.batch_size == max(fitting)
    assert (found.ending is Ending.ENOUGH) == (found.batch_size == wanted)


def test_a_requested_size_is_cut_to_the_few_images_that_fit() -> None:
    assert largest_fitting(Device(memory=1_300), ROOMY, 4_096).batch_size == 2
    assert largest_fitting(Device(memory=1_000), ROOMY, 4_096).batch_size == 1


def test_memory_is_predicted_from_the_last_two_trials() -> None:
    trials = [SizeTrial(1, 1.0, 500), SizeTrial(2, 1.0, 1_000), SizeTrial(4, 1.0, 1_200)]
    assert predicted_peak_bytes(trials, 8) == 1_600
    assert predicted_peak_bytes(trials[:1], 8) == 0
    assert predicted_peak_bytes([SizeTrial(1, 1.0, 900), SizeTrial(2, 1.0, 800)], 64) == 800


def test_the_smallest_size_that_is_nearly_the_fastest_is_chosen() -> None:
    assert nearly_best({8: 3.0, 4: 2.95, 2: 1.9, 1: 1.0}) == 4
    assert nearly_best({}) == 1


@pytest.mark.parametrize("ending", Ending)
def test_every_ending_is_explained(ending: Ending) -> None:
    assert " " in ending.explanation
