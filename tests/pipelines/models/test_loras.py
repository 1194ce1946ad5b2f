"""Locating LoRAs, naming them in a job file, and recording them with images."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import made_runs, tiny_loras, tiny_models
from support.fakes.fake_hub import COMMIT, FakeHub, serving
from support.servers import Folder

from nightpress.diffusion_core.errors import ModelNotFound, UnsafeWeights
from nightpress.diffusion_core.models import loading, lora_files
from nightpress.diffusion_core.models.lora_files import LORA_FILE, LoraInfo
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.pipelines import RunSpec
from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.image_files.embedded_metadata import facts_json
from nightpress.pipelines.image_files.encoding import encode, read_facts
from nightpress.pipelines.job.images_section import ImagesSpec
from nightpress.pipelines.job.schema import json_schema
from nightpress.pipelines.models.loras import locate_loras
from nightpress.pipelines.records import ImageRecord
from nightpress.pipelines.run_directory.commit import metadata_part
from nightpress.pipelines.run_directory.record import RunRecord

REPO, MANY = "studio/ink", "studio/many"

LOCATE = """
import json, sys
from nightpress.diffusion_core.errors import ModelError
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.pipelines.models.loras import locate_loras
for lora in json.loads(sys.argv[1]):
    try:
        print(json.dumps({"path": str(locate_loras(ModelSpec(loras=[lora]))[0])}))
    except ModelError as error:
        print(json.dumps({"error": type(error).__name__, "message": str(error)}))
"""
"""Locates LoRAs in a separate process, because the hub's library reads its settings once."""

INFO = LoraInfo(name="ink", sha256="a" * 64, scale=0.5)


