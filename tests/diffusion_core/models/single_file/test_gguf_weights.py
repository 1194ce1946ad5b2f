"""A GGUF file makes the images that diffusers makes of it, each independent of its companions."""

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from support import ldm_checkpoints, narrow_models, tiny_loras
from support import transformer_checkpoints as checkpoints
from support.slow_cases import slow_except
from support.transformer_checkpoints import narrow_flux_converter, write_gguf

from nightpress.diffusion_core.errors import IncompatibleLibrary, ModelError, UnsupportedModel
from nightpress.diffusion_core.models import conversion, loading, placement
from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.models.placement import Offload
from nightpress.diffusion_core.models.single_file import gguf_header, gguf_weights
from nightpress.diffusion_core.models.single_file.folder import make_folder
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.models.tensor_headers import TensorHeader
from nightpress.diffusion_core.models.weight_size import weight_sizes
from nightpress.diffusion_core.sampling.sampler import ImageRequest, Sampler, SamplingParams

Saved = Callable[[str], Path]
Plain = Callable[[str], Any]

SPEC = ModelSpec(source="x.gguf", dtype="float32")
REQUESTS = [ImageRequest("a fox", "", 1), ImageRequest("a dog in snow", "", 2)]
LAYOUTS = {"flux": checkpoints.flux, "sd3": checkpoints.sd3, "sana": checkpoints.sana}


@pytest.fixture(autouse=True)
def narrow_flux(monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers' converter of FLUX.1 for the tiny one."""
    from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES as LOADABLE

    own = LOADABLE["FluxTransformer2DModel"] | {"checkpoint_mapping_fn": narrow_flux_converter(32)}
    monkeypatch.setitem(LOADABLE, "FluxTransformer2DModel", own)


def made(folder: Path, file: Path) -> Path:
    into = file.with_suffix(".made")
    into.mkdir()
    make_folder(file, folder, into)
    return into


@pytest.fixture
def of_family(saved: Saved, plain: Plain, tmp_path: Path) -> Callable[..., Path]:
    """Family and ggml's type -> the folder that is made of its tiny GGUF file."""

    def make(family: str, kind: str = "Q8_0") -> Path:
        tensors = LAYOUTS[family](plain(family).transformer)
        return made(saved(family), write_gguf(tensors, tmp_path / f"{family}-{kind}.gguf", kind))

    return make


def images(model: LoadedModel, requests: list[ImageRequest]) -> Any:
    side = 2 * model.size_multiple
    params = SamplingParams(side, side, 2, 4.0)
    return np.stack(Sampler(model, batch_size=2).sample(requests, params).pixels)


@pytest.mark.parametrize(
    ("family", "kind"),
    slow_except(
        [("flux", "Q8_0"), ("flux", "Q4_0"), ("flux", "BF16"), ("flux", "F16"), ("sd3", "Q5_1")],
        ("flux", "Q4_0"),
        ("sd3", "Q5_1"),
    ),
)
def test_a_file_makes_the_bits_that_diffusers_makes_of_it(
    family: str, kind: str, of_family: Callable[..., Path], saved: Saved, plain: Plain
) -> None:
    from diffusers import GGUFQuantizationConfig

    folder = of_family(family, kind)
    loading.check_weights(folder, SPEC)
    model = loading.load(folder, SPEC, "cpu")
    expected = plain(family)
    network = type(expected.transformer).from_single_file(
        folder.with_suffix(".gguf"),
        quantization_config=GGUFQuantizationConfig(compute_dtype=torch.float32),
        config=str(saved(family)),
        subfolder="transformer",
        local_files_only=True,
        dtype=torch.float32,
    )
    expected.transformer = network

    def pixels(pipeline: Any) -> Any:
        generator = torch.Generator().manual_seed(3)
        given = {"width": 32, "height": 32, "num_inference_steps": 2, "generator": generator}
        return pipeline("a red fox", output_type="np", **given).images

    found = pixels(model.pipeline)
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found, pixels(expected))


@pytest.mark.parametrize("family", slow_except(LAYOUTS, "flux"))
def test_an_image_does_not_depend_on_its_companions(
    family: str, of_family: Callable[..., Path]
) -> None:
    model = loading.load(of_family(family), SPEC, "cpu")
    both = images(model, REQUESTS)
    np.testing.assert_array_equal(images(model, REQUESTS[1:])[0], both[1])
    np.testing.assert_array_equal(images(model, REQUESTS[::-1])[0], both[1])


