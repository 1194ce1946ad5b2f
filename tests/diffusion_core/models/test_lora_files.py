import importlib.util
import itertools
import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from support import tiny_loras
from support.slow_cases import slow_except

from nightpress.diffusion_core.errors import (
    ModelError,
    ModelNotFound,
    UnsafeWeights,
    UnsupportedModel,
)
from nightpress.diffusion_core.models import loading
from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.models.lora_files import LORA_FILE, LoraSpec, weight_name
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.sampling.sampler import ImageRequest, Sampler, SamplingParams

PARAMS = SamplingParams(width=64, height=32, num_inference_steps=2, guidance_scale=4.0)
REQUESTS = (
    ImageRequest("a red fox, asleep", "", 11),
    ImageRequest("two ships and a tower", "", 5),
    ImageRequest("7", "", 0),
)

Saved = Callable[[str], Path]
Plain = Callable[[str], Any]
Made = Callable[..., Path]


@pytest.fixture
def lora(plain: Plain, tmp_path: Path) -> Made:
    """Family -> the folder of a LoRA with random weights."""

    def make(family: str, name: str = "style", **settings: Any) -> Path:
        return tiny_loras.save(plain(family), tmp_path / name, **settings)

    return make


def files(spec: ModelSpec) -> list[Path]:
    return [Path(lora.source) / LORA_FILE for lora in spec.loras]


def spec_of(folder: Path, *loras: Any, **settings: Any) -> ModelSpec:
    named = [{"source": str(each)} if isinstance(each, Path) else each for each in loras]
    return ModelSpec(source=str(folder), loras=named, **settings)


def load(folder: Path, *loras: Any) -> LoadedModel:
    spec = spec_of(folder, *loras)
    return loading.load(folder, spec, "cpu", files(spec))


def describe(folder: Path, *loras: Any) -> ModelInfo:
    spec = spec_of(folder, *loras)
    return loading.describe(folder, spec, files(spec))


def sample(loaded: LoadedModel, request: ImageRequest = REQUESTS[0]) -> np.ndarray:
    return Sampler(loaded, batch_size=1).sample([request], PARAMS).pixels


def plain_image(pipeline: Any, family: str) -> np.ndarray:
    arguments: dict[str, Any] = {} if family != "sana" else {"use_resolution_binning": False}
    if family == "sana":
        arguments["clean_caption"] = False
    images = pipeline(
        prompt=[REQUESTS[0].prompt],
        width=PARAMS.width,
        height=PARAMS.height,
        num_inference_steps=PARAMS.num_inference_steps,
        guidance_scale=PARAMS.guidance_scale,
        generator=[torch.Generator("cpu").manual_seed(REQUESTS[0].seed)],
        output_type="pil",
        **arguments,
    ).images
    return np.stack([np.asarray(image) for image in images])


@pytest.mark.parametrize("family", slow_except(tiny_loras.FAMILIES, "sd", "flux"))
def test_an_image_with_a_lora_is_exactly_the_image_of_plain_diffusers(
    family: str, saved: Saved, plain: Plain, lora: Made
) -> None:
    folder, pipeline = lora(family), plain(family)
    made = sample(load(saved(family), {"source": str(folder), "scale": 0.5}))
    without = plain_image(pipeline, family)
    pipeline.load_lora_weights(str(folder), adapter_name="style")
    pipeline.set_adapters(["style"], [0.5])
    np.testing.assert_array_equal(made, plain_image(pipeline, family))
    assert (made != without).any()


def test_several_loras_work_together_as_in_plain_diffusers(
    saved: Saved, plain: Plain, lora: Made
) -> None:
    first, second = lora("sdxl", "a"), lora("sdxl", "b", seed=1, with_text=True)
    scaled = [{"source": str(first), "scale": 0.7}, {"source": str(second), "scale": -0.4}]
    pipeline = plain("sdxl")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")
        for name, folder in (("a", first), ("b", second)):
            pipeline.load_lora_weights(str(folder), adapter_name=name)
    pipeline.set_adapters(["a", "b"], [0.7, -0.4])
    made = sample(load(saved("sdxl"), *scaled))
    np.testing.assert_array_equal(made, plain_image(pipeline, "sdxl"))