@pytest.fixture(scope="session")
def ink(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a LoRA for the tiny Stable Diffusion."""
    return tiny_loras.save(tiny_models.sd(), tmp_path_factory.mktemp("loras") / "ink")


def located(*loras: Any, **settings: Any) -> tuple[Path, ...]:
    return locate_loras(ModelSpec(loras=list(loras), **settings))


def test_a_lora_is_a_folder_a_file_or_a_local_url(
    ink: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = ink / LORA_FILE
    assert located(str(ink), str(file), file.as_uri()) == (file, file, file)
    monkeypatch.chdir(ink.parent)
    assert located("ink", {"source": "ink", "weight_name": LORA_FILE}) == (file, file)


@pytest.mark.parametrize("source", ["./nowhere", "a b", "nowhere.safetensors"])
def test_an_unknown_source_is_refused_with_what_is_allowed(source: str) -> None:
    with pytest.raises(
        ModelNotFound, match="a LoRA must be a folder, a safetensors file, a hub id"
    ):
        located(source)


@pytest.fixture(scope="module")
def hub(ink: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeHub]:
    """A hub with a LoRA in each of two repositories, one of which holds other files too."""
    many = tmp_path_factory.mktemp("many")
    for name in ("red.safetensors", "blue.safetensors", "old.bin"):
        (many / name).write_bytes((ink / LORA_FILE).read_bytes())
    with serving({REPO: ink, MANY: many}) as hub:
        yield hub


def test_only_the_weight_file_of_a_hub_repository_is_downloaded(
    hub: FakeHub, tmp_path: Path
) -> None:
    red = {"source": f"{MANY}@v1", "weight_name": "red.safetensors"}
    asked = [REPO, red, MANY, "studio/other", {"source": MANY, "weight_name": "old.bin"}]
    by_default, named, unclear, missing, pickled = ask(hub, tmp_path, asked)
    assert by_default["path"].endswith(f"{COMMIT}/{LORA_FILE}")
    assert named["path"].endswith("/red.safetensors")
    assert hub.fetched[MANY] == ["red.safetensors"]
    assert "blue.safetensors, red.safetensors" in unclear["message"]
    assert (
        "LoRA 'studio/other': no such local folder, and the hub has no such" in missing["message"]
    )
    assert pickled["error"] == "UnsafeWeights"
    assert not any("\n" in answer.get("message", "") for answer in (unclear, missing, pickled))
    hub.shutdown()
    hub.server_close()
    assert ask(hub, tmp_path, [REPO, red]) == [by_default, named]


def ask(hub: FakeHub, home: Path, loras: list[Any]) -> list[dict[str, str]]:
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(home)}
    command = [sys.executable, "-c", LOCATE, json.dumps(loras)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_only_the_weight_file_of_a_remote_lora_is_mirrored_once(
    ink: Path, bucket: Folder, tmp_path: Path
) -> None:
    from nightpress.pipelines.storage import Store

    store, data = Store(bucket.url, bucket.options), (ink / LORA_FILE).read_bytes()
    for name in ("ink/a.safetensors", "ink/b.safetensors"):
        store.create(name, data)
    spec = ModelSpec(
        loras=[
            f"{bucket.url}/ink/a.safetensors",
            {"source": f"{bucket.url}/ink", "weight_name": "b.safetensors"},
        ]
    )
    files = locate_loras(spec, bucket.options, tmp_path)
    assert [file.name for file in files] == ["a.safetensors", "b.safetensors"]
    assert [file.read_bytes() for file in files] == [data, data]
    inodes = [file.stat().st_ino for file in files]
    again = locate_loras(spec, bucket.options, tmp_path)
    assert [file.stat().st_ino for file in again] == inodes
    assert [len(list(file.parent.iterdir())) for file in files] == [1, 1]
    for source, message in (
        ("ink", "there are several weight files"),
        ("nowhere", "LoRA .*: no such file"),
    ):
        with pytest.raises(ModelNotFound, match=message):
            locate_loras(ModelSpec(loras=[f"{bucket.url}/{source}"]), bucket.options, tmp_path)


def test_a_remote_pickle_is_refused(bucket: Folder, tmp_path: Path) -> None:
    from nightpress.pipelines.storage import Store

    Store(bucket.url, bucket.options).create("old/old.pt", b"whatever")
    with pytest.raises(UnsafeWeights, match=r"old\.pt is not a safetensors file"):
        locate_loras(ModelSpec(loras=[f"{bucket.url}/old"]), bucket.options, tmp_path)


def job(*loras: Any, **model: Any) -> RunSpec:
    values = {"name": "x", "manifest": "p.txt", "output": "runs"}
    return RunSpec.from_dict({**values, "model": {**model, "loras": list(loras)}})


def test_loras_in_a_job_file_are_sources_or_mappings_and_survive_json() -> None:
    spec = job("studio/ink", {"source": "/loras/red.safetensors", "scale": 1})
    assert [lora.label for lora in spec.model.loras] == ["ink", "red"]
    assert RunSpec.from_dict(json.loads(json.dumps(spec.as_dict()))) == spec


@pytest.mark.parametrize(
    ("loras", "message"),
    [
        (["a", {"source": "b", "strength": 1}], r"loras\.1\.strength.*scale"),
        ([{"scale": 1.0}], r"loras\.0\.source: this key is required"),
        ([{"source": "a", "scale": "big"}], r"loras\.0\.scale: 'big'"),
        (["https://user:secret@host/lora.safetensors"], "the LoRA URL contains credentials"),
    ],
)
def test_an_invalid_lora_is_named_by_its_index(loras: list[Any], message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        job(*loras)
    assert "secret" not in str(caught.value)


def test_the_schema_allows_a_lora_as_a_string_or_a_mapping() -> None:
    loras = json_schema()["$defs"]["ModelSpec"]["properties"]["loras"]
    assert {"type": "string"} in loras["items"]["anyOf"]


def test_a_run_with_another_lora_or_scale_is_another_run(tmp_path: Path) -> None:
    record = made_runs.record_of(str(tmp_path), model={"loras": ["a/b"]})
    described = replace(record.model, loras=(INFO,))
    record = replace(record, model=described)
    for lora in ({"source": "a/b", "scale": 0.5}, "a/c"):
        other = made_runs.record_of(str(tmp_path), model={"loras": [lora]}).spec
        assert [change.field for change in record.changes(other, described, "cpu")] == [
            "model.loras"
        ]
    changed = replace(described, fingerprint="e" * 64, loras=(replace(INFO, sha256="b" * 64),))
    fields = [change.field for change in record.changes(record.spec, changed, "cpu")]
    assert fields == ["model.loras: sha256 of ink", "model_fingerprint"]


def test_another_file_under_a_row_loras_name_is_another_run(
    tmp_path: Path,
) -> None:
    plain = made_runs.record_of(str(tmp_path))
    record = made_runs.record_of(str(tmp_path), model={"row_loras": ["a/ink"]})
    record = replace(record, model=replace(record.model, row_loras=(INFO,)))
    assert RunRecord.from_json(record.to_json(), "run") == record
    other = replace(record.model, row_loras=(replace(INFO, sha256="b" * 64),))
    fields = [change.field for change in record.changes(record.spec, other, "cpu")]
    assert fields == ["model.row_loras: sha256 of ink"]
    prints = {each.fingerprint for each in (plain, record, replace(record, model=other))}
    assert len(prints) == 3
    assert record.model.fingerprint == plain.model.fingerprint


def test_row_loras_are_located_after_the_models_loras(ink: Path) -> None:
    file = ink / LORA_FILE
    spec = ModelSpec(loras=[str(ink)], row_loras=[str(file)])
    assert locate_loras(spec) == (file, file)


def test_a_row_loras_url_with_credentials_is_refused() -> None:
    url = "https://user:secret@host/lora.safetensors"
    with pytest.raises(SpecError, match="the LoRA URL contains credentials") as caught:
        made_runs.record_of("runs", model={"row_loras": [url]})
    assert "secret" not in str(caught.value)


def test_an_image_file_names_its_loras() -> None:
    facts = replace(made_runs.FACTS, image_id="a_00", id="a", loras=(INFO,))
    stored = json.loads(facts_json(facts))
    assert stored["loras"] == [{"name": "ink", "sha256": "a" * 64, "scale": 0.5}]
    for kind in ("png", "webp", "jpeg"):
        data = encode(np.zeros((16, 16, 3), np.uint8), facts, ImagesSpec(format=kind))
        assert read_facts(data) == facts
        assert read_facts(data) != replace(facts, loras=())


def test_the_metadata_names_each_images_loras() -> None:
    import pyarrow as pa

    facts = replace(made_runs.FACTS, image_id="a_00", id="a", loras=(INFO,))
    records = [
        ImageRecord(facts=made, status="ok", attempts=1, worker="w", started_at=0.0)
        for made in (facts, replace(facts, loras=()))
    ]
    part = metadata_part(records, pa.table({"image_id": ["a_00", "a_01"]}))
    assert part.column("loras").to_pylist() == [
        [{"name": "ink", "sha256": "a" * 64, "scale": 0.5}],
        [],
    ]


def test_the_models_record_of_its_loras_matches_the_files(
    ink: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hashlib

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tiny_models.save("sd", tmp_path / "sd")
    spec = ModelSpec(source=str(folder), loras=[{"source": str(ink), "scale": 0.5}])
    info = loading.describe(folder, spec, locate_loras(spec))
    digest = hashlib.sha256((ink / lora_files.LORA_FILE).read_bytes()).hexdigest()
    assert info.loras == (LoraInfo("ink", digest, 0.5),)
