import json
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support import tiny_models

from nightpress.diffusion_core.errors import (
    ModelError,
    ModelNotFound,
    UnsafeWeights,
    UnsupportedModel,
)
from nightpress.diffusion_core.models import loading, weight_files
from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.diffusion_core.models.spec import ModelSpec

Saved = Callable[[str], Path]

SIZES = {
    "sd": (8, 32),
    "lcm": (8, 32),
    "sdxl": (8, 32),
    "sd3": (8, 32),
    "flux": (8, 256),
    "pixart": (8, 32),
    "sana": (32, 32),
}
"""Family -> multiple and native size in pixels; every tiny autoencoder halves each side once."""


@pytest.fixture
def copied(saved: Saved, tmp_path: Path) -> Path:
    """A tiny Stable Diffusion that a test may change."""
    return Path(shutil.copytree(saved("sd"), tmp_path / "model"))


def describe(folder: Path, **settings: Any) -> ModelInfo:
    return loading.describe(folder, ModelSpec(source=str(folder), **settings))


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_a_model_is_described_as_the_plain_pipeline_behaves(
    family: str, saved: Saved, plain: Callable[[str], Any]
) -> None:
    info, pipeline = describe(saved(family)), plain(family)
    assert info.pipeline == type(pipeline).__name__
    defaults = dict(zip(*_keyword_defaults(pipeline), strict=True))
    assert info.num_inference_steps == defaults["num_inference_steps"]
    assert info.guidance_scale == defaults["guidance_scale"]
    assert info.takes_negative_prompt == (family not in ("flux", "lcm"))
    assert (info.size_multiple, info.width) == SIZES[family]
    assert info.height == info.width
    if hasattr(pipeline, "default_sample_size"):
        assert info.width == pipeline.default_sample_size * pipeline.vae_scale_factor


def _keyword_defaults(pipeline: Any) -> tuple[list[str], list[Any]]:
    import inspect

    parameters = inspect.signature(pipeline.__call__).parameters
    return list(parameters), [parameter.default for parameter in parameters.values()]


def test_real_sizes_follow_from_real_configurations(saved: Saved, tmp_path: Path) -> None:
    """The published sizes follow from the published configurations."""
    real = {
        "sd": ("unet", {"sample_size": 64}, 8, (512, 512)),
        "sdxl": ("unet", {"sample_size": 128}, 8, (1024, 1024)),
        "sd3": ("transformer", {"sample_size": 128, "patch_size": 2}, 16, (1024, 1024)),
        "flux": ("transformer", {"patch_size": 1}, 16, (1024, 1024)),
        "pixart": ("transformer", {"sample_size": 128, "patch_size": 2}, 16, (1024, 1024)),
        "sana": ("transformer", {"sample_size": 32, "patch_size": 1}, 32, (1024, 1024)),
    }
    for family, (component, changes, multiple, size) in real.items():
        folder = Path(shutil.copytree(saved(family), tmp_path / family))
        stages = [1] * 6 if family == "sana" else [1] * 4
        key = "encoder_block_out_channels" if family == "sana" else "block_out_channels"
        edit(folder / "vae" / "config.json", **{key: stages})
        edit(folder / component / "config.json", **changes)
        info = describe(folder)
        assert (info.size_multiple, (info.width, info.height)) == (multiple, size), family


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_width_and_height_are_not_confused(copied: Path) -> None:
    edit(copied / "unet" / "config.json", sample_size=[8, 24])
    info = describe(copied)
    assert (info.width, info.height) == (48, 16)


def test_a_model_that_names_no_size_has_none(copied: Path) -> None:
    edit(copied / "unet" / "config.json", sample_size=None)
    assert describe(copied).width is None


def test_the_scheduler_is_the_class_that_the_index_names(copied: Path) -> None:
    index = json.loads((copied / "model_index.json").read_text())
    edit(copied / "model_index.json", scheduler=["diffusers", "FlowMatchEulerDiscreteScheduler"])
    assert describe(copied).samplers == ("default", "flow-euler")
    edit(copied / "model_index.json", scheduler=index["scheduler"])
    (copied / "scheduler" / "scheduler_config.json").write_text("{}")
    assert "euler" in describe(copied).samplers


def test_info_survives_json(saved: Saved) -> None:
    info = describe(saved("flux"))
    assert ModelInfo.from_dict(json.loads(json.dumps(info.as_dict()))) == info


def test_the_defaults_of_a_folder_override_those_of_the_class(copied: Path) -> None:
    (copied / "nightpress.json").write_text('{"num_inference_steps": 12, "guidance_scale": 0}')
    info = describe(copied)
    assert (info.num_inference_steps, info.guidance_scale) == (12, 0.0)
    (copied / "nightpress.json").write_text('{"guidance_scale": "much"}')
    with pytest.raises(ModelError, match=r"nightpress\.json: guidance_scale"):
        describe(copied)