def test_a_lora_of_scale_zero_changes_nothing(saved: Saved, lora: Made) -> None:
    off = {"source": str(lora("sd", with_text=True)), "scale": 0}
    np.testing.assert_array_equal(sample(load(saved("sd"), off)), sample(load(saved("sd"))))


@pytest.mark.parametrize("family", slow_except(["sd", "flux"], "flux"))
def test_bits_depend_neither_on_place_nor_on_other_images(
    family: str, saved: Saved, lora: Made
) -> None:
    sampler = Sampler(load(saved(family), lora(family)), batch_size=3)
    expected = sampler.sample(REQUESTS, PARAMS).pixels
    for order in itertools.permutations(range(3)):
        pixels = sampler.sample([REQUESTS[place] for place in order], PARAMS).pixels
        np.testing.assert_array_equal(pixels, expected[list(order)])
    np.testing.assert_array_equal(sampler.sample(REQUESTS[1:2], PARAMS).pixels[0], expected[1])


def test_the_fingerprint_covers_files_scales_and_order(saved: Saved, lora: Made) -> None:
    a, b = lora("sd", "a"), lora("sd", "b", seed=1)
    variants = [(), (a,), (b,), (a, b), (b, a), ({"source": str(a), "scale": 0.5},)]
    prints = [describe(saved("sd"), *loras).fingerprint for loras in variants]
    assert len(set(prints)) == len(variants)
    again = describe(saved("sd"), {"source": str(a), "name": "called otherwise"})
    assert again.fingerprint == prints[1]
    assert prints[0] == loading.describe(saved("sd"), ModelSpec()).fingerprint


def test_a_model_lists_its_loras_and_keeps_them_in_json(saved: Saved, lora: Made) -> None:
    info = describe(saved("sd"), {"source": str(lora("sd")), "scale": 0.5})
    assert [(each.name, each.scale) for each in info.loras] == [("style", 0.5)]
    assert len(info.loras[0].sha256) == 64
    assert ModelInfo.from_dict(json.loads(json.dumps(info.as_dict()))) == info


def test_a_lora_of_another_model_is_refused_in_one_line(saved: Saved, lora: Made) -> None:
    foreign = lora("sdxl")
    with pytest.raises(ModelError, match="does not fit StableDiffusionPipeline") as caught:
        load(saved("sd"), foreign)
    assert str(foreign) in str(caught.value)
    assert str(saved("sd")) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("family", "other"), [("flux", "sd"), ("sd", "sana"), ("sd3", "flux")])
def test_a_lora_of_another_architecture_is_refused_in_one_line(
    family: str, other: str, saved: Saved, lora: Made
) -> None:
    with pytest.raises(ModelError, match="does not fit") as caught:
        load(saved(family), lora(other))
    assert "\n" not in str(caught.value)


def test_a_lora_with_layers_that_the_model_lacks_is_refused(saved: Saved, lora: Made) -> None:
    file = lora("sd") / LORA_FILE
    tensors = load_file(file)
    extra = {
        name.replace("mid_block", "no_block"): value.clone()
        for name, value in tensors.items()
        if "mid_block" in name
    }
    save_file(tensors | extra, file)
    with pytest.raises(ModelError, match=r"\d+ of its \d+ layers are in the model"):
        load(saved("sd"), file.parent)


def test_a_file_that_is_not_a_lora_is_refused_before_it_is_loaded(
    saved: Saved, tmp_path: Path
) -> None:
    files = {
        "nothing": (b"", "not a readable safetensors file"),
        "weights": ({"conv.weight": torch.zeros(1)}, "its tensors are conv.weight"),
        "dora": ({"unet.a.lora.dora_scale": torch.zeros(1)}, "it is a DoRA"),
    }
    for name, (content, message) in files.items():
        folder = tmp_path / name
        folder.mkdir()
        if isinstance(content, bytes):
            (folder / LORA_FILE).write_bytes(content)
        else:
            save_file(content, folder / LORA_FILE)
        with pytest.raises(ModelError, match=message):
            describe(saved("sd"), folder)