def test_weights_stay_quantised_in_linear_layers_alone(of_family: Callable[..., Path]) -> None:
    folder = of_family("flux")
    network = loading.load(folder, SPEC, "cpu").pipeline.transformer
    kinds = {name: type(value).__name__ for name, value in network.named_parameters()}
    assert kinds["transformer_blocks.0.attn.to_q.weight"] == "GGUFParameter"
    assert kinds["single_transformer_blocks.0.proj_mlp.weight"] == "GGUFParameter"
    assert kinds["transformer_blocks.0.attn.to_q.bias"] == "Parameter"
    assert kinds["transformer_blocks.0.attn.norm_q.weight"] == "Parameter"
    assert kinds["x_embedder.weight"] == "Parameter"  # 16 numbers a row are no block
    held = {name for name, kind in kinds.items() if kind == "GGUFParameter"}
    in_memory = sum(v.numel() * v.element_size() for v in network.parameters())
    sizes = weight_sizes(folder, SPEC)["float32"]
    assert sizes.largest_network_bytes == in_memory
    assert len(held) > 10


def test_layers_calculate_in_the_dtype_of_the_job(of_family: Callable[..., Path]) -> None:
    spec = ModelSpec(source="x.gguf", dtype="bfloat16")
    model = loading.load(of_family("sd3"), spec, "cpu")
    network = model.pipeline.transformer
    types = {value.dtype for value in network.parameters()}
    assert types == {torch.bfloat16, torch.uint8}
    quantised = [m for m in network.modules() if hasattr(m, "compute_dtype")]
    assert {each.compute_dtype for each in quantised} == {torch.bfloat16}
    both = images(model, REQUESTS)
    np.testing.assert_array_equal(images(model, REQUESTS[1:])[0], both[1])


def test_what_is_known_of_a_file_is_said(of_family: Callable[..., Path]) -> None:
    info = loading.describe(of_family("flux", "Q4_0"), SPEC)
    assert info.family == "FLUX.1 dev"
    assert info.pipeline == "FluxPipeline"
    assert info.modes == ("text", "image", "inpaint", "outpaint")
    (note,) = info.notes
    assert note.startswith("its denoiser has 2")
    assert note.endswith("in F16; all else is that of model.config")
    sana = loading.describe(of_family("sana"), SPEC)
    assert sana.notes[1] == (
        "tensors that are not used: 2 of training (pos_embed, y_embedder.y_embedding)"
    )


def test_the_fingerprint_follows_the_file(of_family: Callable[..., Path]) -> None:
    prints = [loading.describe(of_family("flux", k), SPEC).fingerprint for k in ("Q8_0", "Q4_0")]
    assert len(set(prints)) == 2


@pytest.mark.parametrize("kind", ["model", "group"])
def test_moving_quantised_networks_changes_no_bit(
    kind: Offload, of_family: Callable[..., Path]
) -> None:
    folder = of_family("sd3")
    expected = images(loading.load(folder, SPEC, "cpu"), REQUESTS)
    model = loading.load(folder, SPEC, "cpu")
    placement.offload(model.pipeline, kind, "cpu")
    np.testing.assert_array_equal(images(model, REQUESTS), expected)


def test_a_lora_acts_on_quantised_weights(
    of_family: Callable[..., Path], plain: Plain, tmp_path: Path
) -> None:
    lora = tiny_loras.save(plain("flux"), tmp_path / "lora")
    (file,) = lora.glob("*.safetensors")
    folder = of_family("flux")
    spec = SPEC.model_validate({"source": "x.gguf", "loras": [{"source": str(file)}]})
    changed = images(loading.load(folder, spec, "cpu", [file]), REQUESTS)
    assert np.any(changed != images(loading.load(folder, SPEC, "cpu"), REQUESTS))
    again = images(loading.load(folder, spec, "cpu", [file]), REQUESTS[1:])
    np.testing.assert_array_equal(again[0], changed[1])


