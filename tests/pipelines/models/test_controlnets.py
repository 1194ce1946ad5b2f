"""Locating ControlNets, naming them in a job file, and recording them with a run."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support import made_runs, tiny_controlnets
from support.fakes.fake_hub import COMMIT, FakeHub, serving
from support.fakes.fake_runs import attempt_on, prepare
from support.servers import Folder

from nightpress.diffusion_core import builtin
from nightpress.diffusion_core.conditioning.spec import Conditioning
from nightpress.diffusion_core.errors import ModelError, ModelNotFound
from nightpress.diffusion_core.models.lora_files import LoraInfo
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.pipelines import RunSpec
from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.image_files.embedded_metadata import facts_json
from nightpress.pipelines.job.schema import json_schema
from nightpress.pipelines.models.controlnets import locate_controlnets
from nightpress.pipelines.models.files import ModelFiles
from nightpress.pipelines.models.location import absolute_source
from nightpress.pipelines.run_directory.record import RunRecord
from nightpress.pipelines.shards.batching import planned_images

WEIGHTS = "diffusion_pytorch_model.safetensors"
REPO, OLD = "studio/nets", "studio/old"
INFO = LoraInfo(name="edges", sha256="a" * 64, scale=0.5)

LOCATE = """
import json, sys
from nightpress.diffusion_core.errors import ModelError
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.pipelines.models.controlnets import locate_controlnets
for net in json.loads(sys.argv[1]):
    try:
        print(json.dumps({"path": str(locate_controlnets(ModelSpec(controlnets=[net]))[0])}))
    except ModelError as error:
        print(json.dumps({"error": type(error).__name__, "message": str(error)}))
"""
"""Locates ControlNets in a separate process, because the hub's library reads its settings once."""


