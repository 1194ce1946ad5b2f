"""Locating IP-Adapters with their image encoders, and what a job and a run say of them."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support import made_runs
from support.fakes.fake_hub import COMMIT, FakeHub, serving
from support.fakes.fake_runs import attempt_on, prepare

from nightpress.diffusion_core.conditioning.spec import Conditioning
from nightpress.diffusion_core.errors import ModelError, ModelNotFound, UnsafeWeights
from nightpress.diffusion_core.models.adapter_files import ReferenceFiles
from nightpress.diffusion_core.models.lora_files import LoraInfo
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.pipelines import RunSpec
from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.models.files import ModelFiles
from nightpress.pipelines.models.references import locate_references
from nightpress.pipelines.run_directory.record import RunRecord
from nightpress.pipelines.shards.batching import planned_images
from nightpress.pipelines.storage import Store

FILES = (
    "models/a.safetensors",
    "models/b.safetensors",
    "models/image_encoder/config.json",
    "models/image_encoder/model.safetensors",
    "models/image_encoder/pytorch_model.bin",
    "sdxl/c.safetensors",
    "old.bin",
    "README.md",
)
"""A repository in the layout of the published adapters."""

LOCATE = """
import json, sys
from nightpress.diffusion_core.errors import ModelError
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.pipelines.models.references import locate_references
for each in json.loads(sys.argv[1]):
    try:
        found = locate_references(ModelSpec(references=[each]))[0]
        print(json.dumps({"weights": str(found.weights), "encoder": str(found.image_encoder)}))
    except ModelError as error:
        print(json.dumps({"error": type(error).__name__, "message": str(error)}))
"""
"""Locates adapters in a separate process, because the hub's library reads its settings once."""

INFO = LoraInfo(name="style", sha256="a" * 64, scale=0.5)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def located(**keys: Any) -> ReferenceFiles:
    return locate_references(ModelSpec(references=[keys]))[0]


def test_an_adapter_is_found_with_the_image_encoder_beside_it(published: Path) -> None:
    models = published / "models"
    beside = ReferenceFiles(models / "a.safetensors", models / "image_encoder")
    keys = {"subfolder": "models", "weight_name": "a.safetensors"}
    assert located(source=str(published), **keys) == beside
    assert located(source=published.as_uri(), **keys) == beside
    assert located(source=str(models), weight_name="a.safetensors") == beside
    assert located(source=str(models / "a.safetensors")) == beside


def test_another_image_encoder_is_a_folder_of_the_source_or_of_this_machine(
    published: Path, tmp_path: Path
) -> None:
    sdxl = {"source": str(published), "subfolder": "sdxl"}
    encoder = published / "models" / "image_encoder"
    assert located(**sdxl).image_encoder is None
    assert located(**sdxl, image_encoder="models/image_encoder").image_encoder == encoder
    assert located(**sdxl, image_encoder=str(encoder)).image_encoder == encoder
    with pytest.raises(ModelNotFound, match="nowhere: no such folder"):
        located(**sdxl, image_encoder=str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("keys", "error", "reason"),
    [
        ({"source": "./nowhere"}, ModelNotFound, "an IP-Adapter must be a folder, a safetensors"),
        ({"subfolder": "models"}, ModelNotFound, "a.safetensors, b.safetensors; set `weight_name`"),
        ({"subfolder": "model"}, ModelNotFound, "found none; is `subfolder` right?"),
        ({"revision": "main"}, ModelError, "only hub ids have a `revision`, here 'main'"),
        ({}, UnsafeWeights, "old.bin is not a safetensors file"),
    ],
)
def test_what_is_not_there_or_unclear_is_refused_in_one_line(
    published: Path, keys: dict[str, str], error: type[ModelError], reason: str
) -> None:
    with pytest.raises(error, match=reason) as refused:
        located(**({"source": str(published)} | keys))
    assert "\n" not in str(refused.value)