def test_a_converted_folder_makes_the_bits_of_the_file(
    of_family: Callable[..., Path], tmp_path: Path
) -> None:
    folder = of_family("sd3", "Q4_0")
    into = tmp_path / "converted"
    into.mkdir()
    written = conversion.write_folder(folder, ModelSpec(source="x.gguf"), into)
    assert {each.name: each.dtype for each in written}["transformer"] == "float32"
    plain = ModelSpec(source=str(into))
    loading.check_weights(into, plain)
    expected = images(loading.load(folder, SPEC, "cpu"), REQUESTS)
    np.testing.assert_array_equal(images(loading.load(into, plain, "cpu"), REQUESTS), expected)


def test_a_unet_is_read_as_comfyui_flattens_it(tmp_path: Path) -> None:
    # A U-Net alone is recognised by this width.
    pipeline = narrow_models.sd1(cross_attention_dim=768)
    pipeline.save_pretrained(tmp_path / "folder")
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "sd1")
    kind = gguf.GGMLQuantizationType.Q8_0
    for name, value in ldm_checkpoints.ldm_unet(pipeline.unet, prefix="").items():
        flat = (
            value.float().reshape(-1, 32) if value.ndim == 4 and not value.numel() % 32 else value
        )
        if flat.ndim == 2 and not flat.shape[-1] % 32:
            writer.add_array(f"comfy.gguf.orig_shape.{name}", list(value.shape))
            writer.add_tensor(name, gguf.quantize(flat.numpy(), kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, value.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    folder = made(tmp_path / "folder", tmp_path / "x.gguf")
    loading.check_weights(folder, SPEC)
    unet = loading.load(folder, SPEC, "cpu").pipeline.unet
    assert unet.conv_in.weight.shape == pipeline.unet.conv_in.weight.shape
    near = pipeline.unet.conv_in.weight.detach()
    torch.testing.assert_close(
        unet.conv_in.weight, near, atol=0.02 * float(near.abs().max()), rtol=0
    )
    in_memory = sum(v.numel() * v.element_size() for v in unet.parameters())
    sizes = weight_sizes(folder, SPEC)["float32"]
    others = weight_sizes(tmp_path / "folder", SPEC)["float32"].total_bytes - 4 * sum(
        value.numel() for value in pipeline.unet.parameters()
    )
    assert sizes.total_bytes - others == in_memory


@pytest.mark.parametrize("kind", sorted(gguf_header.DEQUANTIZED))
def test_every_type_is_read_as_the_package_reads_it(kind: str, tmp_path: Path) -> None:
    wanted = gguf.GGMLQuantizationType[kind]
    block, num_bytes = gguf.GGML_QUANT_SIZES[wanted]
    random = np.random.default_rng(5)
    halves = random.uniform(-2, 2, (3, 2, num_bytes // 2)).astype("float16").view("uint8")
    rows = np.zeros((3, 2 * num_bytes), "uint8")
    rows[:, : halves.shape[1] * halves.shape[2]] = halves.reshape(3, -1)[:, : 2 * num_bytes]
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "flux")
    writer.add_tensor("t", rows, raw_dtype=wanted)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    headers = gguf_header.read_gguf_header(tmp_path / "x.gguf").tensors
    assert headers == {"t": TensorHeader((3, 2 * block), kind, rows.size)}
    read = gguf_weights.read_tensors(tmp_path / "x.gguf", headers)["t"]
    expected = gguf.dequantize(rows, wanted)
    found = gguf_weights.dequantized(read).float().numpy()
    limit = np.finfo("float16").max
    inside = np.isfinite(expected) & (np.abs(expected) < limit)
    assert inside.mean() > 0.5
    np.testing.assert_allclose(found[inside], expected[inside], rtol=5e-3, atol=0.05)


def refusal(folder: Path, file: Path) -> str:
    with pytest.raises(ModelError) as caught:
        made(folder, file)
    text = str(caught.value)
    assert text.startswith(f"{file}: ")
    assert "\n" not in text
    return text


def test_a_folder_without_the_other_weights_is_refused(
    saved: Saved, plain: Plain, tmp_path: Path
) -> None:
    file = write_gguf(checkpoints.flux(plain("flux").transformer), tmp_path / "x.gguf")
    bare = tmp_path / "bare"
    shutil.copytree(saved("flux"), bare, ignore=shutil.ignore_patterns("*.safetensors"))
    text = refusal(bare, file)
    assert f"it is FLUX.1 dev, and {bare}/text_encoder has no weights for it; set " in text
    assert "with the weights of all its networks but the denoiser" in text


def test_a_file_in_the_place_of_a_networks_weights_is_said_to_be_a_source(
    saved: Saved, plain: Plain, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(saved("flux"), folder)
    for path in (folder / "transformer").glob("*.safetensors"):
        path.unlink()
    write_gguf(checkpoints.flux(plain("flux").transformer), folder / "transformer" / "x.gguf")
    with pytest.raises(ModelError, match=r"found: none; x\.gguf can be model\.source, and its"):
        loading.describe(folder, ModelSpec(source=str(folder)))


def test_a_folder_is_needed(plain: Plain, tmp_path: Path) -> None:
    file = write_gguf(checkpoints.flux(plain("flux").transformer), tmp_path / "x.gguf")
    (tmp_path / "into").mkdir()
    with pytest.raises(ModelError, match=r"it is FLUX\.1 dev: set model\.config to a diffusers"):
        make_folder(file, None, tmp_path / "into")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["token_embd.weight", "blk.0.attn_q.weight"], "it is a language model or a text encoder"),
        (["enc.blk.0.attn_q.weight"], "it is a language model or a text encoder in llama.cpp's"),
        (["some.weight"], "a checkpoint of no family that is known; its tensors are some.weight"),
        (
            ["model.diffusion_model.out.weight", "first_stage_model.x.weight"],
            "it holds a VAE beside its denoiser; a GGUF file must hold a denoiser alone",
        ),
    ],
)
def test_what_is_no_denoiser_is_refused_by_what_it_is(
    names: list[str], message: str, saved: Saved, tmp_path: Path
) -> None:
    tensors = {name: torch.rand(2, 32) for name in names}
    assert message in refusal(saved("flux"), write_gguf(tensors, tmp_path / "x.gguf"))


def test_a_type_that_diffusers_does_not_read_is_named(
    saved: Saved, plain: Plain, tmp_path: Path
) -> None:
    wanted = gguf.GGMLQuantizationType.IQ2_S
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "flux")
    for name, value in checkpoints.flux(plain("flux").transformer).items():
        writer.add_tensor(name, value.numpy())
    writer.add_tensor("extra.weight", np.zeros((1, 82), "uint8"), raw_dtype=wanted)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UnsupportedModel, match=r"quantised as IQ2_S, which diffusers does not re"):
        made(saved("flux"), tmp_path / "x.gguf")


