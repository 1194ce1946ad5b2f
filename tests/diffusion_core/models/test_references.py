"""Naming, checking and loading IP-Adapters."""

import inspect
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from support import tiny_models, tiny_references

from nightpress.diffusion_core.errors import ModelError, UnsafeWeights, UnsupportedModel
from nightpress.diffusion_core.models import loading, modes, reference_layouts
from nightpress.diffusion_core.models.adapter_files import AdapterFiles, ReferenceFiles
from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.diffusion_core.models.references import ReferenceSpec, weight_name
from nightpress.diffusion_core.models.spec import ModelSpec

Saved = Callable[[str], Path]
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Family and kind -> the folder of an adapter, `ip.safetensors`, with its image encoder."""
    folders = {}
    for family, kind in (
        ("sd", "base"),
        ("sd", "plus"),
        ("sd", "faceid"),
        ("sdxl", "base"),
        ("flux", "base"),
    ):
        folder = tmp_path_factory.mktemp(f"{family}-{kind}")
        pipeline = tiny_models.MAKERS[family]()
        folders[f"{family}-{kind}"] = tiny_references.save(pipeline, folder, kind)
    return folders


def files_of(*folders: Path) -> AdapterFiles:
    return AdapterFiles(
        references=tuple(
            ReferenceFiles(folder / "ip.safetensors", folder / "image_encoder")
            for folder in folders
        )
    )


def spec_of(model: Path, *folders: Path, **settings: Any) -> ModelSpec:
    references = [
        {"source": str(folder), "name": f"ip{number}"} for number, folder in enumerate(folders)
    ]
    return ModelSpec(source=str(model), references=references, **settings)


def described(model: Path, *folders: Path) -> ModelInfo:
    return loading.describe(model, spec_of(model, *folders), adapters=files_of(*folders))


def edited(
    folder: Path, into: Path, edit: Callable[[Tensors], Tensors], name: str = "ip.safetensors"
) -> Path:
    """A copy of an adapter's folder with other tensors."""
    shutil.copytree(folder, into)
    save_file(edit(load_file(folder / "ip.safetensors")), into / name)
    return into


@pytest.mark.parametrize("kind", ["sd-base", "sd-plus", "sdxl-base", "flux-base"])
def test_an_adapter_is_described_with_the_modes_that_it_brings(
    saved: Saved, made: Mapping[str, Path], kind: str
) -> None:
    model = saved(kind.partition("-")[0])
    info, without = described(model, made[kind]), described(model)
    assert [each.name for each in info.references] == ["ip0"]
    assert "text+reference" in info.modes
    assert not any("reference" in mode for mode in without.modes)
    assert info.fingerprint == without.fingerprint
    assert info.identity != without.identity == without.fingerprint
    assert ModelInfo.from_dict(info.as_dict()) == info


def test_the_identity_covers_the_weights_and_the_image_encoder(
    saved: Saved, made: Mapping[str, Path], tmp_path: Path
) -> None:
    first = described(saved("sd"), made["sd-base"])
    shutil.copytree(made["sd-base"], tmp_path / "encoder")
    tiny_references.save_encoder(tmp_path / "encoder" / "image_encoder", seed=9)
    other = edited(
        made["sd-base"], tmp_path / "weights", lambda t: {k: v + 1 for k, v in t.items()}
    )
    identities = {
        described(saved("sd"), folder).identity
        for folder in (made["sd-base"], tmp_path / "encoder", other)
    }
    assert len(identities) == 3
    assert first.references_of(("ip0",), (0.25,))[0].scale == 0.25
    assert first.references_of(("ip0",), (0.25,))[0].sha256 == first.references[0].sha256


@pytest.mark.parametrize(
    ("model", "adapter", "reason"),
    [
        ("sd", "flux-base", "'ip0': it is for FLUX, not StableDiffusionPipeline"),
        ("flux", "sd-base", "'ip0': it is for a U-Net, not FluxPipeline"),
        ("sd", "sdxl-base", "its keys are 32 wide, and those of this StableDiffusionPipeline 16"),
        ("sd", "sd-faceid", "a FaceID adapter, which takes the embedding of a face"),
        ("pixart", "sd-base", "PixArtSigmaPipeline takes no IP-Adapters"),
    ],
)
def test_an_adapter_for_another_family_is_refused_by_name_when_it_is_described(
    saved: Saved, made: Mapping[str, Path], model: str, adapter: str, reason: str
) -> None:
    with pytest.raises(UnsupportedModel, match=reason) as refused:
        described(saved(model), made[adapter])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("width", "family"), [(768, "Stable Diffusion 1.x"), (2048, "SDXL")])
