"""Networks that are moved to the device in turn make the very same images."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import tiny_loras, tiny_models
from support.slow_cases import slow_except

from nightpress.diffusion_core.errors import ModelError
from nightpress.diffusion_core.models import loading, placement
from nightpress.diffusion_core.models.lora_files import LORA_FILE
from nightpress.diffusion_core.models.pipeline_folder import PipelineFolder
from nightpress.diffusion_core.models.placement import MemorySpec, Offload
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.models.weight_size import weight_sizes
from nightpress.diffusion_core.sampling.sampler import ImageRequest, Sampler, SamplingParams

Saved = Callable[[str], Path]
REQUESTS = [ImageRequest("a fox", "", 1), ImageRequest("a dog in snow", "red", 2)]


def images(
    model: loading.LoadedModel, requests: list[ImageRequest], lora: str | None = None
) -> Any:
    side = 2 * model.size_multiple
    takes_negative = model.takes_negative_prompt
    asked = [
        each if takes_negative else ImageRequest(each.prompt, "", each.seed) for each in requests
    ]
    params = SamplingParams(side, side, 2, 4.0, lora=lora)
    return np.stack(Sampler(model, batch_size=2).sample(asked, params).pixels)


def moved(folder: Path, spec: ModelSpec, kind: Offload, files: Any = ()) -> loading.LoadedModel:
    """The model with the hooks that move its networks, between the CPU and the CPU."""
    model = loading.load(folder, spec, "cpu", files)
    placement.offload(model.pipeline, kind, "cpu")
    return model


@pytest.mark.parametrize("kind", ["model", "group"])
@pytest.mark.parametrize("family", slow_except(tiny_models.FAMILIES, "sd", "flux"))
def test_moving_networks_changes_no_bit(family: str, kind: Offload, saved: Saved) -> None:
    spec = ModelSpec(source=family)
    expected = images(loading.load(saved(family), spec, "cpu"), REQUESTS)
    model = moved(saved(family), spec, kind)
    np.testing.assert_array_equal(images(model, REQUESTS), expected)
    np.testing.assert_array_equal(images(model, REQUESTS[1:]), expected[1:])


@pytest.mark.parametrize("kind", slow_except(["model", "group"], "model"))
def test_rows_switch_between_loras_in_networks_that_are_moved(
    kind: Offload, saved: Saved, plain: Any, tmp_path: Path
) -> None:
    file = tiny_loras.save(plain("sd"), tmp_path / "ink", with_text=True) / LORA_FILE
    spec = ModelSpec(source="sd", row_loras=[{"source": str(file), "name": "ink"}])
    for lora in ("ink", None):
        expected = images(loading.load(saved("sd"), spec, "cpu", [file]), REQUESTS, lora)
        model = moved(saved("sd"), spec, kind, [file])
        np.testing.assert_array_equal(images(model, REQUESTS, lora), expected)


def test_prompts_wait_for_a_batch_only_where_networks_take_turns(saved: Saved) -> None:
    params = SamplingParams(32, 32, 2, 4.0)
    for kind, waits in (("model", True), ("group", False), ("none", False)):
        spec = ModelSpec(source="sd", memory=MemorySpec(offload=kind))
        sampler = Sampler(loading.load(saved("sd"), spec, "cpu"), batch_size=1)
        with sampler._exclude_encoding(params, 1, 1):
            assert sampler._conditioner._encoding._is_owned() == waits


def test_on_a_cpu_nothing_is_moved(saved: Saved) -> None:
    spec = ModelSpec(source="sd", memory=MemorySpec(offload="model"))
    pipeline = loading.load(saved("sd"), spec, "cpu").pipeline
    assert not hasattr(pipeline.unet, "_hf_hook")


def test_without_accelerate_the_extra_is_named(
    saved: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "accelerate" else find(name)
    )
    spec = ModelSpec(source="sd", memory=MemorySpec(offload="group"))
    with pytest.raises(ModelError, match=r"nightpress\[memory\]"):
        loading.describe(saved("sd"), spec)
    loading.describe(saved("sd"), ModelSpec(source="sd"))


def test_a_class_without_an_order_of_its_networks_is_refused(saved: Saved) -> None:
    model = PipelineFolder.read(saved("sd"))

    class Unordered:
        model_cpu_offload_seq = None

    with pytest.raises(ModelError, match=r"Unordered does not say .* use offload: group"):
        placement.require_placement(MemorySpec(offload="model"), Unordered, model)
    placement.require_placement(MemorySpec(offload="group"), Unordered, model)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"memory": {"offload": "disk"}}, "offload"),
        ({"memory": {"offload": "model", "device_map": "balanced"}}, "exclude each other"),
        (
            {"memory": {"offload": "model"}, "speed": {"compile": "full"}},
            "speed.compile does not go with model.memory",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelSpec.model_validate({"source": "sd"} | values)


def test_what_is_on_the_device_at_a_time_is_known_from_the_files(saved: Saved) -> None:
    sizes = weight_sizes(saved("sdxl"), ModelSpec(source="sdxl"))["float32"]
    pipeline = loading.load(saved("sdxl"), ModelSpec(source="sdxl"), "cpu").pipeline
    networks = {
        name: sum(value.numel() * 4 for value in getattr(pipeline, name).parameters())
        for name in ("unet", "vae", "text_encoder", "text_encoder_2")
    }
    assert sizes.total_bytes == pytest.approx(sum(networks.values()), rel=0.01)
    assert sizes.on_device("model") == pytest.approx(max(networks.values()), rel=0.01)
    assert 0 < sizes.on_device("group") < sizes.on_device("model") < sizes.on_device("none")