def test_the_fingerprint_depends_on_the_content_only(copied: Path, saved: Saved) -> None:
    assert describe(copied).fingerprint == describe(saved("sd")).fingerprint
    (copied / "README.md").write_text("A model card decides no pixel.")
    assert describe(copied).fingerprint == describe(saved("sd")).fingerprint


@pytest.mark.parametrize(
    "file",
    [
        "unet/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "vae/config.json",
        "tokenizer/tokenizer.json",
        "scheduler/scheduler_config.json",
    ],
)
def test_one_byte_of_any_file_that_matters_changes_the_fingerprint(copied: Path, file: str) -> None:
    before = describe(copied).fingerprint
    data = (copied / file).read_bytes()
    changed = data + b"\n" if file.endswith(".json") else data[:-1] + bytes([data[-1] ^ 1])
    (copied / file).write_bytes(changed)
    assert describe(copied).fingerprint != before


def test_only_the_variant_that_is_loaded_is_fingerprinted(copied: Path) -> None:
    plain_weights = copied / "unet" / "diffusion_pytorch_model.safetensors"
    half = copied / "unet" / "diffusion_pytorch_model.fp16.safetensors"
    before = describe(copied).fingerprint
    half.write_bytes(plain_weights.read_bytes())
    assert describe(copied).fingerprint == before
    assert describe(copied, variant="fp16").fingerprint != before
    plain_weights.unlink()
    assert loading.load(copied, ModelSpec(source=str(copied), variant="fp16"), "cpu").pipeline
    with pytest.raises(ModelNotFound, match=r"no weights without a variant; found: .*fp16"):
        describe(copied)


def test_sharded_weights_count_as_plain_ones(copied: Path) -> None:
    pipeline = loading.load(copied, ModelSpec(source=str(copied)), "cpu").pipeline
    shutil.rmtree(copied / "unet")
    pipeline.unet.save_pretrained(copied / "unet", max_shard_size="20KB")
    names = [
        path.name for path in weight_files.weight_files(copied / "unet", None, allow_pickle=False)
    ]
    assert len(names) > 1
    assert names == sorted(path.name for path in (copied / "unet").glob("*.safetensors"))
    assert loading.load(copied, ModelSpec(source=str(copied)), "cpu")


def test_pickled_weights_are_refused_by_name_unless_they_are_allowed(copied: Path) -> None:
    from safetensors.torch import load_file

    safe = copied / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(safe), safe.with_suffix(".bin"))
    safe.unlink()
    for refuse in (lambda: describe(copied), lambda: load(copied)):
        with pytest.raises(UnsafeWeights) as caught:
            refuse()
        assert "diffusion_pytorch_model.bin" in str(caught.value)
        assert "model.allow_pickle: true" in str(caught.value)
    assert describe(copied, allow_pickle=True).fingerprint
    assert load(copied, allow_pickle=True).pipeline.unet


def load(folder: Path, **settings: Any) -> loading.LoadedModel:
    return loading.load(folder, ModelSpec(source=str(folder), **settings), "cpu")