def test_published_families_are_called_by_their_names(width: int, family: str) -> None:
    parts = {
        "image_proj": {"proj.weight": (4 * width, 1024)},
        "ip_adapter": {"1.to_k_ip.weight": (320, width)},
    }
    assert reference_layouts.family_of(parts) == reference_layouts.U_NET
    assert reference_layouts.FAMILY_BY_WIDTH[width] == family


def without(*names: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {k: v for k, v in tensors.items() if k not in names}


def with_another(name: str, like: str, scale: float = 1.0) -> Callable[[Tensors], Tensors]:
    return lambda tensors: tensors | {name: tensors[like].clone() * scale}


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (without("ip_adapter.3.to_v_ip.weight"), "1 tensors are missing: 3.to_v_ip.weight"),
        (without("image_proj.norm.bias"), r"Missing key\(s\) in state_dict: .norm.bias"),
        (
            with_another("ip_adapter.99.to_k_ip.weight", "ip_adapter.1.to_k_ip.weight"),
            "1 tensors would have no effect: 99.to_k_ip.weight",
        ),
        (with_another("image_proj.extra", "image_proj.norm.bias"), r"Unexpected key\(s\).*extra"),
        (with_another("lora.up", "image_proj.norm.bias"), "nothing else; other tensors: lora.up"),
        (
            without(*(f"ip_adapter.{n}.to_{k}_ip.weight" for n in (1, 3, 5, 7) for k in "kv")),
            "must hold an image projection and an adapter",
        ),
        (lambda tensors: {k: v.to(torch.int32) for k, v in tensors.items()}, "whole numbers"),
    ],
)
def test_every_tensor_must_have_a_place_and_none_may_lack(
    saved: Saved,
    made: Mapping[str, Path],
    tmp_path: Path,
    edit: Callable[[Tensors], Tensors],
    reason: str,
) -> None:
    folder = edited(made["sd-base"], tmp_path / "edited", edit)
    with pytest.raises(ModelError, match=reason) as refused:
        described(saved("sd"), folder)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_cut_short_is_refused(
    saved: Saved, made: Mapping[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "cut"
    shutil.copytree(made["sd-base"], folder)
    data = (folder / "ip.safetensors").read_bytes()
    (folder / "ip.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelError, match="not a readable safetensors file"):
        described(saved("sd"), folder)


def test_an_adapter_that_is_not_finite_is_refused_when_it_is_loaded(
    saved: Saved, made: Mapping[str, Path], tmp_path: Path
) -> None:
    folder = edited(
        made["sd-base"],
        tmp_path / "nan",
        lambda t: t | {"ip_adapter.1.to_k_ip.weight": t["ip_adapter.1.to_k_ip.weight"] * torch.nan},
    )
    with pytest.raises(ModelError, match="weights hold NaN or infinity"):
        loading.load(saved("sd"), spec_of(saved("sd"), folder), "cpu", adapters=files_of(folder))


def test_an_image_encoder_of_another_width_is_refused(
    saved: Saved, made: Mapping[str, Path], tmp_path: Path
) -> None:
    encoder = tiny_references.save_encoder(tmp_path / "wide", projection_dim=48, hidden_size=64)
    for kind, own, wanted in (("sd-base", 48, 24), ("sd-plus", 64, 32)):
        files = AdapterFiles(references=(ReferenceFiles(made[kind] / "ip.safetensors", encoder),))
        with pytest.raises(ModelError, match=f"embeddings {wanted} wide, and the image .* {own};"):
            loading.describe(saved("sd"), spec_of(saved("sd"), made[kind]), adapters=files)


def test_adapters_with_different_image_encoders_are_refused(
    saved: Saved, made: Mapping[str, Path], tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(made["sd-plus"], other)
    tiny_references.save_encoder(other / "image_encoder", seed=5)
    with pytest.raises(ModelError, match="'ip0' and 'ip1' bring different image encoders"):
        described(saved("sd"), made["sd-base"], other)


def test_an_adapter_without_an_image_encoder_is_refused(
    saved: Saved, made: Mapping[str, Path]
) -> None:
    files = AdapterFiles(references=(ReferenceFiles(made["sd-base"] / "ip.safetensors", None),))
    with pytest.raises(ModelError, match="no image encoder: there is no folder image_encoder"):
        loading.describe(saved("sd"), spec_of(saved("sd"), made["sd-base"]), adapters=files)


def test_an_image_encoder_that_is_damaged_is_refused_before_anything_is_loaded(
    saved: Saved, made: Mapping[str, Path], tmp_path: Path
) -> None:
    spec = spec_of(saved("sd"), made["sd-base"])
    loading.check_weights(saved("sd"), spec, files_of(made["sd-base"]))
    for name, edit, reason in (
        ("less", without("visual_projection.weight"), "1 of the .* are missing .*visual_proj"),
        ("more", with_another("other.weight", "visual_projection.weight"), "without a place"),
    ):
        folder = tmp_path / name
        shutil.copytree(made["sd-base"], folder)
        weights = folder / "image_encoder" / "model.safetensors"
        save_file(edit(load_file(weights)), weights, {"format": "pt"})
        with pytest.raises(ModelError, match=f"image encoder {folder}.*{reason}") as refused:
            loading.check_weights(saved("sd"), spec, files_of(folder))
        assert "\n" not in str(refused.value)
    weights.write_bytes(weights.read_bytes()[:-99])
    with pytest.raises(ModelError, match=f"image encoder {folder}.*not a readable safetensors"):
        loading.check_weights(saved("sd"), spec, files_of(folder))


def test_the_image_encoder_may_be_that_of_the_model_or_a_whole_clip(
    saved: Saved, made: Mapping[str, Path], tmp_path: Path
) -> None:
    from transformers import CLIPConfig, CLIPModel, CLIPVisionModelWithProjection

    encoder = CLIPVisionModelWithProjection.from_pretrained(made["sd-base"] / "image_encoder")
    vision = encoder.config.to_dict()
    whole = CLIPModel(CLIPConfig(vision_config=vision, projection_dim=24, text_config=TEXT))
    whole.vision_model.load_state_dict(encoder.vision_model.state_dict())
    whole.visual_projection.load_state_dict(encoder.visual_projection.state_dict())
    whole.save_pretrained(tmp_path / "clip")
    files = ReferenceFiles(made["sd-base"] / "ip.safetensors", tmp_path / "clip")
    spec = spec_of(saved("sd"), made["sd-base"])
    model = loading.load(saved("sd"), spec, "cpu", adapters=AdapterFiles(references=(files,)))
    found = model.pipeline.image_encoder.state_dict()
    assert found.keys() == encoder.state_dict().keys()
    assert all(torch.equal(found[key], value) for key, value in encoder.state_dict().items())
    model.pipeline.save_pretrained(tmp_path / "model")
    own = ReferenceFiles(made["sd-base"] / "ip.safetensors", None)
    again = loading.load(
        tmp_path / "model",
        spec_of(tmp_path / "model", made["sd-base"]),
        "cpu",
        adapters=AdapterFiles(references=(own,)),
    )
    assert again.pipeline.image_encoder is not None


TEXT = {
    "vocab_size": 8,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
}


def test_a_pickle_is_read_only_if_pickles_are_allowed(
    saved: Saved, made: Mapping[str, Path], tmp_path: Path
) -> None:
    parts: dict[str, Tensors] = {"image_proj": {}, "ip_adapter": {}}
    for key, value in load_file(made["sd-base"] / "ip.safetensors").items():
        part, _, rest = key.partition(".")
        parts[part][rest] = value
    torch.save(parts, tmp_path / "ip.bin")
    files = AdapterFiles(
        references=(ReferenceFiles(tmp_path / "ip.bin", made["sd-base"] / "image_encoder"),)
    )
    with pytest.raises(UnsafeWeights, match=r"ip.bin is not a safetensors file"):
        loading.describe(saved("sd"), spec_of(saved("sd"), tmp_path), adapters=files)
    allowed = spec_of(saved("sd"), tmp_path, allow_pickle=True)
    pickled = loading.load(saved("sd"), allowed, "cpu", adapters=files)
    safe = loading.load(
        saved("sd"),
        spec_of(saved("sd"), made["sd-base"]),
        "cpu",
        adapters=files_of(made["sd-base"]),
    )
    pickled.references.use(("ip0",), (1.0,))
    safe.references.use(("ip0",), (1.0,))
    own, expected = pickled.pipeline.unet.state_dict(), safe.pipeline.unet.state_dict()
    assert own.keys() == expected.keys()
    assert all(torch.equal(own[key], value) for key, value in expected.items())


def test_switching_off_leaves_the_network_with_exactly_its_own_parts(
    saved: Saved, made: Mapping[str, Path]
) -> None:
    spec = spec_of(saved("sd"), made["sd-base"], made["sd-plus"])
    files = files_of(made["sd-base"], made["sd-plus"])
    model = loading.load(saved("sd"), spec, "cpu", adapters=files)
    unet = model.pipeline.unet
    plain = set(loading.load(saved("sd"), spec_of(saved("sd")), "cpu").pipeline.unet.state_dict())
    assert set(unet.state_dict()) == plain
    model.references.use(("ip1",), (0.5,))
    with_one = set(unet.state_dict()) - plain
    assert any("to_k_ip.0" in key for key in with_one)
    assert not any("to_k_ip.1" in key for key in with_one)
    model.references.use(())
    assert set(unet.state_dict()) == plain


def test_the_weight_file_is_the_named_one_or_the_only_one() -> None:
    names = ["models/a.safetensors", "models/b.safetensors", "sdxl/c.safetensors", "d.bin"]
    source = {"source": "h94/IP-Adapter"}

    def chosen(**keys: Any) -> str:
        return weight_name(names, ReferenceSpec(**source, **keys), allow_pickle=False)

    assert chosen(subfolder="models", weight_name="b.safetensors") == "models/b.safetensors"
    assert chosen(subfolder="sdxl") == "sdxl/c.safetensors"
    assert chosen(weight_name="models/a.safetensors") == "models/a.safetensors"
    with pytest.raises(ModelError, match="set `weight_name` to one of them"):
        chosen(subfolder="models")
    with pytest.raises(ModelError, match=r"no file 'models/e.safetensors'; found in models/: a"):
        chosen(subfolder="models", weight_name="e.safetensors")
    with pytest.raises(UnsafeWeights, match=r"d.bin is not a safetensors file"):
        chosen()


@pytest.mark.parametrize(
    ("references", "reason"),
    [
        ([{"source": "a/x"}, {"source": "b/x"}], "2 are called 'x'; set a `name` each"),
        ([{"source": "a/.."}], "no column can name '..'"),
        ([{"source": "a/x.y.safetensors"}], "no column can name 'x.y'"),
        ([{"source": "a", "scale": float("nan")}], "finite number"),
        ([{"source": "a", "scale": -0.5}], "greater than or equal to 0"),
        ([{"source": "a", "weight": "b"}], "Extra inputs"),
        ([{"source": "a", "name": "a.b"}], "should match pattern"),
    ],
)
def test_a_job_names_its_adapters_one_by_one(references: list[Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        ModelSpec(references=references)


def test_an_adapter_may_be_named_by_its_source_alone() -> None:
    spec = ModelSpec.model_validate({"references": ["s3://adapters/style.safetensors"]})
    assert [each.label for each in spec.references] == ["style"]


@pytest.mark.parametrize(
    "speed",
    [
        {"compile": "regional"},
        {"fuse_qkv_projections": True},
        {"attention_backend": "native"},
        {"first_block_cache": {}},
        {"quantization": "int8_weight_only", "compile": "full"},
    ],
)
def test_speed_that_replaces_attention_does_not_go_with_adapters(speed: dict[str, Any]) -> None:
    ModelSpec(speed=speed)
    with pytest.raises(ValidationError, match="does not go with references; these do: channels"):
        ModelSpec(speed=speed, references=[{"source": "a"}])


@pytest.mark.parametrize("name", sorted(filter(modes.takes_adapters, modes.FAMILIES)))
def test_a_mode_takes_references_exactly_if_its_class_does(name: str) -> None:
    import diffusers

    found = modes.modes_of(name, has_controls=True, has_references=True)
    for mode in modes.modes_of(name, has_controls=True):
        kind = getattr(diffusers, modes.class_for(name, mode))
        takes = "ip_adapter_image_embeds" in inspect.signature(kind.__call__).parameters
        assert (f"{mode}+reference" in found) == takes
