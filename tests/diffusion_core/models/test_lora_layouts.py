"""LoHa, LoKr, DoRA and the lists of cloneofsimo/lora change a model as their authors define it."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from support import lora_layouts as layouts
from support import tiny_loras
from support.lora_layouts import Tensors
from support.slow_cases import slow_except
from torch import Tensor, nn

from nightpress.diffusion_core.errors import ModelError
from nightpress.diffusion_core.models import loading, lora_keys
from nightpress.diffusion_core.models.lora_files import LORA_FILE
from nightpress.diffusion_core.models.lora_layouts import translation
from nightpress.diffusion_core.models.spec import ModelSpec

Saved = Callable[[str], Path]
Load = Callable[..., Any]

BLOCK = "mid_block.attentions.0.transformer_blocks.0"
LINEAR, FEED_FORWARD = f"{BLOCK}.attn1.to_q", f"{BLOCK}.ff.net.2"
CONVOLUTION = "down_blocks.0.resnets.0.conv1"
LAYERS = (LINEAR, f"{BLOCK}.attn2.to_k", FEED_FORWARD, CONVOLUTION)
RANK, ALPHA = 2, 1.0


@pytest.fixture
def load(saved: Saved, tmp_path: Path) -> Load:
    """Loads a LoRA's tensors, or a list of them, into a tiny model; returns its pipeline."""

    def act(family: str, tensors: Any, scale: float = 1.0) -> Any:
        is_list = isinstance(tensors, list)
        file = tmp_path / ("style.pt" if is_list else "style.safetensors")
        if is_list:
            torch.save(tensors, file)
        else:
            save_file({name: value.contiguous() for name, value in tensors.items()}, file)
        lora = {"source": str(file), "scale": scale}
        spec = ModelSpec(source=str(saved(family)), loras=[lora], allow_pickle=is_list)
        return loading.load(saved(family), spec, "cpu", [file]).pipeline

    return act


@pytest.fixture
def weights(saved: Saved) -> Callable[[str], dict[str, Tensor]]:
    """Family -> the weights of its U-Net's layers."""

    def act(family: str) -> dict[str, Tensor]:
        unet = loading.load(saved(family), ModelSpec(source="tiny"), "cpu").pipeline.unet
        return {name: unet.get_submodule(name).weight.detach() for name in LAYERS}

    return act


def drawn(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape) * 7 + len(shape))
    return torch.randn(shape, generator=generator) / 2


def loha(weight: Tensor, core: bool) -> tuple[Tensors, Tensor]:
    """The tensors of a layer, and the change that LyCORIS defines for them."""
    outputs, inputs = weight.shape[0], weight[0].numel()
    if core:
        kernel, channels = weight.shape[2:], weight.shape[1]
        parts = {f"hada_t{n}": drawn(RANK, RANK, *kernel) + n for n in (1, 2)}
        parts |= {f"hada_w{n}_a": drawn(RANK, outputs) + n for n in (1, 2)}
        parts |= {f"hada_w{n}_b": drawn(RANK, channels) - n for n in (1, 2)}
        first, second = (
            torch.einsum(
                "i j k l, j r, i p -> p r k l",
                *(parts[f"hada_{name}"] for name in (f"t{n}", f"w{n}_b", f"w{n}_a")),
            )
            for n in (1, 2)
        )
    else:
        parts = {f"hada_w{n}_a": drawn(outputs, RANK) + n for n in (1, 2)}
        parts |= {f"hada_w{n}_b": drawn(RANK, inputs) - n for n in (1, 2)}
        first, second = (parts[f"hada_w{n}_a"] @ parts[f"hada_w{n}_b"] for n in (1, 2))
    return parts, (first * second).reshape(weight.shape) * ALPHA / RANK


def lokr(weight: Tensor, form: str) -> tuple[Tensors, Tensor]:
    """Likewise for LoKr, with w1 and w2 whole, or of factors, or of a core."""
    outputs, inputs, kernel = weight.shape[0] // 4, weight.shape[1] // 2, weight.shape[2:]
    w1 = drawn(4, 2)
    parts: Tensors = {"lokr_w1": w1}
    if "w1" in form:
        parts = {"lokr_w1_a": drawn(4, RANK), "lokr_w1_b": drawn(RANK, 2)}
        w1 = parts["lokr_w1_a"] @ parts["lokr_w1_b"]
    if "core" in form:
        named = {"t2": (RANK, RANK, *kernel), "w2_a": (RANK, outputs), "w2_b": (RANK, inputs)}
        parts |= {f"lokr_{name}": drawn(*shape) for name, shape in named.items()}
        t2, a, b = (parts[f"lokr_{name}"] for name in named)
        w2 = torch.einsum("i j k l, i p, j r -> p r k l", t2, a, b)
    elif "w2" in form:
        columns = inputs * kernel.numel()
        parts |= {"lokr_w2_a": drawn(outputs, RANK), "lokr_w2_b": drawn(RANK, columns)}
        w2 = (parts["lokr_w2_a"] @ parts["lokr_w2_b"]).reshape(outputs, inputs, *kernel)
    else:
        w2 = parts["lokr_w2"] = drawn(outputs, inputs, *kernel)
    change = torch.kron(w1.reshape(*w1.shape, *[1] * len(kernel)), w2.contiguous())
    return parts, change * (1.0 if form == "whole" else ALPHA / RANK)


