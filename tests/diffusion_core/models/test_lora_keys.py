"""Every tensor of a LoRA file has an effect, or the file is refused: families by layouts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support import lora_layouts, tiny_loras
from support.lora_layouts import Tensors
from support.slow_cases import slow_except
from torch import Tensor

from nightpress.diffusion_core.errors import ModelError
from nightpress.diffusion_core.models import loading, lora_keys
from nightpress.diffusion_core.models.lora_files import LORA_FILE
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.sampling.sampler import ImageRequest, Sampler, SamplingParams

Saved = Callable[[str], Path]
Make = Callable[[str], Tensors]
UNET_FAMILIES = ("sd", "lcm", "sdxl")
KOHYA = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
FLUX = "lora_unet_double_blocks_0_img_attn_qkv"
T5 = ("text_encoders.t5xxl.transformer.", ".")


@pytest.fixture
def own(plain: Callable[[str], Any], tmp_path: Path) -> Make:
    """Family -> a random LoRA of its denoiser in diffusers' layout."""
    return lambda family: load_file(tiny_loras.save(plain(family), tmp_path / "own") / LORA_FILE)


@pytest.fixture
def load(saved: Saved, tmp_path: Path) -> Callable[[str, Tensors], loading.LoadedModel]:
    def act(family: str, tensors: Tensors) -> loading.LoadedModel:
        file = tmp_path / "style.safetensors"
        save_file({name: value.clone() for name, value in tensors.items()}, file)
        spec = ModelSpec(source=str(saved(family)), loras=[{"source": str(file)}])
        return loading.load(saved(family), spec, "cpu", [file])

    return act


def factors(name: str, rows: int = 4, columns: int = 4) -> Tensors:
    return lora_layouts.pair(name, rows, columns, "lora_down", "lora_up")


def kohya_of(family: str, own: Make) -> Tensors:
    if family == "flux":
        return lora_layouts.flux_kohya() | lora_layouts.clip("lora_te1_text_model_", "_")
    return lora_layouts.kohya(own(family))


WHOLE: dict[str, tuple[tuple[str, ...], Callable[[str, Make], Tensors]]] = {
    "diffusers": (tiny_loras.FAMILIES, lambda family, own: own(family)),
    "kohya": ((*UNET_FAMILIES, "flux"), kohya_of),
    "kohya, one CLIP": (
        ("sd", "lcm"),
        lambda family, own: lora_layouts.kohya(own(family), "lora_te"),
    ),
    "comfy": (("flux",), lambda _, own: lora_layouts.flux_comfy()),
    "xlabs": (("flux",), lambda _, own: lora_layouts.flux_xlabs()),
}
"""Layout -> the families that diffusers reads it for, and a LoRA in it."""
CASES = [(family, layout) for layout, (families, _) in WHOLE.items() for family in families]


@pytest.mark.parametrize(("family", "layout"), CASES)
def test_a_whole_lora_is_loaded(family: str, layout: str, own: Make, load: Any) -> None:
    assert load(family, WHOLE[layout][1](family, own))


@pytest.mark.parametrize(
    ("family", "layout"), slow_except(CASES, ("sd", "diffusers"), ("flux", "kohya"))
)
def test_a_layer_that_the_model_lacks_is_refused(
    family: str, layout: str, own: Make, load: Any
) -> None:
    tensors = WHOLE[layout][1](family, own)
    name = next(iter(tensors))
    stem = name[: name.index(".lora")] if ".lora" in name else "double_blocks.77.processor.x"
    with pytest.raises(ModelError, match="does not fit"):
        load(family, tensors | factors(f"{stem}_2"))


