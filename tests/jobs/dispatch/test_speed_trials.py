"""Trials of faster ways in one process: what is asked of its device, and what may go wrong."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._inductor import cpp_builder
from torch._inductor.exc import InvalidCxxCompiler

from nightpress.diffusion_core.errors import DeviceError
from nightpress.diffusion_core.tuning.candidates import TuningConfig
from nightpress.diffusion_core.tuning.kept_trials import MOST_FAILURES
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
    """The trials of a new run on a CPU, without clock; each knows what those before have kept."""
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


def raising(error: Exception) -> Callable[..., Any]:
    def measure(*given: Any) -> Any:
        raise error

    return measure


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(28, "No space left on device"), "OSError: [Errno 28] No space left on device"),
        (ImportError("no module\nnamed x"), "ImportError: no module named x"),
        (AttributeError(), "AttributeError"),
    ],
)
def test_what_nobody_expects_of_a_way_is_a_reason_in_one_line_and_kept_as_its_failure(
    trials: Callable[[], SpeedTrials],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    reason: str,
) -> None:
    monkeypatch.setattr(SpeedTrials, "_measure", raising(error))
    for _ in range(MOST_FAILURES):
        assert trials().measure(LAST) == reason
    (said, *_) = [each for each in caplog.records if each.exc_info]
    assert (said.levelno, said.message) == (logging.ERROR, "trying channels_last has failed")
    kept = trials().start().kept[LAST]
    assert (kept.failure, kept.failures) == (reason, MOST_FAILURES)


def test_an_error_of_the_check_of_a_way_is_a_reason_as_well(
    trials: Callable[[], SpeedTrials], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", raising(OSError("cannot run g++")))
    unusable = trials().start().unusable
    assert unusable == {FULL: "OSError: cannot run g++"}
    assert trials().measure(FULL) == "OSError: cannot run g++"


def test_a_device_that_fails_at_the_check_of_a_way_ends_the_process(
    trials: Callable[[], SpeedTrials], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = torch.AcceleratorError("an illegal memory access")
    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", raising(broken))
    with pytest.raises(DeviceError, match="AcceleratorError: an illegal memory access"):
        trials().start()


def test_a_way_with_which_the_device_fails_ends_the_process(
    trials: Callable[[], SpeedTrials], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = torch.AcceleratorError("an illegal memory access")
    monkeypatch.setattr(SpeedTrials, "_measure", raising(broken))
    with pytest.raises(DeviceError, match="AcceleratorError: an illegal memory access"):
        trials().measure(LAST)