FORMS: dict[str, Callable[[Tensor], tuple[Tensors, Tensor]]] = {
    "LoHa": lambda weight: loha(weight, core=False),
    "LoHa with a core": lambda weight: loha(weight, core=weight.ndim == 4),
    "LoKr, whole": lambda weight: lokr(weight, "whole"),
    "LoKr, w1": lambda weight: lokr(weight, "w1"),
    "LoKr, w2": lambda weight: lokr(weight, "w2"),
    "LoKr, w1 and w2": lambda weight: lokr(weight, "w1 w2"),
    "LoKr with a core": lambda weight: lokr(weight, "core" if weight.ndim == 4 else "w2"),
}


def kohya_name(layer: str) -> str:
    return "lora_unet_" + layer.replace(".", "_")


def output(unet: nn.Module, layer: str) -> Tensor:
    """What a layer makes of some inputs, beyond what its bias adds."""
    module = unet.get_submodule(layer)
    base: Any = getattr(module, "base_layer", module)
    size = (2, base.weight.shape[1], 5, 5) if base.weight.ndim == 4 else (2, base.weight.shape[1])
    zeros = torch.zeros(size)
    with torch.no_grad():
        result: Tensor = module(drawn(*size)) - module(zeros)
    return result


def expected(weight: Tensor) -> Tensor:
    if weight.ndim == 2:
        return nn.functional.linear(drawn(2, weight.shape[1]), weight)
    return nn.functional.conv2d(drawn(2, weight.shape[1], 5, 5), weight, padding=1)


