"""`convert` writes the diffusers folder of a model in one file, complete or not at all."""

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors import safe_open
from support import (
    ldm_checkpoints,
    narrow_models,
    several_models,
    tiny_models,
    transformer_checkpoints,
)
from support.ldm_checkpoints import write

from nightpress import RunSpec, convert, reproduce, run, verify
from nightpress.diffusion_core.errors import ModelError
from nightpress.diffusion_core.models import conversion, loading
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.jobs.cli import command

Models = Callable[[str], tuple[Path, Path]]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


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


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor that is loaded from a folder."""
    pipeline = loading.load(folder, ModelSpec(source=str(folder)), "cpu").pipeline
    return {
        f"{name}.{key}": value
        for name, network in pipeline.components.items()
        if isinstance(network, torch.nn.Module)
        for key, value in network.state_dict().items()
    }


def stored_types(folder: Path) -> dict[str, set[str]]:
    """Network -> the types of its tensors in the files."""
    found: dict[str, set[str]] = {}
    for file in folder.glob("*/*.safetensors"):
        with safe_open(file, framework="pt") as tensors:
            names = list(tensors.keys())
            found[file.parent.name] = {tensors.get_slice(name).get_dtype() for name in names}
    return found


@pytest.mark.parametrize("name", ["sd1", "sd2-v", "sdxl", "refiner"])
def test_the_folder_holds_the_weights_of_the_file(
    name: str, models: Models, tmp_path: Path
) -> None:
    folder, file = models(name)
    made = convert(file, tmp_path / "new" / "made", config=folder)
    assert Path(made.folder) == tmp_path / "new" / "made"
    expected, found = weights(folder), weights(Path(made.folder))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert not list(Path(made.folder).rglob("nightpress-checkpoint*"))
    assert [path.name for path in Path(made.folder).parent.iterdir()] == ["made"]
    index = json.loads((folder / "model_index.json").read_text())
    written = json.loads((Path(made.folder) / "model_index.json").read_text())
    assert {k: v for k, v in written.items() if v != [None, None]} == {
        k: v for k, v in index.items() if v != [None, None]
    }


def test_it_needs_the_tokenizers_alone(models: Models, tmp_path: Path) -> None:
    folder, file = models("sd1")
    shutil.copytree(folder / "tokenizer", tmp_path / "config" / "tokenizer")
    made = convert(file, tmp_path / "made", config=tmp_path / "config")
    own = ModelSpec(source=made.folder)
    plain = ModelSpec(source=str(folder))
    described = loading.describe(Path(made.folder), own)
    expected = loading.describe(folder, plain)
    differ = ("source", "fingerprint")
    assert {k: v for k, v in described.as_dict().items() if k not in differ} == {
        k: v for k, v in expected.as_dict().items() if k not in differ
    }


def test_weights_keep_their_type_unless_one_is_asked_for(models: Models, tmp_path: Path) -> None:
    folder, _ = models("sd1")
    tensors = narrow_models.checkpoint("sd1", narrow_models.make("sd1"))
    mixed = {
        name: value.half() if name.startswith("model.diffusion_model.") else value
        for name, value in tensors.items()
    }
    file = write(mixed, tmp_path / "x.safetensors")
    kept = convert(file, tmp_path / "kept", config=folder)
    assert stored_types(Path(kept.folder)) == {
        "unet": {"F16"},
        "vae": {"F32"},
        "text_encoder": {"F32"},
    }
    assert {each.name: each.dtype for each in kept.networks} == {
        "unet": "float16",
        "vae": "float32",
        "text_encoder": "float32",
    }
    asked = convert(file, tmp_path / "asked", config=folder, dtype="bfloat16")
    assert set(map(frozenset, stored_types(Path(asked.folder)).values())) == {frozenset({"BF16"})}


def test_what_exists_is_never_touched(models: Models, tmp_path: Path) -> None:
    folder, file = models("sd1")
    target = tmp_path / "made"
    target.mkdir()
    with pytest.raises(ModelError, match="it exists already"):
        convert(file, target, config=folder)
    assert not list(target.iterdir())
    with pytest.raises(ModelError, match="must be on this machine"):
        convert(file, "s3://bucket/made", config=folder)
    with pytest.raises(ModelError, match=r"is not a file; only a model in one file is converted"):
        convert(folder, tmp_path / "other")


def test_a_file_that_is_not_whole_leaves_nothing(models: Models, tmp_path: Path) -> None:
    folder, _ = models("sd1")
    tensors = narrow_models.checkpoint("sd1", narrow_models.make("sd1"))
    del tensors["model.diffusion_model.out.2.bias"]
    file = write(tensors, tmp_path / "x.safetensors")
    with pytest.raises(ModelError, match=r"unet: 1 of the .* missing: conv_out\.bias"):
        convert(file, tmp_path / "made", config=folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "x.safetensors"]


def test_a_conversion_that_breaks_off_leaves_nothing(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, file = models("sd1")

    def broken(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(conversion, "_written", broken)
    with pytest.raises(KeyboardInterrupt):
        convert(file, tmp_path / "made", config=folder)
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_the_command_says_what_it_wrote(models: Models, tmp_path: Path) -> None:
    folder, file = models("sd1")
    arguments = ["convert", str(file), str(tmp_path / "made"), "--config", str(folder)]
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code == 0, done.output
    assert f"{file}: SD 1.x" in done.output
    assert "wrote unet" in done.output
    assert done.output.splitlines()[-1].startswith(f"{tmp_path}/made: StableDiffusionPipeline, ")
    again = CliRunner().invoke(command, [*arguments, "--json"])
    assert again.exit_code == 2
    assert "it exists already" in json.loads(again.stdout)["error"]["message"]


@pytest.mark.usefixtures("local_ray")
@pytest.mark.slow
def test_runs_with_the_file_and_with_the_folder_make_the_same_pixels(
    models: Models, tmp_path: Path
) -> None:
    folder, _ = models("sd1")
    tensors = ldm_checkpoints.sd1(narrow_models.make("sd1"))
    tensors["model_ema.decay"] = torch.zeros(())
    file = write(tensors, tmp_path / "x.safetensors")
    made = convert(file, tmp_path / "made", config=folder)
    manifest = tmp_path / "prompts.csv"
    manifest.write_text("prompt\na red fox\na blue bird\n")
    said: list[object] = []
    pixels = []
    sources = ({"source": str(file), "config": str(folder)}, {"source": made.folder})
    for number, model in enumerate(sources):
        spec = RunSpec.model_validate(
            {
                "name": f"run{number}",
                "manifest": str(manifest),
                "output": str(tmp_path / "out"),
                "model": model,
                "sampling": {"width": 32, "height": 32, "num_inference_steps": 2},
                "batch": {"size": 2},
                "cluster": {"actors": 1},
            }
        )
        assert run(spec, said.append).num_failed == 0
        files = sorted(Path(spec.url, "images").glob("*.png"))
        pixels.append([np.asarray(Image.open(each)) for each in files])
    assert len(pixels[0]) == 2
    assert all(np.array_equal(a, b) for a, b in zip(*pixels, strict=True))
    assert any("1 of moving averages" in str(event) for event in said)
    record = json.loads((tmp_path / "out/run0/run.json").read_text())
    assert record["model"]["family"] == "SD 1.x"
    assert "1 of moving averages" in record["model"]["notes"][0]
    assert "family" not in json.loads((tmp_path / "out/run1/run.json").read_text())["model"]


def test_a_run_with_a_gguf_file_is_verified_reproduced_and_repeated_with_its_folder(
    tmp_path: Path,
) -> None:
    folder = tiny_models.save("sd3", tmp_path / "folder")
    network = loading.load(folder, ModelSpec(source=str(folder)), "cpu").pipeline.transformer
    tensors = transformer_checkpoints.sd3(network)
    file = transformer_checkpoints.write_gguf(tensors, tmp_path / "x.gguf", "Q8_0", "sd3")
    made = convert(file, tmp_path / "made", config=folder)
    assert made.family == "SD3"
    assert not list(Path(made.folder).rglob("*.gguf"))
    (tmp_path / "prompts.txt").write_text("a red fox\na blue bird\n")
    pixels = []
    for name, model in (
        ("file", {"source": str(file), "config": str(folder)}),
        ("folder", {"source": made.folder}),
    ):
        spec = RunSpec.model_validate(
            {
                "name": name,
                "manifest": str(tmp_path / "prompts.txt"),
                "output": str(tmp_path / "out"),
                "model": model,
                "sampling": {"width": 32, "height": 32, "num_inference_steps": 2},
                "batch": {"size": 2},
            }
        )
        whole = several_models.make(*several_models.begin(spec))
        checked = verify(whole.url)
        assert (checked.is_sound, checked.num_checked) == (True, 2)
        ids = whole.metadata.to_table(columns=["image_id"]).column("image_id").to_pylist()
        assert reproduce(whole, ids[1]).comparison.same_file
        pixels.append([np.asarray(whole.image(each)) for each in sorted(ids)])
    for one, two in zip(*pixels, strict=True):
        assert np.abs(one.astype(int) - two.astype(int)).max() <= 1
    note = json.loads((tmp_path / "out/file/run.json").read_text())["model"]["notes"][0]
    assert "in Q8_0" in note
