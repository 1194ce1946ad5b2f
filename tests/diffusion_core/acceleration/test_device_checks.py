"""What a choice needs is asked of the device that samples, not of any device of the machine."""

import shutil
import sys
from types import ModuleType
from typing import Any

import pytest
import torch

from nightpress.diffusion_core.acceleration import attention, compilation, quantization
from nightpress.diffusion_core.errors import SettingsError


@pytest.fixture
def gpu_box(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has a GPU of compute capability 8.6, and neither Triton nor CUDA packages."""

    def capability(device: Any = None) -> tuple[int, int]:
        assert device == "cuda", "another GPU was asked"
        return (8, 6)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", capability)
    monkeypatch.setattr("torch.utils._triton.has_triton", lambda: False)


@pytest.mark.usefixtures("gpu_box")
def test_a_job_on_the_cpu_of_a_gpu_machine_needs_no_triton_but_a_compiler_of_cpp() -> None:
    with pytest.raises(SettingsError, match=r"on a GPU torch\.compile needs Triton"):
        compilation.require_compiler("cuda")
    compilation.require_compiler("cpu")


@pytest.mark.usefixtures("gpu_box")
@pytest.mark.parametrize("backend", attention.CUDA_ONLY)
def test_an_attention_backend_of_gpus_is_refused_for_a_cpu(backend: str) -> None:
    with pytest.raises(SettingsError, match=f"{backend} needs a CUDA device; on a CPU: native"):
        attention.require_backend(backend, "cpu")


@pytest.mark.usefixtures("gpu_box")
def test_float8_needs_a_gpu_that_multiplies_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao", ModuleType("torchao"))  # it need not be installed
    name = "float8_dynamic_activation_float8_weight"
    for device in ("cpu", "cuda"):
        with pytest.raises(SettingsError, match=r"compute capability 8\.9 or higher"):
            quantization.require_quantization(name, device)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    quantization.require_quantization(name, "cuda")
    quantization.require_quantization("int8_weight_only", "cpu")


def test_a_machine_without_a_cpp_compiler_may_still_compile_for_its_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.utils._triton.has_triton", lambda: True)
    monkeypatch.setenv("CC", "cc")
    monkeypatch.setattr(shutil, "which", lambda *_: None)
    compilation.require_compiler("cuda")
