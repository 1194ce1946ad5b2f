"""ControlNets of a model: their names, which of them fit, and whether their files are complete."""

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from support import tiny_controlnets
from support.slow_cases import slow_except

from nightpress.diffusion_core import builtin
from nightpress.diffusion_core.errors import (
    ModelError,
    ModelNotFound,
    UnsafeWeights,
    UnsupportedModel,
)
from nightpress.diffusion_core.models import controlnets, loading
from nightpress.diffusion_core.models.adapter_files import AdapterFiles
from nightpress.diffusion_core.models.controlnet_spec import ControlNetSpec
from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.diffusion_core.models.spec import ModelSpec

WEIGHTS = "diffusion_pytorch_model.safetensors"
Folders = Callable[..., Path]


@pytest.fixture(scope="module")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Family -> the folder of its tiny model."""

    @functools.cache
    def save(family: str) -> Path:
        folder = tmp_path_factory.mktemp(family)
        tiny_controlnets.base(family).save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="module")
def net_of(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Family, and settings of a ControlNet -> its folder, which tests must not change."""

    @functools.cache
    def save(family: str, union: bool = False, **settings: Any) -> Path:
        folder = tmp_path_factory.mktemp(family) / "edges"
        return tiny_controlnets.save(tiny_controlnets.base(family), folder, union=union, **settings)

    return save


@pytest.fixture
def edges(net_of: Folders, tmp_path: Path) -> Path:
    """A copy of Stable Diffusion's ControlNet, which tests may change."""
    return shutil.copytree(net_of("sd"), tmp_path / "edges")


def spec_of(model: Path, *nets: Any, **settings: Any) -> ModelSpec:
    return ModelSpec.model_validate({"source": str(model), "controlnets": list(nets)} | settings)


def describe(model: Path, *nets: Any, check: bool = True, **settings: Any) -> ModelInfo:
    """Describe a model with ControlNets in these folders, as sources or mappings."""
    entries = [{"source": str(net)} if isinstance(net, Path) else net for net in nets]
    spec = spec_of(model, *entries, **settings)
    adapters = AdapterFiles(tuple(Path(each["source"]) for each in entries))
    info = loading.describe(model, spec, adapters=adapters)
    if check:
        loading.check_weights(model, spec, adapters)
    return info


@pytest.mark.parametrize(
    ("entry", "label"),
    [
        ("nets/edges", "edges"),
        ("nets/edges/", "edges"),
        ("lllyasviel/sd-controlnet-canny@v1", "sd-controlnet-canny"),
        ("s3://nets/depth", "depth"),
        ({"source": "org/nets", "subfolder": "a/tile"}, "tile"),
        ({"source": "org/nets", "name": "my lines"}, "my lines"),
    ],
)
def test_a_controlnet_is_called_like_its_folder_unless_the_job_names_it(
    entry: Any, label: str
) -> None:
    (net,) = ModelSpec.model_validate({"controlnets": [entry]}).controlnets
    assert net.label == label