def test_only_the_weights_and_the_image_encoder_are_downloaded_from_the_hub(
    published: Path, tmp_path: Path
) -> None:
    clip = tmp_path / "clip"
    clip.mkdir()
    for name in ("config.json", "model.safetensors", "pytorch_model.bin"):
        (clip / name).write_bytes(b"{}")
    keys = {"source": "h94/IP-Adapter", "subfolder": "models", "weight_name": "a.safetensors"}
    asked = [
        keys,
        {"source": "h94/IP-Adapter", "revision": "v1", "subfolder": "sdxl", "image_encoder": "o/c"},
        {"source": "h94/IP-Adapter@v1", "revision": "main"},
        {"source": "h94/other"},
    ]
    with serving({"h94/IP-Adapter": published, "o/c": clip}) as hub:
        beside, elsewhere, unclear, missing = ask(hub, tmp_path, asked)
    assert beside["weights"].endswith(f"{COMMIT}/models/a.safetensors")
    assert beside["encoder"].endswith(f"{COMMIT}/models/image_encoder")
    assert elsewhere["weights"].endswith(f"{COMMIT}/sdxl/c.safetensors")
    assert sorted(p.name for p in Path(elsewhere["encoder"]).iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    wanted = {name for name in FILES if name.endswith(("a.safetensors", "r/config.json"))}
    wanted |= {"models/image_encoder/model.safetensors", "sdxl/c.safetensors"}
    assert set(hub.fetched["h94/IP-Adapter"]) == wanted
    assert "names a revision other than its `revision`, 'main'" in unclear["message"]
    assert missing["message"].startswith("IP-Adapter 'h94/other': no such local folder, and the")


def ask(hub: FakeHub, home: Path, references: list[Any]) -> list[dict[str, str]]:
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(home / "hub")}
    command = [sys.executable, "-c", LOCATE, json.dumps(references)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_remote_adapter_is_mirrored_once_with_its_image_encoder(
    published: Path, tmp_path: Path
) -> None:
    store = Store("memory://adapters")
    for name in FILES:
        store.create(name, (published / name).read_bytes())
    spec = ModelSpec(
        references=[
            {"source": "memory://adapters", "subfolder": "models", "weight_name": "a.safetensors"},
            {"source": "memory://adapters/models/b.safetensors"},
        ]
    )
    found = locate_references(spec, {}, tmp_path)
    assert [each.weights.name for each in found] == ["a.safetensors", "b.safetensors"]
    for each in found:
        assert each.weights.read_bytes() == f"models/{each.weights.name}".encode()
        assert each.image_encoder == each.weights.parent / "image_encoder"
        names = {path.name for path in each.image_encoder.iterdir()}
        assert {"config.json", "model.safetensors"} <= names
    inodes = [each.weights.stat().st_ino for each in found]
    again = locate_references(spec, {}, tmp_path)
    assert [each.weights.stat().st_ino for each in again] == inodes
    with pytest.raises(ModelNotFound, match=r"IP-Adapter memory://nowhere.*no such file"):
        locate_references(ModelSpec(references=[{"source": "memory://nowhere"}]), {}, tmp_path)


def test_the_files_of_a_model_include_its_adapters(published: Path) -> None:
    references = [{"source": str(published / "models" / "a.safetensors")}]
    files = ModelFiles.locate(ModelSpec(references=references), {})
    assert files.adapters.references == (located(**references[0]),)


def job(*references: Any) -> RunSpec:
    values = {"name": "x", "manifest": "p.txt", "output": "runs"}
    return RunSpec.from_dict({**values, "model": {"references": list(references)}})


def test_adapters_in_a_job_file_survive_json_and_join_its_identity() -> None:
    spec = job({"source": "studio/style", "scale": 1, "name": "style"})
    assert RunSpec.from_dict(json.loads(json.dumps(spec.as_dict()))) == spec
    assert "references" not in job().identity()["model"]
    (change,) = job().changes(spec)
    assert change.field == "model.references"


@pytest.mark.parametrize(
    ("references", "message"),
    [
        ([{"source": "a", "strength": 1}], r"references\.0\.strength"),
        ([{"scale": 1.0}], r"references\.0\.source: this key is required"),
        ([1.0], r"references\.0"),
        (["https://user:secret@host/ip.safetensors"], "the IP-Adapter URL contains credentials"),
        (
            [{"source": "https://user:secret@host/ip.safetensors"}],
            "the IP-Adapter URL contains credentials",
        ),
        (
            [{"source": "a", "image_encoder": "https://user:secret@host/clip"}],
            "the IP-Adapter URL contains credentials",
        ),
    ],
)
def test_an_invalid_adapter_is_named_by_its_index(references: list[Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        job(*references)


def with_references(record: RunRecord, *infos: LoraInfo) -> RunRecord:
    return replace(record, model=replace(record.model, references=infos))


def test_a_run_is_another_one_with_another_adapter() -> None:
    record = made_runs.record_of("runs")
    first = with_references(record, INFO)
    other = with_references(record, replace(INFO, sha256="b" * 64))
    assert len({each.fingerprint for each in (record, first, other)}) == 3
    assert record.fingerprint == with_references(record).fingerprint
    (change,) = first.changes(first.spec, other.model, first.device)
    assert change.field == "model.references: sha256 of style"
    assert RunRecord.from_json(first.to_json(), "runs/x").model.references == (INFO,)


def test_an_image_lists_the_adapters_that_it_used(tmp_path: Path) -> None:
    store, record, rows = prepare(tmp_path, ["a"])
    record = with_references(record, INFO, replace(INFO, name="face"))
    attempt = attempt_on(store, record, rows)
    (image,) = planned_images(rows)
    used = Conditioning(
        "text+reference", adapters=("face",), num_references=(1,), reference_scales=(0.3,)
    )
    facts = attempt.facts(replace(image, conditioning=used.as_text()), 1)
    assert facts.references == (replace(INFO, name="face", scale=0.3),)
    assert attempt.facts(image, 1).references == ()
