"""Every network of a model is complete to the tensor, or the model is refused by name."""

import importlib.util
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support import damaged_models, tiny_models
from support.slow_cases import slow_except
from torch import Tensor, nn

from nightpress.diffusion_core.errors import ModelError
from nightpress.diffusion_core.models import loading
from nightpress.diffusion_core.models.networks import require_finite_weights
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.training.modules import saved_module

Saved = Callable[[str], Path]
Damage = Callable[[Path], object]

COMPONENTS = {
    "sd": ("text_encoder", "unet", "vae"),
    "lcm": ("text_encoder", "unet", "vae"),
    "sdxl": ("text_encoder", "text_encoder_2", "unet", "vae"),
    "sd3": ("text_encoder", "text_encoder_2", "text_encoder_3", "transformer", "vae"),
    "flux": ("text_encoder", "text_encoder_2", "transformer", "vae"),
    "pixart": ("text_encoder", "transformer", "vae"),
    "sana": ("text_encoder", "transformer", "vae"),
}
"""Family -> its networks."""
ALL = [(family, component) for family, parts in COMPONENTS.items() for component in parts]


@pytest.fixture
def copied(saved: Saved, tmp_path: Path) -> Callable[[str], Path]:
    """Family -> a copy of its tiny model that a test may change."""
    return lambda family: Path(shutil.copytree(saved(family), tmp_path / family))


def load(folder: Path, **settings: Any) -> Any:
    return loading.load(folder, ModelSpec(source=str(folder), **settings), "cpu").pipeline


def check(folder: Path, **settings: Any) -> None:
    loading.check_weights(folder, ModelSpec(source=str(folder), **settings))


def refused(act: Callable[[], object], component: str, message: str) -> str:
    with pytest.raises(ModelError, match=message) as caught:
        act()
    text = str(caught.value)
    assert f": {component}: " in text
    assert "\n" not in text
    return text


def weights(pipeline: Any) -> Iterator[tuple[str, Tensor]]:
    for name, network in sorted(pipeline.components.items()):
        if isinstance(network, nn.Module):
            yield from ((f"{name}.{key}", value) for key, value in network.state_dict().items())


