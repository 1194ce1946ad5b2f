"""Trials of faster ways in one process: what is asked of its device."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch._inductor import cpp_builder
from torch._inductor.exc import InvalidCxxCompiler

from nightpress.diffusion_core.tuning.candidates import TuningConfig
from nightpress.jobs.dispatch.held_models import HeldModels
from nightpress.jobs.dispatch.speed_trials import SpeedTrials
from nightpress.jobs.dispatch.trial_images import TrialImages
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.models.files import ModelFiles
from nightpress.pipelines.planning import check
from nightpress.pipelines.shards.first_images import first_images

MakeSpec = Callable[..., RunSpec]

BATCH = 2
LAST = TuningConfig.of(channels_last=True)
FULL = TuningConfig.of(compile="full")


@pytest.fixture
def trials(
    make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], SpeedTrials]:
    """The trials of a new run on a CPU, without clock."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(SpeedTrials, "_time", lambda *given: 1.0)
    spec = make_spec()
    info = ModelFiles.locate(spec.model, {}).describe(spec.model, device="cpu")
    layout = check(spec, info, BATCH)
    images = first_images(spec, info, layout, layout.batches[0].settings, BATCH)
    trial = TrialImages(images, spec, spec.url, BATCH, [LAST, FULL], info.identity)
    return lambda: SpeedTrials(HeldModels(spec.model, {}, "cpu"), trial, "cpu")


def no_compiler() -> str:
    raise InvalidCxxCompiler


def test_a_job_on_the_cpu_of_a_gpu_machine_is_not_asked_for_triton(
    trials: Callable[[], SpeedTrials], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("torch.utils._triton.has_triton", lambda: False)
    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", lambda: "g++")
    assert trials().start().unusable == {}


def test_triton_does_not_compile_for_a_cpu(
    trials: Callable[[], SpeedTrials], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("torch.utils._triton.has_triton", lambda: True)
    monkeypatch.setenv("CC", "cc")
    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", no_compiler)
    unusable = trials().start().unusable
    assert list(unusable) == [FULL]
    assert "on a CPU torch.compile needs a C++ compiler" in unusable[FULL]
