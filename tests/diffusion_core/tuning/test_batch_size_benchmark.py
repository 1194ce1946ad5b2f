"""Measurements of real batches and real memory."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.clip_table import Trial, save

from nightpress.diffusion_core.conditioning.passes import PassSpec, passes_of
from nightpress.diffusion_core.conditioning.spec import Conditioning
from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.sampling.request import ImageRequest, SamplingParams
from nightpress.diffusion_core.sampling.sampler import SampledBatch, Sampler
from nightpress.diffusion_core.tuning import device_memory
from nightpress.diffusion_core.tuning.batch_size import find_best_batch_size
from nightpress.diffusion_core.tuning.batch_size_benchmark import (
    PROMPT,
    ROUNDS,
    TRIAL_STEPS,
    batch_benchmark,
    trial_settings,
)
from nightpress.diffusion_core.tuning.device_memory import (
    CudaMemory,
    HostMemory,
    available_bytes,
    resident_bytes,
    trial_memory,
)

Loaded = Callable[[str], LoadedModel]

PARAMS = SamplingParams(64, 64, 20, 3.0)


@pytest.mark.parametrize("family", ["sd", "flux", "sana"])
def test_a_model_is_measured_with_its_own_settings_for_a_few_steps(
    loaded: Loaded, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler, seen = Sampler(loaded(family), batch_size=1), []
    plain = sampler.sample

    def watched(requests: list[ImageRequest], params: SamplingParams, size: int) -> object:
        seen.append((len(requests), params.num_inference_steps, size))
        return plain(requests, params, size)

    monkeypatch.setattr(sampler, "sample", watched)
    with trial_memory("cpu", 1.0) as memory:
        found = find_best_batch_size(
            batch_benchmark(sampler, PARAMS, memory), memory.limit_bytes, 1, budget_s=1.0
        )
    sizes = [trial.batch_size for trial in found.trials]
    assert seen[: ROUNDS * len(sizes)] == [
        (size, TRIAL_STEPS, size) for size in sizes for _ in range(ROUNDS)
    ]
    assert found.batch_size in sizes
    assert all(0 < trial.peak_bytes < memory.limit_bytes for trial in found.trials)


def test_images_with_fewer_steps_are_measured_with_those(loaded: Loaded) -> None:
    sampler, seen = Sampler(loaded("sd"), batch_size=1), []

    class Watched:
        clips = None

        def sample(
            self, requests: list[ImageRequest], params: SamplingParams, size: int
        ) -> SampledBatch:
            seen.append((requests[0].prompt, params.num_inference_steps))
            return sampler.sample(requests, params, size)

    two = SamplingParams(64, 64, 2, 3.0)
    with trial_memory("cpu", 1.0) as memory:
        batch_benchmark(Watched(), two, memory)(1)  # type: ignore[arg-type]
    assert seen == [(PROMPT, 2)] * ROUNDS


def test_of_a_walk_a_batch_of_its_frames_is_measured(loaded: Loaded) -> None:
    seen = []

    class Watched:
        clips = None

        def sample(
            self, requests: list[ImageRequest], params: SamplingParams, size: int
        ) -> SampledBatch:
            seen.append((len(requests), params))
            return SampledBatch(np.zeros((size, 64, 64, 3), np.uint8), (None,) * size)

    walk = SamplingParams(64, 64, 2, 3.0, num_frames=25)
    with trial_memory("cpu", 1.0) as memory:
        batch_benchmark(Watched(), walk, memory, rounds=1)(4)  # type: ignore[arg-type]
    assert seen == [(4, replace(walk, num_frames=None))]


@pytest.mark.parametrize("name", ["LTXPipeline", "StableVideoDiffusionPipeline"])
def test_whole_clips_are_measured_with_grey_pictures(name: str, tmp_path: Path) -> None:
    trial = Trial.of(save(name, tmp_path)).with_mode("image")
    with trial_memory("cpu", 1.0) as memory:
        measure = batch_benchmark(trial.sampler, trial.params, memory, steps=1, rounds=1)
        assert measure(1).seconds > 0


def test_a_measurement_does_not_change_later_images(loaded: Loaded) -> None:
    request = [ImageRequest("a red disc", "", 7)]
    before = Sampler(loaded("sd"), batch_size=2).sample(request, PARAMS).pixels
    sampler = Sampler(loaded("sd"), batch_size=2)
    with trial_memory("cpu", 1.0) as memory:
        batch_benchmark(sampler, PARAMS, memory)(4)
    assert np.array_equal(sampler.sample(request, PARAMS).pixels, before)


def test_a_peak_includes_memory_that_was_released() -> None:
    with trial_memory("cpu", 1.0) as memory:
        memory.reset_peak()
        before = memory.peak_bytes()
        held = np.ones(64 << 20, np.uint8)
        del held
        assert memory.peak_bytes() - before >= 60 << 20


def test_the_cpu_limit_is_resident_memory_plus_a_share_of_free_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(device_memory, "available_bytes", lambda: 1_000_000_000_000)
    whole, half = HostMemory(1.0).limit_bytes, HostMemory(0.5).limit_bytes
    assert whole - half == pytest.approx(450_000_000_000, rel=0.01)
    assert whole > resident_bytes() > 0


@pytest.mark.parametrize(("share", "limit_gib"), [(1.0, 63), (0.5, 35.1), (0.1, 6.3)])
def test_the_gpu_limit_is_free_or_reserved_memory_up_to_our_share_without_the_context(
    monkeypatch: pytest.MonkeyPatch, share: float, limit_gib: float
) -> None:
    """torch does not hold 10 GiB; 1 GiB of it counts as the context of this process."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (60 << 30, 80 << 30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 10 << 30)
    assert CudaMemory("cuda", share).limit_bytes == pytest.approx(limit_gib * 2**30)