@pytest.fixture(scope="session")
def nets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the folders of two ControlNets for the tiny Stable Diffusion."""
    folder = tmp_path_factory.mktemp("nets")
    base = tiny_controlnets.base("sd")
    for seed, name in enumerate(("edges", "depth")):
        tiny_controlnets.save(base, folder / name, seed)
    return folder


def test_the_built_in_controlnet_is_named_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "builtin/controlnet").mkdir(parents=True)
    spec = ModelSpec.model_validate({"controlnets": ["builtin/controlnet"]})
    assert locate_controlnets(spec) == (builtin.controlnet_folder(),)
    assert absolute_source("builtin/controlnet") == "builtin/controlnet"


@pytest.mark.parametrize(
    ("net", "message"),
    [
        ({"source": "builtin/depth"}, "no such part of the built-in model; it has 'builtin/contr"),
        ({"source": "builtin/loras/duotone"}, "no such part of the built-in model"),
        ({"source": "builtin/controlnet", "subfolder": "x"}, "has no folder 'x'"),
        ({"source": "builtin/controlnet", "revision": "v1"}, "only hub ids have a `revision`"),
    ],
)
def test_settings_that_name_no_part_of_the_built_in_model_are_refused(
    net: dict[str, str], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        locate_controlnets(ModelSpec.model_validate({"controlnets": [net]}))


def located(*entries: Any) -> tuple[Path, ...]:
    return locate_controlnets(ModelSpec(controlnets=list(entries)))


def test_a_controlnet_is_a_folder_a_local_url_or_a_subfolder_of_either(
    nets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edges, depth = nets / "edges", nets / "depth"
    inside = {"source": nets.as_uri(), "subfolder": "depth", "name": "c"}
    assert located(str(edges), depth.as_uri(), inside) == (edges, depth, depth)
    monkeypatch.chdir(nets)
    assert located("edges") == (edges,)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("./nowhere", "^ControlNet 'nowhere': './nowhere': no such folder; a ControlNet must be a"),
        ({"source": "a b", "name": "x"}, "^ControlNet 'x': 'a b': no such folder"),
        ({"source": "org/net@v1", "revision": "v2"}, "names a revision other than its `revision`"),
        ({"source": "s3://nets/edges", "revision": "v2"}, "only hub ids have a `revision`"),
    ],
)
def test_an_unknown_source_is_refused_with_what_is_allowed(entry: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        located(entry)


def test_a_missing_subfolder_and_a_file_are_refused(nets: Path) -> None:
    with pytest.raises(ModelNotFound, match="has no folder 'tile' "):
        located({"source": str(nets), "subfolder": "tile"})
    with pytest.raises(ModelNotFound, match="is a file; a ControlNet is a folder with a config"):
        located(str(nets / "edges" / WEIGHTS))


@pytest.fixture(scope="module")
def hub(nets: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeHub]:
    """A hub with two ControlNets in one repository, and with a pickle in another."""
    whole, old = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("old")
    shutil.copytree(nets / "edges", whole, dirs_exist_ok=True)
    shutil.copytree(nets / "depth", whole / "depth")
    config = whole / "depth" / "config.json"
    config.write_text(config.read_text() + "\n")  # the hub keeps equal files once
    (whole / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"half")
    (whole / "diffusion_pytorch_model.bin").write_bytes(b"pickle")
    (old / "config.json").write_text("{}")
    (old / "diffusion_pytorch_model.bin").write_bytes(b"pickle")
    with serving({REPO: whole, OLD: old}) as hub:
        yield hub


def test_only_the_needed_files_of_a_hub_repository_are_downloaded(
    hub: FakeHub, tmp_path: Path
) -> None:
    inside = {"source": f"{REPO}@v1", "subfolder": "depth"}
    absent = {"source": REPO, "subfolder": "tile"}
    top, depth, missing, pickled, unknown = ask(
        hub, tmp_path, [REPO, inside, absent, OLD, "studio/other"]
    )
    assert top["path"].endswith(COMMIT)
    assert depth["path"].endswith(f"{COMMIT}/depth")
    assert sorted(hub.fetched[REPO]) == sorted(
        ["config.json", WEIGHTS, "depth/config.json", f"depth/{WEIGHTS}"]
    )
    assert "there is no config.json in its folder 'tile'" in missing["message"]
    assert pickled["error"] == "UnsafeWeights"
    assert "the hub has no such ControlNet" in unknown["message"]
    hub.shutdown()
    hub.server_close()
    assert ask(hub, tmp_path, [REPO, inside]) == [top, depth]


def ask(hub: FakeHub, home: Path, nets: list[Any]) -> list[dict[str, str]]:
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(home)}
    command = [sys.executable, "-c", LOCATE, json.dumps(nets)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_remote_folder_is_mirrored_once(nets: Path, bucket: Folder, tmp_path: Path) -> None:
    from nightpress.pipelines.storage import Store

    store = Store(bucket.url, bucket.options)
    for name in ("config.json", WEIGHTS):
        store.create(f"nets/edges/{name}", (nets / "edges" / name).read_bytes())
    whole = f"{bucket.url}/nets/edges"
    inside = {"source": f"{bucket.url}/nets/", "subfolder": "edges", "name": "again"}
    spec = ModelSpec(controlnets=[whole, inside])
    first, second = locate_controlnets(spec, bucket.options, tmp_path)
    assert first == second
    assert (first / WEIGHTS).read_bytes() == (nets / "edges" / WEIGHTS).read_bytes()
    absent = ModelSpec(controlnets=[f"{bucket.url}/nowhere"])
    with pytest.raises(ModelNotFound, match="ControlNet 'nowhere': "):
        locate_controlnets(absent, bucket.options, tmp_path)


def test_all_files_of_a_model_are_found_described_checked_and_loaded(
    nets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tiny_controlnets.base("sd").save_pretrained(tmp_path / "model")
    entries = [{"source": str(nets / "edges"), "scale": 0.7}, str(nets / "depth")]
    spec = ModelSpec.model_validate({"source": str(tmp_path / "model"), "controlnets": entries})
    files = ModelFiles.locate(spec, {})
    files.check_weights(spec)
    info, model = files.describe(spec), files.load(spec, "cpu")
    assert [(each.name, each.scale) for each in info.controlnets] == [("edges", 0.7), ("depth", 1)]
    assert [each.spec.label for each in model.controlnets] == ["edges", "depth"]


def job(*nets: Any) -> RunSpec:
    values = {"name": "x", "manifest": "p.txt", "output": "runs"}
    return RunSpec.from_dict({**values, "model": {"controlnets": list(nets)}})


def test_controlnets_in_a_job_file_are_sources_or_mappings_and_survive_json() -> None:
    spec = job("studio/edges", {"source": "/nets/depth", "scale": 1, "preprocess": "none"})
    assert [net.label for net in spec.model.controlnets] == ["edges", "depth"]
    assert RunSpec.from_dict(json.loads(json.dumps(spec.as_dict()))) == spec
    assert "/nets/depth" in spec.sources


@pytest.mark.parametrize(
    ("nets", "message"),
    [
        (["a", {"source": "b", "strength": 1}], r"controlnets\.1\.strength"),
        ([{"scale": 1.0}], r"controlnets\.0\.source: this key is required"),
        (["a/edges", "b/edges"], r"controlnets: 2 are called 'edges'"),
        (["https://user:secret@host/net"], "the ControlNet URL contains credentials"),
    ],
)
def test_an_invalid_controlnet_is_named(nets: list[Any], message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        job(*nets)
    assert "secret" not in str(caught.value)


def test_the_schema_allows_a_controlnet_as_a_string_or_a_mapping() -> None:
    nets = json_schema()["$defs"]["ModelSpec"]["properties"]["controlnets"]
    assert {"type": "string"} in nets["items"]["anyOf"]


def test_a_job_without_controlnets_has_the_identity_that_it_always_had() -> None:
    assert "controlnets" not in job().identity()["model"]
    assert "controlnets" in job("a/edges").identity()["model"]


def test_another_file_under_a_controlnets_name_is_another_run(tmp_path: Path) -> None:
    plain = made_runs.record_of(str(tmp_path))
    record = made_runs.record_of(str(tmp_path), model={"controlnets": ["a/edges"]})
    record = replace(record, model=replace(record.model, controlnets=(INFO,)))
    assert RunRecord.from_json(record.to_json(), "run") == record
    other = replace(record.model, controlnets=(replace(INFO, sha256="b" * 64),))
    fields = [change.field for change in record.changes(record.spec, other, "cpu")]
    assert fields == ["model.controlnets: sha256 of edges"]
    prints = {each.fingerprint for each in (plain, record, replace(record, model=other))}
    assert len(prints) == 3
    assert record.model.fingerprint == plain.model.fingerprint


def test_a_changed_scale_or_step_range_is_another_run(tmp_path: Path) -> None:
    record = made_runs.record_of(str(tmp_path), model={"controlnets": ["a/edges"]})
    for change in ({"scale": 0.5}, {"control_guidance_end": 0.5}, {"preprocess": "canny"}):
        entry = {"source": "a/edges", **change}
        other = made_runs.record_of(str(tmp_path), model={"controlnets": [entry]}).spec
        fields = [change.field for change in record.changes(other, record.model, "cpu")]
        assert fields == ["model.controlnets"]


def test_the_facts_of_an_image_name_its_controlnets_with_their_rows_scales(
    tmp_path: Path,
) -> None:
    store, record, rows = prepare(tmp_path, ["a", "b"])
    nets = (INFO, replace(INFO, name="depth"))
    record = replace(record, model=replace(record.model, controlnets=nets))
    attempt = attempt_on(store, record, rows)
    plain, other = planned_images(rows)
    used = Conditioning("text+control", controls=("depth",), control_scales=(0.25,))
    controlled = replace(other, conditioning=used.as_text())
    assert attempt.facts(plain, 1).controlnets == ()
    facts = attempt.facts(controlled, 1)
    assert facts.controlnets == (LoraInfo("depth", "a" * 64, 0.25),)
    assert json.loads(facts_json(facts))["controlnets"] == [
        {"name": "depth", "sha256": "a" * 64, "scale": 0.25}
    ]
