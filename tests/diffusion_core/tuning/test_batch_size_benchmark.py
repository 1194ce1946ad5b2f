"""Trials of real batches, and readings of real memory."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.sampling.request import ImageRequest, SamplingParams
from nightpress.diffusion_core.sampling.sampler import Sampler
from nightpress.diffusion_core.tuning import device_memory
from nightpress.diffusion_core.tuning.batch_size import find_best_batch_size
from nightpress.diffusion_core.tuning.batch_size_benchmark import (
    PROMPT,
    ROUNDS,
    TRIAL_STEPS,
    trials,
)
from nightpress.diffusion_core.tuning.device_memory import (
    CudaMemory,
    HostMemory,
    available_bytes,
    resident_bytes,
    room_on,
)

Loaded = Callable[[str], LoadedModel]

PARAMS = SamplingParams(64, 64, 20, 3.0)


@pytest.mark.parametrize("family", ["sd", "flux", "sana"])
def test_a_model_is_tried_at_its_own_settings_for_a_few_steps(
    loaded: Loaded, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler, seen = Sampler(loaded(family), batch_size=1), []
    plain = sampler.sample

    def watched(requests: list[ImageRequest], params: SamplingParams, size: int) -> object:
        seen.append((len(requests), params.num_inference_steps, size))
        return plain(requests, params, size)

    monkeypatch.setattr(sampler, "sample", watched)
    with room_on("cpu", 1.0) as room:
        found = find_best_batch_size(
            trials(sampler, PARAMS, room), room.room_bytes, 1, budget_s=1.0
        )
    sizes = [trial.batch_size for trial in found.trials]
    assert seen[: ROUNDS * len(sizes)] == [
        (size, TRIAL_STEPS, size) for size in sizes for _ in range(ROUNDS)
    ]
    assert found.batch_size in sizes
    assert all(0 < trial.peak_bytes < room.room_bytes for trial in found.trials)


def test_images_of_fewer_steps_are_tried_with_theirs(loaded: Loaded) -> None:
    sampler, seen = Sampler(loaded("sd"), batch_size=1), []

    class Watched:
        def sample(self, requests: list[ImageRequest], params: SamplingParams, size: int) -> None:
            seen.append((requests[0].prompt, params.num_inference_steps))
            sampler.sample(requests, params, size)

    two = SamplingParams(64, 64, 2, 3.0)
    with room_on("cpu", 1.0) as room:
        trials(Watched(), two, room)(1)  # type: ignore[arg-type]
    assert seen == [(PROMPT, 2)] * ROUNDS


def test_a_trial_leaves_no_trace_in_what_is_sampled_after_it(loaded: Loaded) -> None:
    request = [ImageRequest("a red disc", "", 7)]
    before = Sampler(loaded("sd"), batch_size=2).sample(request, PARAMS).pixels
    sampler = Sampler(loaded("sd"), batch_size=2)
    with room_on("cpu", 1.0) as room:
        trials(sampler, PARAMS, room)(4)
    assert np.array_equal(sampler.sample(request, PARAMS).pixels, before)


def test_a_peak_is_what_was_held_even_if_it_is_given_back() -> None:
    with room_on("cpu", 1.0) as room:
        room.forget()
        before = room.peak_bytes()
        held = np.ones(64 << 20, np.uint8)
        del held
        assert room.peak_bytes() - before >= 60 << 20


def test_room_is_what_is_held_and_a_share_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_memory, "available_bytes", lambda: 1_000_000_000_000)
    whole, half = HostMemory(1.0).room_bytes, HostMemory(0.5).room_bytes
    assert whole - half == pytest.approx(450_000_000_000, rel=0.01)
    assert whole > resident_bytes() > 0


@pytest.mark.parametrize(("share", "room"), [(1.0, 63), (0.5, 36), (0.1, 7.2)])
def test_on_a_gpu_room_is_what_is_free_or_ours_but_no_more_than_our_share(
    monkeypatch: pytest.MonkeyPatch, share: float, room: float
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (60 << 30, 80 << 30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 10 << 30)
    assert CudaMemory(share).room_bytes == pytest.approx(room * 2**30)


@pytest.mark.parametrize(
    ("limit", "used", "available"),
    [("3000000", "1000000", 2_000_000), ("max", "1000000", None), ("1000", "5000", 0)],
)
def test_a_containers_limit_is_heeded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, used: str, available: int | None
) -> None:
    files = tmp_path / "memory.max", tmp_path / "memory.current"
    for file, text in zip(files, (limit, used), strict=True):
        file.write_text(text + "\n")
    (tmp_path / "meminfo").write_text("MemTotal: 9000000 kB\nMemAvailable: 8000000 kB\nHuge: 0\n")
    monkeypatch.setattr(device_memory, "CONTAINER", (files,))
    monkeypatch.setattr(device_memory, "MEMINFO", tmp_path / "meminfo")
    assert available_bytes() == (8_000_000 * 1024 if available is None else available)


def test_where_no_system_file_says_half_of_the_machine_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MEMINFO", "STATUS", "CLEAR_REFS"):
        monkeypatch.setattr(device_memory, name, tmp_path / "none")
    monkeypatch.setattr(device_memory, "CONTAINER", ())
    room = HostMemory()
    room.forget()
    assert resident_bytes() == 0
    assert 0 < room.room_bytes < available_bytes() * 2
    assert room.peak_bytes() > 10 << 20
