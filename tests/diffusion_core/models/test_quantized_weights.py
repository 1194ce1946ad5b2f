"""Quantised weights are used where an image stays independent of its companions."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
import torch

from nightpress.diffusion_core.errors import ModelError
from nightpress.diffusion_core.models import loading
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.sampling.sampler import ImageRequest, Sampler, SamplingParams

Saved = Callable[[str], Path]

PER_TENSOR = {"_type": "PerTensor", "_data": {}}
PER_ROW = {"_type": "PerRow", "_data": {"dim": -1}}


def torchao(kind: str, *granularity: dict[str, Any]) -> dict[str, Any]:
    data = {"granularity": list(granularity)} if granularity else {}
    return {"quant_method": "torchao", "quant_type": {"default": {"_type": kind, "_data": data}}}


def with_settings(folder: Path, into: Path, settings: dict[str, Any]) -> Path:
    """A copy of a model whose transformer says that it is quantised."""
    copytree(folder, into)
    file = into / "transformer" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"quantization_config": settings}))
    return into


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quant_method": "quanto"}, "quantised with quanto; supported are bitsandbytes, torchao"),
        (
            {"quant_method": "bitsandbytes", "load_in_8bit": True},
            "8-bit products choose by the whole batch",
        ),
        (torchao("Int8DynamicActivationInt8WeightConfig"), "may give all activations of a batch"),
        (
            torchao("Float8DynamicActivationFloat8WeightConfig", PER_TENSOR, PER_ROW),
            "may give all activations of a batch",
        ),
    ],
)
def test_weights_that_cannot_be_used_are_refused_in_one_line(
    settings: dict[str, Any], message: str, saved: Saved, tmp_path: Path
) -> None:
    folder = with_settings(saved("flux"), tmp_path / "quantised", settings)
    with pytest.raises(ModelError, match=message) as caught:
        loading.describe(folder, ModelSpec(source=str(folder)), elsewhere=True)
    assert "transformer is quantised" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"quant_method": "bitsandbytes", "load_in_4bit": True},
        torchao("Int8WeightOnlyConfig", PER_ROW),
        torchao("Float8DynamicActivationFloat8WeightConfig", PER_ROW, PER_ROW),
    ],
)
def test_weights_that_keep_images_independent_are_described_for_another_machine(
    settings: dict[str, Any], saved: Saved, tmp_path: Path
) -> None:
    folder = with_settings(saved("flux"), tmp_path / "quantised", settings)
    assert loading.describe(folder, ModelSpec(source=str(folder)), elsewhere=True)


def test_a_missing_package_is_named_with_its_extra(
    saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "torchao" else find(name)
    )
    folder = with_settings(saved("flux"), tmp_path / "q", torchao("Int8WeightOnlyConfig"))
    with pytest.raises(
        ModelError, match=r"torchao, which is not installed.*nightpress\[quantization"
    ):
        loading.describe(folder, ModelSpec(source=str(folder)))


def test_bitsandbytes_on_a_cpu_is_refused_before_anything_is_loaded(
    saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    settings = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    folder = with_settings(saved("flux"), tmp_path / "q", settings)
    with pytest.raises(ModelError, match="bitsandbytes, which diffusers runs on a GPU only"):
        loading.load(folder, ModelSpec(source=str(folder)), "cpu")


@pytest.mark.skipif(
    importlib.util.find_spec("torchao") is None,
    reason="torchao is not installed: pip install -c infra/constraints.txt '.[quantization]'",
)
def test_a_model_with_torchaos_weights_is_loaded_and_batch_invariant(
    saved: Saved, tmp_path: Path
) -> None:
    from diffusers import FluxPipeline, FluxTransformer2DModel, TorchAoConfig
    from torchao.quantization import Int8WeightOnlyConfig

    part, folder = saved("flux") / "transformer", tmp_path / "quantised"
    config = TorchAoConfig(Int8WeightOnlyConfig())
    network = FluxTransformer2DModel.from_pretrained(part, quantization_config=config)
    FluxPipeline.from_pretrained(saved("flux"), transformer=network).save_pretrained(folder)
    spec = ModelSpec(source=str(folder))
    loading.check_weights(folder, spec)
    sampler = Sampler(loading.load(folder, spec, "cpu"), batch_size=2)
    side = 2 * loading.describe(folder, spec).size_multiple
    params, rows = SamplingParams(side, side, 2, 4.0), [ImageRequest(p, "", 3) for p in ("a", "b")]
    torch.set_num_threads(1)
    pair, alone = (sampler.sample(each, params).pixels for each in (rows, rows[1:]))
    np.testing.assert_array_equal(pair[1], alone[0])
    plain = Sampler(loading.load(saved("flux"), ModelSpec(source="flux"), "cpu"), batch_size=2)
    assert np.any(plain.sample(rows, params).pixels[0] != pair[0])