class Trap:
    """A pickle that creates a file when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_beside_safetensors_is_never_opened(copied: Path, tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    trap = copied / "unet" / "diffusion_pytorch_model.bin"
    trap.write_bytes(pickle.dumps(Trap(sprung)))
    describe(copied)
    load(copied)
    assert not sprung.exists()


def test_a_missing_model_is_reported_in_one_line(tmp_path: Path) -> None:
    for refuse in (describe, load):
        with pytest.raises(ModelNotFound, match=r"nowhere: no such model folder$"):
            refuse(tmp_path / "nowhere")
        with pytest.raises(ModelNotFound, match=r"no model_index\.json"):
            refuse(tmp_path)


def test_a_missing_component_is_named(copied: Path) -> None:
    shutil.rmtree(copied / "vae")
    with pytest.raises(ModelNotFound, match="'vae'"):
        describe(copied)


@pytest.mark.parametrize(
    ("class_name", "reason"),
    [
        ("NoSuchPipeline", "NoSuchPipeline is not a pipeline of the installed diffusers"),
        ("UNet2DConditionModel", "is not a pipeline"),
        ("StableDiffusionDiffEditPipeline", "takes no height"),
        ("KandinskyInpaintCombinedPipeline", "needs mask_image, image"),
        ("StableDiffusionControlNetPipeline", "needs image, controlnet"),
        ("FluxControlPipeline", "needs control_image"),
        ("DDPMPipeline", "takes no prompt"),
        ("WanVideoToVideoPipeline", "it needs a video to begin with"),
        ("MochiPipeline", "it makes clips, and was not tried here"),
        (["my_pipeline", "MyPipeline"], "code of their own"),
    ],
)
def test_a_pipeline_that_is_not_text_to_image_is_refused_with_the_reason(
    copied: Path, class_name: Any, reason: str
) -> None:
    edit(copied / "model_index.json", _class_name=class_name)
    with pytest.raises(UnsupportedModel, match=reason):
        describe(copied)


@pytest.mark.parametrize("file", ["model_index.json", "unet/config.json"])
def test_a_damaged_configuration_is_named(copied: Path, file: str) -> None:
    (copied / file).write_text("{")
    with pytest.raises(ModelError, match=f"{file}: not valid JSON"):
        describe(copied)


def test_weights_that_cannot_be_loaded_are_reported_in_one_line(copied: Path) -> None:
    path = copied / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot load StableDiffusionPipeline") as caught:
        load(copied)
    assert "\n" not in str(caught.value)


def test_loading_prints_no_progress_bar(saved: Saved, capfd: pytest.CaptureFixture[str]) -> None:
    load(saved("sd3"))
    assert "%|" not in "".join(capfd.readouterr())


def test_dtype_is_float32_on_a_cpu_unless_it_is_set(saved: Saved) -> None:
    assert load(saved("sd")).dtype == "float32"
    half = load(saved("sd"), dtype="bfloat16")
    assert half.dtype == "bfloat16"
    assert half.pipeline.unet.dtype == torch.bfloat16


def age(folder: Path) -> None:
    """Make every file old enough for its hash to be cached."""
    hour_ago = time.time() - 3600
    for path in folder.rglob("*"):
        os.utime(path, (hour_ago, hour_ago))


def test_a_file_is_read_once_until_it_changes(copied: Path, own_cache: Path) -> None:
    age(copied)
    before = describe(copied).fingerprint
    memo = own_cache / "hashes.json"
    known = json.loads(memo.read_text())
    assert any("unet" in key for key in known)
    memo.write_text(json.dumps(dict.fromkeys(known, "0" * 64)))
    assert describe(copied).fingerprint != before  # so the memo was believed
    for path in copied.rglob("*"):
        os.utime(path, (1e9, 1e9))
    assert describe(copied).fingerprint == before


@pytest.mark.parametrize("damage", ["", "[1]", '{"a": 1}', "\0\0", None])
def test_a_damaged_hash_cache_counts_as_empty(
    copied: Path, own_cache: Path, damage: str | None
) -> None:
    age(copied)
    before = describe(copied).fingerprint
    memo = own_cache / "hashes.json"
    memo.unlink()
    memo.mkdir() if damage is None else memo.write_text(damage)
    assert describe(copied).fingerprint == before
    assert sorted(path.name for path in own_cache.iterdir()) == ["hashes.json"]


def test_the_hash_of_a_file_that_may_still_change_within_its_time_stamp_is_not_cached(
    tmp_path: Path,
) -> None:
    file = tmp_path / "file"
    stamp = time.time_ns()
    for content in (b"one", b"two"):
        file.write_bytes(content)
        os.utime(file, ns=(stamp, stamp))
        memo = weight_files.HashMemo(tmp_path / "hashes.json")
        found = memo.sha256(file)
        memo.save()
    assert found == weight_files.hashlib.sha256(b"two").hexdigest()


HASHING = """
import hashlib, pathlib, sys, time
from nightpress.diffusion_core.models import weight_files
read = hashlib.file_digest
def noted(file, name):
    with pathlib.Path(sys.argv[3]).open("a") as log:
        log.write("read\\n")
    time.sleep(0.5)  # long enough for the others to come
    return read(file, name)
hashlib.file_digest = noted
print("ready", flush=True)
sys.stdin.readline()
print(weight_files.HashMemo(pathlib.Path(sys.argv[1])).sha256(pathlib.Path(sys.argv[2])))
"""


@pytest.mark.parametrize("cache", ["writable", "none"])
def test_one_of_several_processes_of_a_machine_reads_a_file_for_all(
    tmp_path: Path, cache: str
) -> None:
    file, log = tmp_path / "weights.safetensors", tmp_path / "log"
    file.write_bytes(b"1" * 2**24)
    age(tmp_path)
    memo = (tmp_path / "cache" if cache == "writable" else file) / "hashes.json"
    arguments = [sys.executable, "-c", HASHING, str(memo), str(file), str(log)]
    processes = [
        subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    found = [process.communicate()[0].strip() for process in processes]
    assert set(found) == {weight_files.hashlib.sha256(file.read_bytes()).hexdigest()}
    assert len(log.read_text().splitlines()) == (1 if cache == "writable" else 3)


def test_the_modules_that_the_command_line_needs_load_no_framework() -> None:
    code = (
        "import sys, nightpress.diffusion_core.models.loading\n"
        "import nightpress.diffusion_core.sampling.request\n"
        "import nightpress.diffusion_core.sampling.schedulers\n"
        "print([m for m in ('torch', 'diffusers', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