@pytest.mark.parametrize(
    ("nets", "message"),
    [
        (["a/edges", "b/edges"], "controlnets: 2 are called 'edges'; give each a `name`"),
        (["/"], "no row can name ''; give that ControlNet a `name`"),
        ([{"source": "a", "control_guidance_start": 0.8, "control_guidance_end": 0.8}], "below"),
        ([{"source": "a", "control_guidance_end": 1.2}], "less than or equal to 1"),
        ([{"source": "a", "low_threshold": 30}], "has no effect without `preprocess: canny`"),
        (
            [{"source": "a", "preprocess": "canny", "low_threshold": 300}],
            "low_threshold 300 must not be above high_threshold 200",
        ),
        ([{"source": "a", "preprocess": "depth"}], "'none' or 'canny'"),
        ([{"source": "a", "subfolder": "../b"}], "must be a folder inside the source"),
        ([{"source": "a", "scale": float("nan")}], "finite"),
        ([{"source": "a", "scale": -0.5}], "greater than or equal to 0"),
        ([{"source": "a", "control_mode": -1}], "greater than or equal to 0"),
        ([{"source": ""}], "at least 1 character"),
    ],
)
def test_entries_that_cannot_be_meant_are_refused(nets: list[Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ModelSpec.model_validate({"controlnets": nets})


def test_transformer_caches_are_refused_with_controlnets(
    model_of: Folders, net_of: Folders
) -> None:
    speed = {"pyramid_attention_broadcast": {}}
    with pytest.raises(
        ModelError, match=r"speed\.pyramid_attention_broadcast: it would reuse what"
    ):
        describe(model_of("flux"), net_of("flux"), speed=speed)


@pytest.mark.parametrize(
    ("start", "end", "steps"), [(0.0, 1.0, 1), (0.0, 0.5, 2), (0.5, 1.0, 2), (0.3, 0.7, 3)]
)
def test_a_controlnet_acts_on_the_steps_that_lie_whole_in_its_share(
    start: float, end: float, steps: int
) -> None:
    net = ControlNetSpec(source="a", control_guidance_start=start, control_guidance_end=end)
    assert net.acts_in(steps)
    assert net.acts_in(20)
    assert not ControlNetSpec(source="a", control_guidance_end=0.9 * end / steps).acts_in(steps)


@pytest.mark.parametrize(
    ("sampler", "acts"), [("ddim", True), ("PNDMScheduler", False), ("FlowMatchHeun", True)]
)
def test_whether_a_controlnet_acts_depends_on_how_often_the_sampler_calls(
    sampler: str, acts: bool
) -> None:
    """PNDM calls five times in four steps, none of them whole between 0.25 and 0.5; Heun seven."""
    net = ControlNetSpec(source="a", control_guidance_start=0.25, control_guidance_end=0.5)
    assert (net.why_idle(4, sampler) is None) == acts


@pytest.mark.parametrize("family", slow_except(["sd", "sdxl", "sd3", "flux", "qwen"], "sd", "flux"))
def test_a_model_is_described_with_its_controlnets(
    family: str, model_of: Folders, net_of: Folders
) -> None:
    plain = describe(model_of(family))
    entry = {"source": str(net_of(family)), "scale": 0.5}
    info = describe(model_of(family), entry)
    assert [(each.name, each.scale) for each in info.controlnets] == [("edges", 0.5)]
    assert info.fingerprint == plain.fingerprint
    assert info.identity != plain.identity == plain.fingerprint
    assert "text+control" in info.modes
    assert not any("control" in mode for mode in plain.modes)
    assert ModelInfo.from_dict(json.loads(json.dumps(info.as_dict()))) == info


def test_the_hash_covers_weights_and_configuration_and_not_other_files(
    model_of: Folders, edges: Path
) -> None:
    def sha256() -> str:
        return describe(model_of("sd"), edges).controlnets[0].sha256

    first = sha256()
    (edges / "README.md").write_text("notes")
    assert sha256() == first
    config = json.loads((edges / "config.json").read_text())
    (edges / "config.json").write_text(json.dumps(config | {"mid_block_scale_factor": 2}))
    second = sha256()
    weights = load_file(edges / WEIGHTS)
    save_file({name: value + 1 for name, value in weights.items()}, edges / WEIGHTS)
    assert len({first, second, sha256()}) == 3


def test_the_controlnets_of_an_image_have_the_scales_of_its_row(
    model_of: Folders, net_of: Folders
) -> None:
    entries = [{"source": str(net_of("sd")), "name": name} for name in ("a", "b")]
    info = describe(model_of("sd"), *entries)
    used = info.controlnets_of(("b",), (0.3,))
    assert [(each.name, each.scale) for each in used] == [("b", 0.3)]
    assert used[0].sha256 == info.controlnets[1].sha256
    assert info.controlnets_of((), ()) == ()


def test_only_qwen_image_takes_one_controlnet_for_an_image(
    model_of: Folders, net_of: Folders
) -> None:
    for family, expected in (("sd", None), ("qwen", "QwenImagePipeline takes one ControlNet")):
        first, other = net_of(family), net_of(family, seed=2)
        info = describe(
            model_of(family),
            {"source": str(first), "name": "a"},
            {"source": str(first), "name": "b"},
            {"source": str(other), "name": "c"},
        )
        assert info.why_not_together(["a", "b"]) is None
        reason = info.why_not_together(["a", "c"])
        assert reason is None if expected is None else str(reason).startswith(expected)


def test_a_controlnet_of_the_built_in_model_fits_it(tmp_path: Path) -> None:
    folder = builtin.folder()
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", local_files_only=True)
    ControlNetModel.from_unet(unet).save_pretrained(tmp_path / "edges")
    info = describe(folder, tmp_path / "edges")
    assert {"text+control", "image+control", "inpaint+control"} <= set(info.modes)


@pytest.mark.parametrize(
    ("family", "of", "settings", "message"),
    [
        ("sdxl", "sd", {}, "cross_attention_dim is 16, and the model's is 32"),
        ("sd", "sdxl", {}, "its addition_embed_type is text_time, and the model's is not set"),
        ("sd", "flux", {}, "it is a FluxControlNetModel, but StableDiffusionPipeline takes a Con"),
        ("flux", "sd3", {}, "it is an SD3ControlNetModel, but FluxPipeline takes a FluxControlNet"),
        ("sd3", "sd3", {"in_channels": 16}, "in_channels is 16, and the model's is 4"),
        ("flux", "flux", {"num_attention_heads": 4}, "it is 64 wide, and the model is 32"),
        ("qwen", "qwen", {"joint_attention_dim": 32}, "joint_attention_dim is 32, and the model"),
        (
            "sd",
            "sd",
            {"conditioning_embedding_out_channels": (8, 8, 8, 8)},
            "it makes control images 8 times smaller, and the model's VAE images 2 times",
        ),
        ("flux", "flux", {"conditioning_embedding_channels": 4}, "its patches of control images"),
        ("sd", "sd", {"conditioning_channels": 4}, "its control images have 4 channels"),
        ("sd3", "sd3", {"extra_conditioning_channels": 1}, "it is a ControlNet for inpainting"),
        ("qwen", "qwen", {"extra_condition_channels": 4}, "it is a ControlNet for inpainting"),
    ],
)
def test_a_controlnet_for_another_model_is_refused_in_words(
    family: str,
    of: str,
    settings: dict[str, Any],
    message: str,
    model_of: Folders,
    net_of: Folders,
) -> None:
    with pytest.raises(UnsupportedModel, match=f"^ControlNet 'edges': .*{message}") as caught:
        describe(model_of(family), net_of(of, **settings))
    assert "\n" not in str(caught.value)


def test_a_union_controlnet_is_known_by_its_configuration(
    model_of: Folders, net_of: Folders, tmp_path: Path
) -> None:
    folder = shutil.copytree(net_of("sdxl", union=True), tmp_path / "edges")
    config = json.loads((folder / "config.json").read_text())
    other = json.dumps(config | {"_class_name": "ControlNetModel_Union"})
    (folder / "config.json").write_text(other)
    entry = {"source": str(folder), "control_mode": 0}
    assert describe(model_of("sdxl"), entry).controlnets
    spec = spec_of(model_of("sdxl"), entry)
    model = loading.load(model_of("sdxl"), spec, "cpu", adapters=AdapterFiles((folder,)))
    assert model.controlnets[0].is_union


def test_a_model_that_takes_no_controlnets_says_which_do(
    model_of: Folders, net_of: Folders
) -> None:
    with pytest.raises(UnsupportedModel, match="PixArtSigmaPipeline takes no ControlNets; these"):
        describe(model_of("pixart"), net_of("sd"))


@pytest.mark.parametrize(
    ("union", "control_mode", "message"),
    [
        (True, None, "3 kinds of pictures: `control_mode` must be 0 to 2, not missing"),
        (True, 3, "3 kinds of pictures: `control_mode` must be 0 to 2, not 3"),
        (False, 0, "it takes one kind of picture, so `control_mode` must not be set"),
    ],
)
@pytest.mark.parametrize("family", ["sdxl", "flux"])
def test_a_control_mode_must_be_one_that_the_controlnet_has(
    family: str,
    union: bool,
    control_mode: int | None,
    message: str,
    model_of: Folders,
    net_of: Folders,
) -> None:
    settings = {"num_mode": 3} if union and family == "flux" else {}
    net = net_of(family, union=union and family == "sdxl", **settings)
    with pytest.raises(ModelError, match=f"ControlNet 'edges': it takes.*{message[10:]}"):
        describe(model_of(family), {"source": str(net), "control_mode": control_mode})


def test_controlnets_that_diffusers_cannot_use_together_are_refused(
    model_of: Folders, net_of: Folders
) -> None:
    plain = {"source": str(net_of("sdxl")), "name": "plain"}
    union = {"source": str(net_of("sdxl", union=True)), "control_mode": 0}
    with pytest.raises(
        UnsupportedModel, match="'edges': it is a ControlNetUnionModel, and 'plain'"
    ):
        describe(model_of("sdxl"), plain, union)
    first = {"source": str(net_of("flux")), "name": "first"}
    with pytest.raises(UnsupportedModel, match="its guidance_embeds is False, and that of 'first'"):
        describe(model_of("flux"), first, net_of("flux", guidance_embeds=False))


@pytest.mark.parametrize("damage", ["missing", "surplus", "misshapen"])
def test_files_that_do_not_hold_exactly_the_weights_are_refused_by_name(
    damage: str, model_of: Folders, edges: Path
) -> None:
    weights = load_file(edges / WEIGHTS)
    name = "controlnet_mid_block.weight"
    if damage == "missing":
        del weights[name]
    else:
        weights[name + ("s" if damage == "surplus" else "")] = torch.zeros(3)
    save_file(weights, edges / WEIGHTS)
    with pytest.raises(ModelError, match=f"ControlNet 'edges': .*{name}"):
        describe(model_of("sd"), edges)
    with pytest.raises(ModelError, match=f"ControlNet 'edges': .*{name}"):
        load(model_of("sd"), edges)


def load(model: Path, net: Path) -> Any:
    spec = spec_of(model, str(net))
    return loading.load(model, spec, "cpu", adapters=AdapterFiles((net,)))


def test_weights_that_are_not_numbers_are_refused(model_of: Folders, edges: Path) -> None:
    weights = load_file(edges / WEIGHTS)
    weights["controlnet_mid_block.bias"][0] = float("nan")
    save_file(weights, edges / WEIGHTS)
    with pytest.raises(ModelError, match=r"'edges': ControlNetModel: 1 of its .* hold NaN"):
        load(model_of("sd"), edges)


def test_a_controlnet_has_the_type_of_the_model(model_of: Folders, net_of: Folders) -> None:
    spec = spec_of(model_of("sd"), str(net_of("sd")), dtype="bfloat16")
    model = loading.load(model_of("sd"), spec, "cpu", adapters=AdapterFiles((net_of("sd"),)))
    (net,) = model.controlnets
    assert {weight.dtype for weight in net.network.parameters()} == {torch.bfloat16}
    assert not net.network.training


def test_pickled_weights_need_permission(model_of: Folders, edges: Path) -> None:
    torch.save(load_file(edges / WEIGHTS), edges / "diffusion_pytorch_model.bin")
    (edges / WEIGHTS).unlink()
    with pytest.raises(UnsafeWeights, match=r"^ControlNet 'edges': .*model\.allow_pickle"):
        describe(model_of("sd"), edges)
    assert describe(model_of("sd"), edges, allow_pickle=True).controlnets


def test_a_folder_that_is_no_controlnet_is_refused(model_of: Folders, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="a whole pipeline; a ControlNet is a folder with a co"):
        describe(model_of("sd"), {"source": str(model_of("sd")), "name": "all"})
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(
        UnsupportedModel, match=r"it is a network without a class in its config\.json"
    ):
        describe(model_of("sd"), tmp_path)


def test_canny_without_opencv_names_the_extra(
    model_of: Folders, net_of: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = controlnets.importlib.util.find_spec
    monkeypatch.setattr(
        controlnets.importlib.util,
        "find_spec",
        lambda name, *args: None if name == "cv2" else find_spec(name, *args),
    )
    with pytest.raises(ModelError, match=r"pip install 'nightpress\[canny\]'"):
        describe(model_of("sd"), {"source": str(net_of("sd")), "preprocess": "canny"})
