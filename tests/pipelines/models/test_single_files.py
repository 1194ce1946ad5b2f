"""A model in one file makes the images of the folder with the same weights, bit for bit."""

import functools
import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support import (
    ldm_checkpoints,
    narrow_models,
    tiny_loras,
    tiny_models,
    transformer_checkpoints,
)
from support.ldm_checkpoints import Tensors, write
from support.servers import Folder
from support.slow_cases import slow_except

from nightpress.diffusion_core.errors import (
    ModelError,
    ModelNotFound,
    UnsafeWeights,
    UnsupportedModel,
)
from nightpress.diffusion_core.models import loading
from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.pipelines.models.files import ModelFiles
from nightpress.pipelines.models.location import is_here, locate
from nightpress.pipelines.models.weight_size import weight_bytes

Models = Callable[[str], tuple[Path, Path]]


@pytest.fixture(autouse=True)
def cache(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several wait for each other where other processes work
    yield folder
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Name of a narrow model -> its diffusers folder, and its single file."""

    @functools.cache
    def made(name: str) -> tuple[Path, Path]:
        base = tmp_path_factory.mktemp(name)
        pipeline = narrow_models.make(name)
        pipeline.save_pretrained(base / "folder")
        file = write(narrow_models.checkpoint(name, pipeline), base / f"{name}.safetensors")
        return base / "folder", file

    return made


def without_weights(folder: Path, into: Path, *only: str) -> Path:
    """A copy of a diffusers folder without its weights, or some of its folders alone."""
    shutil.copytree(folder, into, ignore=shutil.ignore_patterns("*.safetensors"))
    for path in into.iterdir() if only else ():
        if path.name not in only:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return into


def pixels(spec: ModelSpec, mode: str = "text") -> np.ndarray[Any, Any]:
    """What the model makes, sampled by its own pipeline."""
    return made_by(ModelFiles.locate(spec, {}).load(spec, "cpu").pipeline, mode)


def made_by(pipeline: Any, mode: str = "text") -> np.ndarray[Any, Any]:
    """What a pipeline makes."""
    picture = Image.new("RGB", (32, 32), (200, 60, 20))
    given: dict[str, Any] = {"width": 32, "height": 32}
    if mode != "text":
        given = {"image": picture, "strength": 1.0 if mode == "inpaint" else 0.7}
    if mode == "inpaint":
        given |= {"mask_image": Image.new("L", (32, 32), 255), "width": 32, "height": 32}
    return np.asarray(
        pipeline(
            "a red fox",
            num_inference_steps=3,
            generator=torch.Generator().manual_seed(3),
            output_type="np",
            **given,
        ).images
    )


MODES = {"sd1-inpaint": "inpaint", "sdxl-inpaint": "inpaint", "refiner": "image"}
ASKED = {
    "sd1": ("tokenizer",),
    "sd1-inpaint": ("tokenizer",),
    "sd2": ("tokenizer", "scheduler"),
    "sd2-v": ("tokenizer", "scheduler"),
    "sdxl": ("tokenizer", "tokenizer_2"),
    "sdxl-inpaint": ("tokenizer", "tokenizer_2"),
    "refiner": ("tokenizer_2",),
}


@pytest.mark.parametrize("only", slow_except(["whole", "asked"], "asked"))
@pytest.mark.parametrize(
    "name",
    [
        name if name in ("sd1", "sdxl") else pytest.param(name, marks=pytest.mark.slow)
        for name in narrow_models.NAMES
    ],
)
def test_a_file_makes_the_bits_of_the_folder_with_its_weights(
    name: str, only: str, models: Models, tmp_path: Path
) -> None:
    folder, file = models(name)
    asked = ASKED[name] if only == "asked" else ()
    config = without_weights(folder, tmp_path / "config", *asked)
    spec = ModelSpec(source=str(file), config=str(config))
    files = ModelFiles.locate(spec, {})
    files.check_weights(spec)
    mode = MODES.get(name, "text")
    expected = pixels(ModelSpec(source=str(folder)), mode)
    assert np.array_equal(pixels(spec, mode), expected)
    assert np.isfinite(expected).all()


@pytest.mark.parametrize("family", slow_except(["sd", "sdxl"], "sd"))
def test_a_tiny_file_makes_the_bits_of_its_folder(family: str, tmp_path: Path) -> None:
    folder = tiny_models.save(family, tmp_path / "folder")
    layout = ldm_checkpoints.sd1 if family == "sd" else ldm_checkpoints.sdxl
    loaded = loading.load(folder, ModelSpec(source=str(folder)), "cpu").pipeline
    file = write(layout(loaded), tmp_path / "x.safetensors")
    spec = ModelSpec(source=str(file), config=str(folder))
    assert np.array_equal(pixels(spec), pixels(ModelSpec(source=str(folder))))


@pytest.fixture
def narrow_flux(monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers' converter of FLUX.1 for the tiny one."""
    from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES as LOADABLE

    convert = transformer_checkpoints.narrow_flux_converter(32)
    own = LOADABLE["FluxTransformer2DModel"] | {"checkpoint_mapping_fn": convert}
    monkeypatch.setitem(LOADABLE, "FluxTransformer2DModel", own)


def on_own_memory(pipeline: Any) -> Any:
    """The pipeline with its weights in memory of their own, whose alignment is that of no file.

    Products of matrices round by the alignment, which is that of the header before the weights.
    """
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.load_state_dict({k: v.clone() for k, v in part.state_dict().items()}, assign=True)
    return pipeline


@pytest.mark.parametrize("prefix", slow_except(["", "model.diffusion_model."], ""))
@pytest.mark.parametrize("family", ["flux", "sd3", "sana"])
def test_a_transformer_in_its_makers_layout_is_that_of_the_folder(
    family: str, prefix: str, narrow_flux: None, tmp_path: Path
) -> None:
    folder = tiny_models.save(family, tmp_path / "folder")
    expected = loading.load(folder, ModelSpec(source=str(folder)), "cpu").pipeline
    layout = getattr(transformer_checkpoints, family)
    tensors = {prefix + name: value for name, value in layout(expected.transformer).items()}
    file = write(tensors, tmp_path / "x.safetensors")
    spec = ModelSpec(source=str(file), config=str(folder))
    files = ModelFiles.locate(spec, {})
    files.check_weights(spec)
    found = files.load(spec, "cpu").pipeline
    for name in expected.components:
        if isinstance(getattr(expected, name), torch.nn.Module):
            held, own = getattr(found, name).state_dict(), getattr(expected, name).state_dict()
            assert held.keys() == own.keys()
            assert all(torch.equal(held[key], own[key]) for key in own)
    images = [made_by(on_own_memory(each)) for each in (expected, found)]
    assert np.array_equal(*images)
    assert np.isfinite(images[0]).all()


@pytest.mark.parametrize("name", narrow_models.NAMES)
def test_a_file_is_described_as_its_folder_is(name: str, models: Models, tmp_path: Path) -> None:
    folder, file = models(name)
    config = without_weights(folder, tmp_path / "config", *ASKED[name])
    spec, plain = ModelSpec(source=str(file), config=str(config)), ModelSpec(source=str(folder))
    of_file = ModelFiles.locate(spec, {})
    of_folder = ModelFiles.locate(plain, {})
    described, expected = of_file.describe(spec), of_folder.describe(plain)
    own = ("source", "fingerprint", "family", "notes")
    assert {k: v for k, v in described.as_dict().items() if k not in own} == {
        k: v for k, v in expected.as_dict().items() if k not in own
    }
    assert described.family is not None
    assert described.prompts == expected.prompts
    assert (
        of_file.weight_sizes(spec)["float32"].total_bytes
        == of_folder.weight_sizes(plain)["float32"].total_bytes
    )
    assert weight_bytes(spec, {}) == file.stat().st_size
    assert ModelInfo.from_dict(described.as_dict()) == described
    assert ModelInfo.from_dict(described.as_dict()).notes == described.notes


def test_the_fingerprint_covers_the_file_and_the_configurations_and_no_path(
    models: Models, tmp_path: Path
) -> None:
    folder, file = models("sd1")
    config = without_weights(folder, tmp_path / "config")

    def fingerprint(source: Path, config: Path) -> str:
        spec = ModelSpec(source=str(source), config=str(config))
        return ModelFiles.locate(spec, {}).describe(spec).fingerprint

    first = fingerprint(file, config)
    moved = Path(shutil.copy(file, tmp_path / "moved.safetensors"))
    copied = Path(shutil.copytree(config, tmp_path / "copied"))
    assert fingerprint(moved, copied) == first
    scheduler = copied / "scheduler" / "scheduler_config.json"
    scheduler.write_text(scheduler.read_text().replace("0.012", "0.013"))
    assert fingerprint(moved, copied) != first
    tensors = ldm_checkpoints.sd1(narrow_models.sd1())
    assert fingerprint(write(tensors, tmp_path / "other.safetensors"), config) != first


def test_a_file_that_changes_is_read_again(models: Models, tmp_path: Path) -> None:
    folder, file = models("sd1")
    mine = Path(shutil.copy(file, tmp_path / "x.safetensors"))
    spec = ModelSpec(source=str(mine), config=str(folder))
    first = locate(spec)
    assert locate(spec) == first
    shutil.copy(models("sdxl")[1], mine)
    with pytest.raises(UnsupportedModel, match=r"it is SDXL, and model\.config"):
        locate(spec)


@pytest.mark.parametrize("dtype", slow_except(["float32", "bfloat16", "float16"], "float16"))
def test_the_dtype_is_that_of_the_job_whatever_the_file_has(
    dtype: Any, models: Models, tmp_path: Path
) -> None:
    folder, file = models("sd1")
    half = write(
        ldm_checkpoints.sd1(narrow_models.make("sd1")), tmp_path / "half.safetensors", torch.float16
    )
    for source in (file, half):
        spec = ModelSpec(source=str(source), config=str(folder), dtype=dtype)
        pipeline = ModelFiles.locate(spec, {}).load(spec, "cpu").pipeline
        for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
            assert {value.dtype for value in part.parameters()} == {getattr(torch, dtype)}
            assert not part.training


def test_pictures_condition_a_file_as_they_condition_its_folder(models: Models) -> None:
    folder, file = models("sd1")
    spec = ModelSpec(source=str(file), config=str(folder))
    info = ModelFiles.locate(spec, {}).describe(spec)
    assert info.modes == ("text", "image", "inpaint", "outpaint")


def test_a_lora_acts_on_a_file_as_on_its_folder(models: Models, tmp_path: Path) -> None:
    folder, file = models("sd1")
    pipeline = loading.load(folder, ModelSpec(source=str(folder)), "cpu").pipeline
    lora = tiny_loras.save(pipeline, tmp_path / "lora")
    plain = ModelSpec(source=str(folder), loras=[str(lora)])
    spec = ModelSpec(source=str(file), config=str(folder), loras=[str(lora)])
    expected = pixels(plain)
    assert np.array_equal(pixels(spec), expected)
    assert not np.array_equal(pixels(ModelSpec(source=str(folder))), expected)


def test_a_file_at_a_url_is_mirrored_once(models: Models, bucket: Folder, cache: Path) -> None:
    import s3fs

    folder, file = models("sd1")
    store = s3fs.S3FileSystem(**bucket.options["s3"])
    key = bucket.url.removeprefix("s3://")
    store.put_file(str(file), f"{key}/x.safetensors")
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix != ".safetensors":
            store.put_file(str(path), f"{key}/config/{path.relative_to(folder)}")
    spec = ModelSpec(source=f"{bucket.url}/x.safetensors", config=f"{bucket.url}/config")
    assert not is_here(spec, bucket.options)
    assert weight_bytes(spec, bucket.options) == file.stat().st_size
    files = ModelFiles.locate(spec, bucket.options)
    assert is_here(spec, bucket.options)
    here = ModelSpec(source=str(file), config=str(folder))
    assert (
        files.describe(spec).fingerprint == ModelFiles.locate(here, {}).describe(here).fingerprint
    )
    before = sorted(cache.rglob("*"))
    assert ModelFiles.locate(spec, bucket.options) == files
    assert sorted(cache.rglob("*")) == before
    with pytest.raises(ModelNotFound, match=r"y\.safetensors"):
        locate(spec.model_copy(update={"source": f"{bucket.url}/y.safetensors"}), bucket.options)


def test_a_gguf_file_is_a_model_in_one_file(models: Models, bucket: Folder, tmp_path: Path) -> None:
    import s3fs

    folder = tiny_models.save("sd3", tmp_path / "folder")
    network = loading.load(folder, ModelSpec(source=str(folder)), "cpu").pipeline.transformer
    tensors = transformer_checkpoints.sd3(network)
    file = transformer_checkpoints.write_gguf(tensors, tmp_path / "x.GGUF", "Q4_0", "sd3")
    spec = ModelSpec(source=str(file), config=str(folder))
    files = ModelFiles.locate(spec, {})
    files.check_weights(spec)
    info = files.describe(spec)
    assert (info.family, info.pipeline) == ("SD3", "StableDiffusion3Pipeline")
    assert info.source == str(file)
    others = sum(path.stat().st_size for path in folder.glob("[!t]*/*.safetensors"))
    texts = sum(path.stat().st_size for path in folder.glob("text*/*.safetensors"))
    assert weight_bytes(spec, {}) == file.stat().st_size + others + texts
    store = s3fs.S3FileSystem(**bucket.options["s3"])
    store.put_file(str(file), f"{bucket.url.removeprefix('s3://')}/y.gguf")
    remote = spec.model_copy(update={"source": f"{bucket.url}/y.gguf"})
    assert not is_here(remote, bucket.options)
    assert weight_bytes(remote, bucket.options) == file.stat().st_size
    mirrored = ModelFiles.locate(remote, bucket.options)
    assert mirrored.describe(remote).fingerprint == info.fingerprint
    assert is_here(remote, bucket.options)


def test_a_local_file_url_is_the_file(models: Models) -> None:
    folder, file = models("sd1")
    spec = ModelSpec(source=file.as_uri(), config=folder.as_uri())
    plain = ModelSpec(source=str(file), config=str(folder))
    found = ModelFiles.locate(spec, {}).describe(spec).fingerprint
    assert found == ModelFiles.locate(plain, {}).describe(plain).fingerprint


def test_no_hub_is_asked(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was opened")

    folder, file = models("sdxl")
    monkeypatch.setattr(socket.socket, "connect", refuse)
    pixels(ModelSpec(source=str(file), config=str(folder)))
    with pytest.raises(ModelNotFound, match=r"it is SDXL: set model\.config to"):
        locate(ModelSpec(source=str(file)))
    with pytest.raises(ModelNotFound, match="no such file"):
        locate(ModelSpec(source="models/x.safetensors"))


def error_of(spec: ModelSpec) -> str:
    """The one line with which a model is refused, before a weight is loaded."""

    def plan() -> None:
        files = ModelFiles.locate(spec, {})
        files.describe(spec)
        files.check_weights(spec)

    with pytest.raises(ModelError) as caught:
        plan()
    text = str(caught.value)
    assert "\n" not in text
    assert spec.source in text
    return text


EDITS: dict[str, tuple[Callable[[Tensors], object], str]] = {
    "a tensor is missing": (
        lambda t: t.pop("model.diffusion_model.out.2.bias"),
        r"unet: 1 of the \d+ tensors of UNet2DConditionModel are missing: conv_out.bias",
    ),
    "a tensor of CLIP is missing": (
        lambda t: t.pop("cond_stage_model.transformer.text_model.final_layer_norm.bias"),
        r"text_encoder: 1 of the \d+ tensors of CLIPTextModel are missing: final_layer_norm.bias",
    ),
    "one too many": (
        lambda t: t.update({"model.diffusion_model.out.3.bias": torch.zeros(2)}),
        r"unet: 1 of its \d+ tensors have no place in UNet2DConditionModel .*: "
        r"model.diffusion_model.out.3.bias",
    ),
    "one of nothing": (
        lambda t: t.update({"embedding_manager.w": torch.zeros(2)}),
        r"1 of the \d+ tensors have no place in a StableDiffusionPipeline: embedding_manager.w",
    ),
    "a text encoder of another family": (
        lambda t: t.update({"text_encoders.t5xxl.transformer.shared.weight": torch.zeros(2, 2)}),
        r"1 of the \d+ tensors have no place in a StableDiffusionPipeline: text_encoders.t5xxl",
    ),
    "another shape": (
        lambda t: t.update({"model.diffusion_model.out.0.bias": torch.zeros(3)}),
        r"unet: 1 tensors have another shape .* conv_norm_out.bias is \(3,\), not \(32,\)",
    ),
    "whole numbers": (
        lambda t: t.update({"model.diffusion_model.out.0.bias": torch.zeros(32).long()}),
        r"unet: 1 of its \d+ tensors are stored as whole numbers \(I64\): model.diffusion",
    ),
    "no VAE": (
        lambda t: [t.pop(k) for k in list(t) if k.startswith("first_stage_model.")],
        r"it is SD 1.x, and holds no vae \(no VAE is baked in\), and .*/vae has no weights for it",
    ),
    "no text encoder": (
        lambda t: [t.pop(k) for k in list(t) if k.startswith("cond_stage_model.")],
        r"family that is known",
    ),
    "moving averages alone": (
        lambda t: t.update(
            {f"model_ema.{k[6:].replace('.', '')}": t.pop(k) for k in list(t) if "diffusion" in k}
        ),
        r"it holds only the moving averages of the denoiser \(model_ema.\)",
    ),
    "half of it": (
        lambda t: [t.pop(k) for k in sorted(t)[::2]],
        r"tensors of \w+ are missing|its tensors are not those of|known",
    ),
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_file_that_is_not_whole_is_refused_by_name(
    edit: str, models: Models, tmp_path: Path
) -> None:
    import re

    change, message = EDITS[edit]
    tensors = narrow_models.checkpoint("sd1", narrow_models.make("sd1"))
    change(tensors)
    file = write(tensors, tmp_path / "x.safetensors")
    config = without_weights(models("sd1")[0], tmp_path / "config")
    text = error_of(ModelSpec(source=str(file), config=str(config)))
    assert re.search(message, text), text


def test_what_no_image_needs_is_left_out_and_said(models: Models, tmp_path: Path) -> None:
    folder, file = models("sd1")
    tensors = narrow_models.checkpoint("sd1", narrow_models.make("sd1"))
    tensors |= {
        "model_ema.diffusion_modelout0bias": torch.zeros(3),
        "model_ema.decay": torch.zeros(()),
        "betas": torch.zeros(9),
        "sqrt_one_minus_alphas_cumprod": torch.zeros(9),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77)[None],
    }
    spec = ModelSpec(source=str(write(tensors, tmp_path / "x.safetensors")), config=str(folder))
    files = ModelFiles.locate(spec, {})
    files.check_weights(spec)
    assert files.describe(spec).notes == (
        "tensors that are not used: 2 of moving averages (model_ema.), 2 of the training's noise "
        "schedule, 1 of CLIP that no image needs",
    )
    plain = ModelSpec(source=str(file), config=str(folder))
    assert np.array_equal(pixels(spec), pixels(plain))
    assert (
        files.weight_sizes(spec)["float32"].total_bytes
        == ModelFiles.locate(plain, {}).weight_sizes(plain)["float32"].total_bytes
    )


def test_a_network_that_the_file_lacks_is_that_of_the_configuration(
    models: Models, tmp_path: Path
) -> None:
    folder, _ = models("sd1")
    tensors = narrow_models.checkpoint("sd1", narrow_models.make("sd1"))
    pruned = {k: v for k, v in tensors.items() if not k.startswith("first_stage_model.")}
    spec = ModelSpec(source=str(write(pruned, tmp_path / "x.safetensors")), config=str(folder))
    files = ModelFiles.locate(spec, {})
    files.check_weights(spec)
    assert files.describe(spec).notes == ("its vae is that of model.config; the file holds none",)
    plain = ModelSpec(source=str(folder))
    assert np.array_equal(pixels(spec), pixels(plain))
    assert (
        files.weight_sizes(spec)["float32"].total_bytes
        == ModelFiles.locate(plain, {}).weight_sizes(plain)["float32"].total_bytes
    )


def test_a_file_says_itself_that_it_predicts_v(models: Models, tmp_path: Path) -> None:
    folder, _ = models("sdxl")
    tensors = narrow_models.checkpoint("sdxl", narrow_models.make("sdxl"))
    tensors |= {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}
    file = write(tensors, tmp_path / "x.safetensors")
    spec = ModelSpec(source=str(file), config=str(folder))
    files = ModelFiles.locate(spec, {})
    config = files.load(spec, "cpu").scheduler_config
    assert config["prediction_type"] == "v_prediction"
    assert config["rescale_betas_zero_snr"] is True
    note, unused = files.describe(spec).notes
    assert unused == "tensors that are not used: 1 of CLIP that no image needs"
    assert "prediction_type v_prediction" in note
    assert "model.config says otherwise" in note


def test_an_inpainting_file_goes_with_the_configuration_of_its_family(
    models: Models, tmp_path: Path
) -> None:
    folder, file = models("sd1-inpaint")
    text_folder, _ = models("sd1")
    spec = ModelSpec(source=str(file), config=str(text_folder))
    files = ModelFiles.locate(spec, {})
    assert files.describe(spec).pipeline == "StableDiffusionInpaintPipeline"
    assert files.describe(spec).notes == ("its unet takes 9 channels; model.config says otherwise",)
    assert np.array_equal(pixels(spec, "inpaint"), pixels(ModelSpec(source=str(folder)), "inpaint"))


def test_a_pickle_is_refused_unless_it_is_allowed(models: Models, tmp_path: Path) -> None:
    folder, file = models("sd1")
    ckpt = tmp_path / "x.ckpt"
    torch.save({"state_dict": narrow_models.checkpoint("sd1", narrow_models.make("sd1"))}, ckpt)
    spec = ModelSpec(source=str(ckpt), config=str(folder))
    with pytest.raises(UnsafeWeights, match=r"set `model.allow_pickle: true` if you trust it"):
        locate(spec)
    trusted = spec.model_copy(update={"allow_pickle": True})
    plain = ModelSpec(source=str(file), config=str(folder))
    assert np.array_equal(pixels(trusted), pixels(plain))


def _pickled() -> bytes:
    stream = io.BytesIO()
    torch.save({"a": torch.zeros(2)}, stream)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_pickled(), "a pickle under the name of a safetensors file"),
        (b"", "the file is empty"),
        (b"<!DOCTYPE html><html>Please log in</html>", "a web page, not a model"),
        (b'{"error": "Unauthorized", "message": "log in"}', "a JSON text, not a model"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a pointer of Git LFS"),
        (b"GGUF\x03\0\0\0\0\0\0\0\0\0", "a GGUF file"),
        (bytes(range(190, 254)), "not a readable safetensors file"),
    ],
)
def test_a_file_of_another_kind_is_refused_by_what_it_is(
    content: bytes, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(content)
    assert message in error_of(ModelSpec(source=str(file)))


@pytest.mark.parametrize("share", [0.001, 0.5, 0.999])
def test_a_file_that_is_cut_short_is_refused(share: float, models: Models, tmp_path: Path) -> None:
    data = models("sd1")[1].read_bytes()
    file = tmp_path / "x.safetensors"
    file.write_bytes(data[: int(len(data) * share)])
    assert "cut short" in error_of(ModelSpec(source=str(file)))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["lora_unet_down_blocks_0.lora_down.weight"], "it is a LoRA, not a model"),
        (["unet.a.lora_A.weight"], "it is a LoRA, not a model"),
        (["control_model.input_hint_block.0.weight"], "it is a ControlNet, not a model"),
        (["image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight"], "it is an IP-Adapter"),
        (["emb_params"], "textual inversion"),
        (["first_stage_model.encoder.conv_in.weight"], "it holds a VAE alone"),
        (["encoder.conv_in.weight", "decoder.conv_in.weight"], "it holds a VAE alone"),
        (["cond_stage_model.transformer.text_model.x"], "it holds a text encoder alone"),
        (["layers.0.weight", "layers.1.weight"], "a checkpoint of no family that is known"),
        (["conv_in.weight", "down_blocks.0.x"], "one network in diffusers' layout"),
        (["t_block.1.weight", "blocks.0.mlp.fc1.weight"], "it is PixArt"),
    ],
)
def test_what_is_no_model_is_refused_by_what_it_is(
    names: list[str], message: str, tmp_path: Path
) -> None:
    file = write({name: torch.zeros(2, 4) for name in names}, tmp_path / "x.safetensors")
    assert message in error_of(ModelSpec(source=str(file)))


def test_settings_of_folders_are_refused_for_a_file(models: Models) -> None:
    folder, file = models("sd1")
    for settings in ({"revision": "main"}, {"variant": "fp16"}):
        (key,) = settings
        with pytest.raises(ModelError, match=f"model.{key}: it is for .* is one file"):
            locate(ModelSpec(source=str(file), config=str(folder), **settings))
    for source in ("builtin", str(folder)):
        with pytest.raises(ModelError, match=r"model.config: .* is not a file; remove it"):
            locate(ModelSpec(source=source, config=str(folder)))
    with pytest.raises(ModelNotFound, match=r"model.config 'nowhere': no such folder"):
        locate(ModelSpec(source=str(file), config="nowhere"))
    with pytest.raises(ModelNotFound, match=r"a hub id is not taken .*: hf download some/model --"):
        locate(ModelSpec(source=str(file), config="some/model"))


def test_a_configuration_that_lacks_something_is_refused_with_what_it_lacks(
    models: Models, tmp_path: Path
) -> None:
    folder, file = models("sd2")
    config = without_weights(folder, tmp_path / "config", "tokenizer")
    text = error_of(ModelSpec(source=str(file), config=str(config)))
    assert f"it is SD 2.x, and model.config {config} has no scheduler/" in text