ADDED: dict[str, tuple[str, Callable[[], Tensors], str]] = {
    "T5 in kohya's layout": ("flux", lambda: lora_layouts.flux_t5("lora_te3_", "_"), "3 of its 24"),
    "a second CLIP": ("flux", lambda: lora_layouts.flux_t5("lora_te2_", "_"), "3 of its 24"),
    "a change of a bias": ("flux", lambda: {f"{FLUX}.diff_b": torch.ones(96)}, "1 of its 22"),
    "a change of a norm": ("flux", lambda: {"lora_unet_norm.diff": torch.ones(4)}, "Incompatible"),
    "an alpha of no layer": ("flux", lambda: {"lora_te1_x.alpha": torch.tensor(3.0)}, "lora_te1_x"),
    "an unread alpha": (
        "flux",
        lambda: {
            **factors("lora_unet_final_layer_linear", 16, 32),
            "lora_unet_final_layer_linear.alpha": torch.tensor(1.0),
        },
        "final_layer_linear.alpha",
    ),
    "guidance": ("flux", lambda: factors("lora_unet_guidance_in_in_layer", 32, 256), "2 of its 23"),
    "XLabs' layout too": ("flux", lora_layouts.flux_xlabs, "8 of its 29"),
    "a third CLIP": ("sd", lambda: factors("lora_te3_text_model_x"), "tensors would have no"),
    "an unknown module": ("sd", lambda: factors("lora_unet_nowhere"), "nowhere"),
    "an alpha beside a U-Net": ("sd", lambda: {"lora_unet_x.alpha": torch.tensor(3.0)}, "_x.alpha"),
    "a bias beside a U-Net": ("sd", lambda: {f"{KOHYA}.diff_b": torch.ones(8)}, "diff_b"),
    "diffusers' layout too": (
        "sd",
        lambda: factors("unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q", 16, 16),
        "tensors would have no effect",
    ),
}
"""What is added to a LoRA in kohya's layout -> its family, and what the error says."""


@pytest.mark.parametrize("added", ADDED)
def test_tensors_that_diffusers_would_drop_are_refused_by_name(
    added: str, own: Make, load: Any
) -> None:
    family, more, message = ADDED[added]
    with pytest.raises(ModelError, match=message) as caught:
        load(family, kohya_of(family, own) | more())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("zero", [False, True])
def test_comfys_t5_is_refused_unless_it_changes_nothing(zero: bool, load: Any) -> None:
    tensors = lora_layouts.flux_comfy() | lora_layouts.flux_t5(*T5, zero=zero)
    if zero:
        assert load("flux", tensors)
        return
    message = r"7 of its 8 layers are in the model; 3 of its 24 tensors .*: text_encoders\.t5xxl"
    with pytest.raises(ModelError, match=message):
        load("flux", tensors)


@pytest.mark.parametrize(
    "harmless",
    [
        {f"{FLUX}.diff_b": torch.zeros(96)},
        lora_layouts.flux_t5("lora_te3_", "_", zero=True),
    ],
    ids=["no change of a bias", "no change of T5"],
)
def test_tensors_that_change_nothing_are_no_reason_to_refuse(harmless: Tensors, load: Any) -> None:
    request, params = ImageRequest("a fox", "", 1), SamplingParams(32, 32, 1, 4.0)
    plain, more = (
        Sampler(load("flux", tensors), batch_size=1).sample([request], params).pixels
        for tensors in (lora_layouts.flux_kohya(), lora_layouts.flux_kohya() | harmless)
    )
    np.testing.assert_array_equal(plain, more)


@pytest.mark.parametrize(
    ("family", "factor"),
    [("sd", "lora_A"), *((family, "lora_B") for family in tiny_loras.FAMILIES)],
)
def test_half_a_layer_is_refused(family: str, factor: str, own: Make, load: Any) -> None:
    tensors = own(family)
    del tensors[max(name for name in tensors if factor in name)]
    with pytest.raises(ModelError, match="does not fit"):
        load(family, tensors)


@pytest.mark.parametrize(
    ("family", "other"), [("sd", "flux"), ("sdxl", "sd"), ("sd3", "sdxl"), ("sana", "lcm")]
)
def test_another_familys_lora_is_refused(family: str, other: str, own: Make, load: Any) -> None:
    with pytest.raises(ModelError, match="does not fit"):
        load(family, own(other))


def test_a_tensor_is_followed_through_every_kind_of_translation() -> None:
    def translate(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, float]]:
        scale = tensors.pop("alpha").item()
        with torch.no_grad():
            left, right = torch.cat([tensors["a"], tensors["b"].detach()]).half().chunk(2)
        filled = torch.zeros(2, 2)
        if (tensors["checked"] == 0).all().item():
            filled = filled + 1
        return {"left": left * scale, "right": right, "same": tensors["c"], "new": filled}, {}

    names = ("a", "b", "c", "checked", "unused", "alpha")
    tensors = {name: torch.ones(2, 2) for name in names} | {"alpha": torch.tensor(2.0)}
    traced = lora_keys.trace(translate, tensors)
    assert traced.translated == {
        "left": {"a", "b"},
        "right": {"a", "b"},
        "same": {"c"},
        "new": frozenset(),
    }
    assert traced.dropped == {"checked", "unused"}