def test_a_small_context_is_taken_from_our_share_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (79 << 30, 80 << 30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 1 << 29)
    assert CudaMemory("cuda", 0.5).limit_bytes == pytest.approx(0.9 * 39.5 * 2**30)


def test_the_memory_of_a_numbered_gpu_is_that_of_this_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def told(value: Any) -> Callable[..., Any]:
        def tell(device: torch.device) -> Any:
            asked.append(str(device))
            return value

        return tell

    monkeypatch.setattr(torch.cuda, "mem_get_info", told((60 << 30, 80 << 30)))
    for name in ("memory_reserved", "reset_peak_memory_stats", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, told(0))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    with trial_memory("cuda:1", 1.0) as memory:
        assert isinstance(memory, CudaMemory)
        memory.reset_peak()
        memory.peak_bytes()
    assert set(asked) == {"cuda:1"}
    assert len(asked) == 5


@pytest.mark.parametrize(
    ("limit", "used", "available"),
    [("3000000", "1000000", 2_000_000), ("max", "1000000", None), ("1000", "5000", 0)],
)
def test_a_container_limit_is_respected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, used: str, available: int | None
) -> None:
    files = tmp_path / "memory.max", tmp_path / "memory.current"
    for file, text in zip(files, (limit, used), strict=True):
        file.write_text(text + "\n")
    (tmp_path / "meminfo").write_text("MemTotal: 9000000 kB\nMemAvailable: 8000000 kB\nHuge: 0\n")
    monkeypatch.setattr(device_memory, "CONTAINER", (files,))
    monkeypatch.setattr(device_memory, "MEMINFO", tmp_path / "meminfo")
    assert available_bytes() == (8_000_000 * 1024 if available is None else available)


def test_without_system_files_half_of_all_memory_counts_as_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MEMINFO", "STATUS", "CLEAR_REFS"):
        monkeypatch.setattr(device_memory, name, tmp_path / "none")
    monkeypatch.setattr(device_memory, "CONTAINER", ())
    memory = HostMemory()
    memory.reset_peak()
    assert resident_bytes() == 0
    assert 0 < memory.limit_bytes < available_bytes() * 2
    assert memory.peak_bytes() > 10 << 20


def test_images_made_from_pictures_and_passes_are_measured_too(loaded: Loaded) -> None:
    """With grey pictures, and a few steps each time that an image is sampled."""
    passes = passes_of([PassSpec(scale=2.0, strength=0.5, num_inference_steps=20)], 16, 16, 8)
    conditioning = Conditioning("inpaint", strength=0.3)
    params = SamplingParams(16, 16, 20, 3.0, conditioning=conditioning, passes=passes)
    trial = trial_settings(params, 1)
    assert [steps for _, _, steps in trial.work] == [1, 1]
    with trial_memory("cpu", 1.0) as memory:
        measure = batch_benchmark(Sampler(loaded("sd"), 2), params, memory, steps=1, rounds=1)
        assert measure(2).seconds > 0