@pytest.mark.parametrize("family", slow_except(["sd", "sdxl"], "sd"))
@pytest.mark.parametrize("form", FORMS)
def test_a_layer_changes_as_lycoris_defines_it(
    form: str, family: str, weights: Any, load: Load
) -> None:
    tensors: Tensors = {}
    changed: Tensors = {}
    for layer, weight in weights(family).items():
        parts, change = FORMS[form](weight)
        parts["alpha"] = torch.tensor(ALPHA)
        tensors |= {f"{kohya_name(layer)}.{name}": value for name, value in parts.items()}
        changed[layer] = weight + 0.5 * change
    unet = load(family, tensors, scale=0.5).unet
    for layer, weight in changed.items():
        torch.testing.assert_close(output(unet, layer), expected(weight), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_a_dora_scales_each_output_to_its_magnitude(family: str, weights: Any, load: Load) -> None:
    tensors: Tensors = {}
    changed: Tensors = {}
    for layer, weight in weights(family).items():
        down, up = drawn(RANK, *weight.shape[1:]), drawn(weight.shape[0], RANK)
        change = torch.tensordot(up, down, dims=1)
        magnitude = drawn(weight.shape[0], *[1] * (weight.ndim - 1)).abs() + 0.5
        name, kernel = kohya_name(layer), [1] * (weight.ndim - 2)
        tensors |= {f"{name}.lora_down.weight": down, f"{name}.dora_scale": magnitude}
        tensors[f"{name}.lora_up.weight"] = up.reshape(*up.shape, *kernel)
        whole = weight + change
        norm = whole.flatten(1).norm(dim=1).reshape(magnitude.shape)
        changed[layer] = magnitude * whole / norm
    unet = load(family, tensors).unet
    for layer, weight in changed.items():
        torch.testing.assert_close(output(unet, layer), expected(weight), rtol=1e-4, atol=1e-4)


def test_a_dora_of_clip_is_loaded_too(load: Load) -> None:
    tensors = layouts.clip("lora_te_text_model_", "_")
    layers = {name.partition(".")[0] for name in tensors}
    tensors |= {f"{layer}.dora_scale": drawn(16, 1).abs() + 1 for layer in layers}
    encoder = load("sd", tensors).text_encoder
    names = {name for name, _ in encoder.named_parameters() if "magnitude" in name}
    assert len(names) == len(layers)


def test_a_dora_with_the_magnitudes_of_inputs_is_refused(weights: Any, load: Load) -> None:
    weight, name = weights("sd")[LINEAR], kohya_name(LINEAR)
    tensors = {
        f"{name}.lora_down.weight": drawn(RANK, weight.shape[1]),
        f"{name}.lora_up.weight": drawn(weight.shape[0], RANK),
        f"{name}.dora_scale": drawn(1, weight.shape[1]),
    }
    with pytest.raises(ModelError, match=r"magnitudes of inputs .*only those of outputs"):
        load("sd", tensors)


def test_magnitudes_of_no_layer_are_refused(weights: Any, load: Load) -> None:
    weight, name = weights("sd")[LINEAR], kohya_name(LINEAR)
    tensors = {
        f"{name}.lora_down.weight": drawn(RANK, weight.shape[1]),
        f"{name}.lora_up.weight": drawn(weight.shape[0], RANK),
        "lora_unet_nowhere.dora_scale": drawn(4, 1),
    }
    with pytest.raises(ModelError, match="would ignore the magnitudes of lora_unet_nowhere"):
        load("sd", tensors)


@pytest.mark.parametrize("missing", ["hada_w1_a", "hada_w2_b"])
def test_part_of_a_loha_layer_is_refused(missing: str, weights: Any, load: Load) -> None:
    parts, _ = loha(weights("sd")[LINEAR], core=False)
    tensors = {f"{kohya_name(LINEAR)}.{n}": v for n, v in parts.items() if n != missing}
    with pytest.raises(ModelError, match=f"no {missing}"):
        load("sd", tensors)


def test_a_loha_of_an_unknown_layer_is_refused(weights: Any, load: Load) -> None:
    parts, _ = loha(weights("sd")[LINEAR], core=False)
    tensors = {f"lora_unet_nowhere.{name}": value for name, value in parts.items()}
    with pytest.raises(ModelError, match="nowhere"):
        load("sd", tensors)


def cloneofsimo(own: Tensors, order: Callable[[str], Any]) -> list[Tensor]:
    """A LoRA in diffusers' layout as the list that cloneofsimo/lora saves."""
    layers = sorted({name.partition(".lora_")[0] for name in own}, key=order)
    ends = ("lora_B.weight", "lora_A.weight")
    return [own[f"{layer}.{end}"].clone().requires_grad_() for layer in layers for end in ends]


def in_blocks(layer: str) -> tuple[int, str, int]:
    stages, ends = ("down_blocks", "up_blocks", "mid_block"), ("to_q", "to_k", "to_v", "to_out.0")
    attention, _, end = layer.removeprefix("unet.").partition(".to_")
    return stages.index(attention.split(".")[0]), attention, ends.index(f"to_{end}")


@pytest.mark.parametrize("family", slow_except(["sd", "sdxl"], "sd"))
@pytest.mark.parametrize("saves", ["list", "safetensors"])
def test_a_list_of_cloneofsimo_changes_the_layers_that_it_was_trained_for(
    saves: str, family: str, plain: Any, load: Load, tmp_path: Path
) -> None:
    own = load_file(tiny_loras.save(plain(family), tmp_path / "own") / LORA_FILE)
    values = cloneofsimo(own, in_blocks)
    named = {
        f"unet:{place // 2}:{'down' if place % 2 else 'up'}": value.detach()
        for place, value in enumerate(values)
    }
    unet = load(family, values if saves == "list" else named).unet
    for layer in {name.partition(".lora_")[0] for name in own}:
        module = unet.get_submodule(layer.removeprefix("unet."))
        weight = module.base_layer.weight.detach()
        weight = weight + own[f"{layer}.lora_B.weight"] @ own[f"{layer}.lora_A.weight"]
        found = output(unet, layer.removeprefix("unet."))
        torch.testing.assert_close(found, expected(weight), rtol=1e-4, atol=1e-4)


def test_a_list_for_another_model_is_refused_in_one_line(
    plain: Any, load: Load, tmp_path: Path
) -> None:
    own = load_file(tiny_loras.save(plain("sdxl"), tmp_path / "own") / LORA_FILE)
    with pytest.raises(ModelError, match="layers, in the order of cloneofsimo/lora, are not"):
        load("sd", cloneofsimo(own, in_blocks)[:-2])


REAL = Path(__file__).parents[4] / "shared" / "loras" / "t2i-compbench-color-sd21.pt"


@pytest.mark.skipif(not REAL.is_file(), reason=f"{REAL} is not on this machine")
def test_a_published_list_names_the_layers_of_stable_diffusion_2() -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True
        )
    tensors = lora_keys.read_tensors(REAL)
    pipeline = SimpleNamespace(unet=unet)
    named = translation(pipeline, lambda held: held, tensors)(tensors)
    assert len(named) == 256
    assert all(f".{layer}." in "".join(named) for layer in ("attn1.to_q", "attn2.to_out.0"))
    for name, value in named.items():
        layer, _, factor = name.removeprefix("unet.").partition(".lora_")
        side = 1 if factor == "A.weight" else 0
        assert value.shape[side] == unet.get_submodule(layer).weight.shape[side]


def test_a_list_of_something_else_is_refused(load: Load) -> None:
    with pytest.raises(ModelError, match="a list that is not the pairs of tensors"):
        load("sd", [torch.zeros(2, 2)])