def same_weights(pipeline: Any, other: Any) -> bool:
    pairs = zip(weights(pipeline), weights(other), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_these_are_all_networks_of_the_family(family: str, saved: Saved) -> None:
    held = {file.parent.name for file in saved(family).rglob("*.safetensors")}
    assert held == set(COMPONENTS[family])
    check(saved(family))


@pytest.mark.parametrize(("family", "component"), slow_except(ALL, *ALL[::3]))
def test_a_missing_tensor_of_any_network_is_refused(
    family: str, component: str, copied: Callable[[str], Path]
) -> None:
    folder = copied(family)
    damaged_models.without_one(folder / component)
    message = damaged_models.DAMAGES[damaged_models.without_one]
    loaded = refused(lambda: load(folder), component, message)
    assert refused(lambda: check(folder), component, message) == loaded


@pytest.mark.parametrize(
    "component", slow_except(COMPONENTS["flux"], "transformer", "text_encoder_2")
)
@pytest.mark.parametrize("damage", damaged_models.DAMAGES, ids=lambda damage: damage.__name__)
def test_damaged_weights_are_refused(
    component: str, damage: Damage, copied: Callable[[str], Path]
) -> None:
    folder = copied("flux")
    damage(folder / component)
    refused(lambda: load(folder), component, damaged_models.DAMAGES[damage])
    if damage not in damaged_models.ONLY_WHEN_LOADED:
        refused(lambda: check(folder), component, damaged_models.DAMAGES[damage])


@pytest.mark.slow
@pytest.mark.parametrize(("family", "component"), ALL)
@pytest.mark.parametrize("damage", damaged_models.DAMAGES, ids=lambda damage: damage.__name__)
def test_damaged_weights_of_any_network_are_refused(
    family: str, component: str, damage: Damage, copied: Callable[[str], Path]
) -> None:
    folder = copied(family)
    damage(folder / component)
    refused(lambda: load(folder), component, damaged_models.DAMAGES[damage])


@pytest.mark.slow
@pytest.mark.parametrize(("family", "component"), ALL)
def test_no_tensor_can_be_missing(
    family: str, component: str, copied: Callable[[str], Path]
) -> None:
    folder = copied(family)
    whole = load_file(damaged_models.weights_of(folder / component))
    for name in whole:

        def lose(tensors: dict[str, Tensor], name: str = name) -> None:
            tensors.clear()
            tensors.update({key: value for key, value in whole.items() if key != name})

        damaged_models.change(folder / component, lose)
        refused(lambda: check(folder), component, r"[12] of the \d+ .* missing")  # or tied


@pytest.mark.parametrize(
    ("family", "one", "other"),
    [
        ("sd", "unet", "vae"),
        ("sd", "text_encoder", "unet"),
        ("sdxl", "text_encoder", "text_encoder_2"),
        ("flux", "text_encoder", "text_encoder_2"),
        ("sd3", "text_encoder", "text_encoder_3"),
    ],
)
def test_two_networks_in_each_others_folders_are_refused(
    family: str, one: str, other: str, copied: Callable[[str], Path]
) -> None:
    folder = copied(family)
    (folder / one).rename(folder / "aside")
    (folder / other).rename(folder / one)
    (folder / "aside").rename(folder / other)
    for act in (lambda: load(folder), lambda: check(folder)):
        with pytest.raises(ModelError, match=f"{one}|{other}"):
            act()


def test_fewer_layers_in_the_configuration_than_in_the_file_are_refused(
    copied: Callable[[str], Path],
) -> None:
    folder = copied("sd")
    config = folder / "text_encoder" / "config.json"
    config.write_text(
        config.read_text().replace('"num_hidden_layers": 2', '"num_hidden_layers": 1')
    )
    for act in (lambda: load(folder), lambda: check(folder)):
        refused(act, "text_encoder", r"holds 16 tensors without a place .*encoder\.layers\.1")


def older(tensors: dict[str, Tensor]) -> None:
    """The names that CLIP's files have on the hub, and a buffer that they once held."""
    for name in list(tensors):
        tensors[f"text_model.{name}"] = tensors.pop(name)
    tensors["text_model.embeddings.position_ids"] = torch.arange(77)[None]


def whole_clip(tensors: dict[str, Tensor]) -> None:
    """The file of a whole CLIP, of which a pipeline takes the text encoder."""
    older(tensors)
    tensors["vision_model.pre_layrnorm.bias"] = torch.zeros(2)
    tensors["logit_scale"] = torch.zeros(())


def old_attention(tensors: dict[str, Tensor]) -> None:
    """The names of attention in the first autoencoders for diffusers."""
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for name in list(tensors):
        for new, before in old.items():
            if f"attentions.0.{new}." in name:
                tensors[name.replace(new, before)] = tensors.pop(name)


def embedded_twice(tensors: dict[str, Tensor]) -> None:
    """T5's shared embedding under both of its names."""
    tensors["encoder.embed_tokens.weight"] = tensors["shared.weight"].clone()


def embedded_in_the_encoder(tensors: dict[str, Tensor]) -> None:
    """T5's shared embedding under its other name."""
    tensors["encoder.embed_tokens.weight"] = tensors.pop("shared.weight")


@pytest.mark.parametrize(
    ("family", "component", "edit"),
    [
        ("sd", "text_encoder", older),
        ("sd", "text_encoder", whole_clip),
        ("sd", "vae", old_attention),
        ("flux", "text_encoder_2", embedded_twice),
        ("flux", "text_encoder_2", embedded_in_the_encoder),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_files_under_older_names_are_complete(
    family: str,
    component: str,
    edit: Callable[[dict[str, Tensor]], None],
    saved: Saved,
    copied: Callable[[str], Path],
) -> None:
    folder = copied(family)
    damaged_models.change(folder / component, edit)
    check(folder)
    assert same_weights(load(folder), load(saved(family)))


@pytest.mark.parametrize("component", slow_except(COMPONENTS["sd"], "unet"))
def test_shards_and_variants_load_as_one_file_does(
    component: str, saved: Saved, copied: Callable[[str], Path]
) -> None:
    folder = copied("sd")
    shards = damaged_models.in_shards(folder / component)
    check(folder)
    assert same_weights(load(folder), load(saved("sd")))
    assert len(shards) == 3
    shutil.copyfile(
        damaged_models.weights_of(saved("sd") / component),
        folder / component / _variant_name(component),
    )
    check(folder, variant="fp16")
    assert same_weights(load(folder, variant="fp16"), load(saved("sd")))


def _variant_name(component: str) -> str:
    return (
        "model.fp16.safetensors"
        if "text" in component
        else "diffusion_pytorch_model.fp16.safetensors"
    )


@pytest.mark.parametrize("component", COMPONENTS["sd"])
@pytest.mark.parametrize("lost", [0, 1, 36])
def test_pickles_are_complete_or_refused(
    component: str, lost: int, copied: Callable[[str], Path]
) -> None:
    folder = copied("sd")
    file = damaged_models.weights_of(folder / component)
    tensors = load_file(file)
    file.unlink()
    kept = dict(sorted(tensors.items())[lost:])
    name = "pytorch_model.bin" if "text" in component else "diffusion_pytorch_model.bin"
    torch.save(kept, folder / component / name)
    if lost:
        refused(lambda: load(folder, allow_pickle=True), component, f"{lost} of the .* are missing")
    else:
        assert load(folder, allow_pickle=True)


@pytest.mark.parametrize("component", ["unet", "text_encoder"])
@pytest.mark.parametrize("values", [[1, 2], torch.ones(2), None])
def test_a_pickle_of_something_else_is_refused(
    component: str, values: Any, copied: Callable[[str], Path]
) -> None:
    folder = copied("sd")
    damaged_models.weights_of(folder / component).unlink()
    name = "pytorch_model.bin" if "text" in component else "diffusion_pytorch_model.bin"
    torch.save(values, folder / component / name)
    message = f"it holds a {type(values).__name__}, not tensors by name"
    for act in (load, check):
        refused(lambda act=act: act(folder, allow_pickle=True), component, message)


def test_weights_beyond_the_range_of_their_type_are_refused(
    copied: Callable[[str], Path],
) -> None:
    folder = copied("sd")
    damaged_models.change(
        folder / "unet", lambda tensors: tensors["conv_in.bias"].view(-1)[:1].fill_(1e6)
    )
    assert load(folder)
    message = r"1 of its \d+ weights hold NaN or infinity in float16: conv_in\.bias"
    refused(lambda: load(folder, dtype="float16"), "unet", message)


def test_without_accelerate_the_headers_are_checked(
    copied: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "accelerate" else find(name)
    )
    folder = copied("sd")
    check(folder)
    damaged_models.truncated(folder / "text_encoder")
    refused(lambda: check(folder), "text_encoder", "not a readable safetensors file")


def test_nothing_is_printed_about_incomplete_weights(
    copied: Callable[[str], Path], capfd: pytest.CaptureFixture[str]
) -> None:
    folder = copied("sd")
    damaged_models.without_one(folder / "text_encoder")
    refused(lambda: load(folder), "text_encoder", "missing")
    refused(lambda: check(folder), "text_encoder", "missing")
    assert "".join(capfd.readouterr()) == ""


def test_stored_buffers_are_weights_and_others_are_not() -> None:
    network = nn.BatchNorm1d(2)
    network.register_buffer("mask", torch.full((2,), -torch.inf), persistent=False)
    require_finite_weights(network, "here")
    assert network.running_var is not None
    network.running_var[0] = torch.nan
    with pytest.raises(ModelError, match=r"^here: 1 of its 4 weights hold NaN .*: running_var$"):
        require_finite_weights(network, "here")


def test_training_does_not_start_from_weights_that_are_no_numbers(
    copied: Callable[[str], Path],
) -> None:
    folder = copied("sd") / "vae"
    assert saved_module(folder, ["AutoencoderKL"])
    name = "encoder.conv_in.bias"
    damaged_models.change(folder, lambda tensors: tensors[name].view(-1)[:1].fill_(torch.nan))
    with pytest.raises(ModelError, match=r"vae: 1 of its \d+ weights hold NaN .*encoder.conv_in"):
        saved_module(folder, ["AutoencoderKL"])
