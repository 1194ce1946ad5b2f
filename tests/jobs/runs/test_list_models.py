"""`models` lists what a job can use, and says of what it cannot why."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from support import narrow_models, tiny_models
from support.ldm_checkpoints import write
from support.servers import Folder

from nightpress import list_models
from nightpress.diffusion_core import builtin
from nightpress.diffusion_core.errors import ModelError
from nightpress.jobs.cli import command
from nightpress.jobs.runs.list_models import ModelSummary


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models as people have them."""
    root = tmp_path_factory.mktemp("shelf")
    tiny_models.save("sd", root / "sd" / "tiny")
    card = root / "sd" / "tiny" / "README.md"
    card.write_text("---\nlicense: openrail++\n---\n# A model\n")
    pipeline = narrow_models.make("sdxl")
    write(narrow_models.checkpoint("sdxl", pipeline), root / "xl.safetensors")
    pipeline.save_pretrained(root / "config")
    for file in (root / "config").rglob("*.safetensors"):
        file.unlink()
    write({"lora_unet.lora_down.weight": torch.zeros(2, 2)}, root / "loras" / "ink.safetensors")
    (root / "sd" / "cut.safetensors").write_bytes((root / "xl.safetensors").read_bytes()[:999])
    shutil.copytree(root / "sd" / "tiny" / "vae", root / "vae")  # a network, and no model
    (root / "broken").mkdir()
    (root / "broken" / "model_index.json").write_text("{")
    (root / ".hidden").mkdir()
    (root / ".hidden" / "x.safetensors").write_bytes(b"")
    return root


def by_name(models: list[ModelSummary], root: Path) -> dict[str, ModelSummary]:
    return {model.source.removeprefix(f"{root}/"): model for model in models}


def test_a_folder_of_models_is_walked(shelf: Path) -> None:
    found = by_name(list_models([str(shelf)]), shelf)
    assert sorted(found) == [
        "broken",
        "config",
        "loras/ink.safetensors",
        "sd/cut.safetensors",
        "sd/tiny",
        "xl.safetensors",
    ]
    tiny = found["sd/tiny"]
    assert (tiny.pipeline, tiny.width, tiny.licence) == (
        "StableDiffusionPipeline",
        32,
        "openrail++",
    )
    assert tiny.modes == ("text", "image", "inpaint", "outpaint")
    assert tiny.is_ready
    assert tiny.reason is None
    assert tiny.weight_bytes["float32"] == 2 * tiny.weight_bytes["float16"]
    assert [name for name, model in found.items() if model.is_ready] == ["sd/tiny"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("broken", "not valid JSON"),
        ("config", "no weights"),
        ("loras/ink.safetensors", "it is a LoRA, not a model"),
        ("sd/cut.safetensors", "cut short"),
        ("xl.safetensors", "it is SDXL: set model.config to"),
    ],
)
def test_what_cannot_be_used_is_listed_with_the_reason(name: str, reason: str, shelf: Path) -> None:
    model = by_name(list_models([str(shelf)]), shelf)[name]
    assert model.reason is not None
    assert reason in model.reason
    assert "\n" not in model.reason
    assert not model.is_ready


def test_a_file_without_its_configurations_still_says_what_it_is(shelf: Path) -> None:
    file = shelf / "xl.safetensors"
    (bare,) = list_models([str(file)])
    (whole,) = list_models([str(file)], config=str(shelf / "config"))
    assert (bare.family, bare.pipeline, bare.is_ready) == ("SDXL", None, False)
    assert (whole.family, whole.pipeline) == ("SDXL", "StableDiffusionXLPipeline")
    assert whole.is_ready
    assert bare.weight_bytes == whole.weight_bytes
    assert bare.stored_bytes == whole.stored_bytes == file.stat().st_size
    assert (whole.width, whole.height) == (256, 256)  # 128 latents of a VAE that halves


def test_the_built_in_model_is_ready(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "none"))
    (model,) = list_models()
    assert (model.source, model.kind, model.is_ready) == ("builtin", "builtin", True)
    assert model.licence == "apache-2.0"
    assert (model.width, model.height) == (128, 128)


def test_the_hub_s_cache_is_read_without_the_hub(
    shelf: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    repo = tmp_path / "hub" / "models--studio--tiny"
    commit = "1" * 40
    shutil.copytree(shelf / "sd" / "tiny", repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    (repo / "blobs").mkdir()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    from nightpress.pipelines.models import hub_cache

    (cached,) = hub_cache.cached_models()
    assert cached.source == "studio/tiny"
    (model,) = list_models(["hub"])
    assert (model.source, model.kind, model.is_ready) == ("studio/tiny", "hub", True)
    assert list_models(["studio/tiny"]) == [model]
    with pytest.raises(ModelError, match="not in the hub's cache here"):
        list_models(["studio/other"])


def test_models_at_a_url_are_listed_from_their_configurations(shelf: Path, bucket: Folder) -> None:
    import s3fs

    store = s3fs.S3FileSystem(**bucket.options["s3"])
    key = bucket.url.removeprefix("s3://")
    for path in shelf.rglob("*"):
        name = path.relative_to(shelf).as_posix()
        if path.is_file() and name.startswith(("sd/", "xl")):
            store.put_file(str(path), f"{key}/{name}")
    found = list_models([bucket.url], storage=bucket.options)
    named = {model.source.removeprefix(f"{bucket.url}/"): model for model in found}
    assert sorted(named) == ["sd/cut.safetensors", "sd/tiny", "xl.safetensors"]
    tiny, here = named["sd/tiny"], list_models([str(shelf / "sd" / "tiny")])[0]
    assert (tiny.pipeline, tiny.modes, tiny.width) == (here.pipeline, here.modes, here.width)
    assert tiny.licence == "openrail++"
    assert tiny.stored_bytes == here.stored_bytes
    assert not tiny.is_ready
    assert tiny.reason == "this machine has no copy of it yet"
    assert named["xl.safetensors"].stored_bytes == (shelf / "xl.safetensors").stat().st_size


def test_the_command_prints_a_table_and_json(shelf: Path) -> None:
    done = CliRunner().invoke(command, ["models", "builtin", str(shelf)])
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert lines[0].split()[:3] == ["model", "is", "size"]
    assert any(line.split()[0] == "builtin" and "yes" in line for line in lines)
    assert any(f"{shelf}/xl.safetensors: it is SDXL: set model.config" in line for line in lines)
    as_json = CliRunner().invoke(command, ["models", str(builtin.folder()), "--json"])
    (model,) = json.loads(as_json.stdout)["models"]
    assert model["is_ready"] is True
    wrong = CliRunner().invoke(command, ["models", "a b"])
    assert wrong.exit_code == 2
    assert "no such folder or file" in wrong.output
