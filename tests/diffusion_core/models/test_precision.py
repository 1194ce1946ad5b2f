"""What `dtype: auto` stands for: by device, by the generation of the GPU, and by text encoders."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from nightpress.diffusion_core.models import precision
from nightpress.diffusion_core.models.precision import (
    has_bfloat16,
    resolve_dtype,
    trainable_dtype,
    usual_dtype,
)

TURING, AMPERE, HOPPER = (7, 5), (8, 0), (9, 0)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets the compute capability of the machine's GPUs, by name."""

    def set_capability(**by_device: tuple[int, int]) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(
            torch.cuda,
            "get_device_capability",
            lambda device: by_device[str(device).replace(":", "")],
        )

    return set_capability


def folder(path: Path, **encoders: str) -> Path:
    """The folder of a model with these text encoders."""
    index = {name: ["transformers", kind] for name, kind in encoders.items()}
    index["unet"] = ["diffusers", "UNet2DConditionModel"]
    index["safety_checker"] = [None, None]  # type: ignore[list-item]
    path.mkdir(exist_ok=True)
    (path / "model_index.json").write_text(json.dumps({"_class_name": "P", **index}))
    return path


@pytest.mark.parametrize(
    ("capability", "dtype"), [(TURING, "float16"), (AMPERE, "bfloat16"), (HOPPER, "bfloat16")]
)
def test_gpus_before_ampere_get_float16(
    capability: tuple[int, int], dtype: str, gpu: Any, tmp_path: Path
) -> None:
    gpu(cuda=capability)
    clips = {"text_encoder": "CLIPTextModel", "text_encoder_2": "CLIPTextModelWithProjection"}
    assert resolve_dtype("auto", "cuda", folder(tmp_path, **clips)) == dtype


def test_of_two_gpus_the_one_that_samples_decides(gpu: Any, tmp_path: Path) -> None:
    gpu(cuda0=TURING, cuda1=AMPERE)
    model = folder(tmp_path, text_encoder="CLIPTextModel")
    assert resolve_dtype("auto", "cuda:0", model) == "float16"
    assert resolve_dtype("auto", "cuda:1", model) == "bfloat16"


@pytest.mark.parametrize(
    "encoders",
    [
        {"text_encoder": "Gemma2Model"},
        {"text_encoder": "CLIPTextModel", "text_encoder_2": "T5EncoderModel"},
        {},
    ],
)
def test_models_that_overflow_in_float16_get_float32_there(
    encoders: dict[str, str], gpu: Any, tmp_path: Path
) -> None:
    model = folder(tmp_path, **encoders)
    gpu(cuda=TURING)
    assert resolve_dtype("auto", "cuda", model) == "float32"
    gpu(cuda=AMPERE)
    assert resolve_dtype("auto", "cuda", model) == "bfloat16"


def test_a_dtype_of_the_job_stays_and_no_folder_or_gpu_is_looked_at() -> None:
    for device in ("cpu", "cuda"):
        for dtype in ("float32", "bfloat16", "float16"):
            assert resolve_dtype(dtype, device, Path("nowhere")) == dtype
            assert usual_dtype(dtype, device) == trainable_dtype(dtype, device) == dtype
    assert resolve_dtype("auto", "cpu", Path("nowhere")) == "float32"
    assert (usual_dtype("auto", "cpu"), usual_dtype("auto", "cuda")) == ("float32", "bfloat16")


def test_nothing_is_trained_in_float16_unasked(gpu: Any) -> None:
    gpu(cuda=TURING)
    assert trainable_dtype("auto", "cuda") == "float32"
    gpu(cuda=AMPERE)
    assert trainable_dtype("auto", "cuda") == "bfloat16"
    assert trainable_dtype("auto", "cpu") == "float32"


def test_gpus_of_rocm_are_not_told_by_nvidias_capabilities(
    gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu(cuda=TURING)
    assert not has_bfloat16("cuda")
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert precision.has_bfloat16("cuda")


def test_a_gpu_that_torch_does_not_see_is_asked_for_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_dtype("auto", "cuda", folder(tmp_path)) == "bfloat16"