@pytest.mark.parametrize("package", ["gguf", "accelerate"])
def test_a_missing_package_is_named_with_its_extra(
    package: str, of_family: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = of_family("sd3")
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == package else find(name)
    )
    with pytest.raises(ModelError, match=rf"{package}, not installed .* 'nightpress\[gguf\]'"):
        loading.describe(folder, SPEC)
    assert loading.describe(folder, SPEC, elsewhere=True)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"speed": {"quantization": "int8_weight_only", "compile": "full"}},
            "model.speed.quantization: .* quantised",
        ),
        ({"speed": {"fuse_qkv_projections": True}}, "model.speed.fuse_qkv_projections: "),
        ({"memory": {"device_map": "balanced"}}, "model.memory.device_map: .* nightpress convert"),
    ],
)
def test_what_does_not_go_with_a_file_is_refused_before_it_is_loaded(
    values: dict[str, Any], message: str, of_family: Callable[..., Path]
) -> None:
    spec = ModelSpec.model_validate({"source": "x.gguf", **values})
    with pytest.raises(ModelError, match=message):
        loading.describe(of_family("sd3"), spec, elsewhere=True)


@pytest.mark.parametrize("name", ["GGUFParameter", "dequantize_gguf_tensor"])
def test_an_upgrade_that_moves_what_is_read_is_named(
    name: str, of_family: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = of_family("sd3")
    import diffusers.quantizers.gguf.utils as utils

    monkeypatch.delattr(utils, name)
    with pytest.raises(IncompatibleLibrary, match="read the quantised weights of a GGUF file"):
        gguf_weights.dequantized(None) if name.startswith("deq") else loading.load(
            folder, SPEC, "cpu"
        )