def test_a_missing_file_is_refused(saved: Saved, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no such file"):
        describe(saved("sd"), tmp_path)


def test_a_pickle_is_refused_unless_it_is_allowed(saved: Saved, lora: Made, tmp_path: Path) -> None:
    file = tmp_path / "old.bin"
    torch.save(load_file(lora("sd") / LORA_FILE), file)
    spec = spec_of(saved("sd"), {"source": str(file)})
    for act in (loading.describe, lambda *args: loading.load(*args[:2], "cpu", args[2])):
        with pytest.raises(UnsafeWeights, match=r"model\.allow_pickle: true"):
            act(saved("sd"), spec, [file])
    allowed = spec_of(saved("sd"), {"source": str(file)}, allow_pickle=True)
    made = sample(loading.load(saved("sd"), allowed, "cpu", [file]))
    np.testing.assert_array_equal(made, sample(load(saved("sd"), tmp_path / "style")))


def test_a_pickle_that_diffusers_cannot_read_is_reported_in_one_line(
    saved: Saved, tmp_path: Path
) -> None:
    file = tmp_path / "old.pt"
    torch.save([torch.zeros(2, 2), torch.zeros(2, 2)], file)
    spec = spec_of(saved("sd"), {"source": str(file)}, allow_pickle=True)
    with pytest.raises(ModelError, match="does not fit StableDiffusionPipeline") as caught:
        loading.load(saved("sd"), spec, "cpu", [file])
    assert "\n" not in str(caught.value)


def test_a_pipeline_that_takes_no_loras_says_so(saved: Saved, lora: Made) -> None:
    with pytest.raises(UnsupportedModel, match="PixArtSigmaPipeline takes no LoRAs"):
        describe(saved("pixart"), lora("sd"))


def test_without_peft_the_extra_is_named(
    saved: Saved, lora: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, find = lora("sd"), importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "peft" else find(name)
    )
    with pytest.raises(ModelError, match=r"pip install 'nightpress\[lora\]'"):
        describe(saved("sd"), folder)


@pytest.mark.parametrize(
    ("names", "wanted", "expected"),
    [
        (["a.safetensors", "README.md"], None, "a.safetensors"),
        (["a.safetensors", LORA_FILE], None, LORA_FILE),
        (["a.safetensors", "b.bin"], None, "a.safetensors"),
        (["a.safetensors", "more/b.safetensors"], "more/b.safetensors", "more/b.safetensors"),
    ],
)
def test_the_right_weight_file_is_chosen(
    names: list[str], wanted: str | None, expected: str
) -> None:
    assert weight_name(names, LoraSpec(source="x", weight_name=wanted), False) == expected


@pytest.mark.parametrize(
    ("names", "wanted", "error", "message"),
    [
        (
            ["a.safetensors", "b.safetensors"],
            None,
            ModelNotFound,
            "`weight_name` to one of: a.safe.*, b.s",
        ),
        (["README.md"], None, ModelNotFound, "found none"),
        (["a.safetensors"], "b.safetensors", ModelNotFound, "found: a.safetensors"),
        (["a.bin"], None, UnsafeWeights, "a.bin is not a safetensors file"),
    ],
)
def test_a_missing_or_ambiguous_file_is_refused_with_a_list_of_the_files(
    names: list[str], wanted: str | None, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        weight_name(names, LoraSpec(source="x", weight_name=wanted), False)


@pytest.mark.parametrize(
    ("spec", "label"),
    [
        ({"source": "studio/style@v1"}, "style"),
        ({"source": "/loras/ink.safetensors"}, "ink"),
        ({"source": f"s3://b/ink/{LORA_FILE}"}, "ink"),
        ({"source": "/loras/", "weight_name": "red.safetensors"}, "red"),
        ({"source": "/loras/", "name": "Ink 2"}, "Ink 2"),
    ],
)
def test_a_lora_is_called_by_its_name_or_its_file(spec: dict[str, Any], label: str) -> None:
    assert LoraSpec(**spec).label == label


@pytest.mark.parametrize(
    "values", [{"scale": float("nan")}, {"source": ""}, {"strength": 1}, {"name": "a\nb"}]
)
def test_settings_of_a_lora_are_checked(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        LoraSpec(**{"source": "x"} | values)


def test_importing_this_loads_no_framework() -> None:
    code = (
        "import sys, nightpress.diffusion_core.models.lora_files\n"
        "print([m for m in ('torch', 'diffusers', 'transformers', 'peft') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
