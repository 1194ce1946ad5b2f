"""Locating saved networks of transformers, and single files."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import tiny_scorer_models
from support.fakes.fake_hub import COMMIT, FakeHub, serving
from support.servers import Folder

from nightpress.diffusion_core.errors import ModelNotFound
from nightpress.pipelines import storage
from nightpress.pipelines.models.networks import locate_file, locate_network, read_file

LOCATE = """
import json, sys
from nightpress.diffusion_core.errors import ModelError
from nightpress.pipelines.models.networks import locate_network
for source in json.loads(sys.argv[1]):
    try:
        print(json.dumps(str(locate_network(source))))
    except ModelError as error:
        print(json.dumps(f"{type(error).__name__}: {error}"))
"""
"""Locates networks in a separate process, because the hub's library reads its settings once."""


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_scorer_models.save_clip(tmp_path_factory.mktemp("clip"))


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def ask(hub: FakeHub, home: Path, sources: list[str]) -> list[str]:
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(home)}
    command = [sys.executable, "-c", LOCATE, json.dumps(sources)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_local_folder_is_used_in_place(network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert locate_network(str(network)) == network
    monkeypatch.chdir(network.parent)
    assert locate_network(network.name).resolve() == network


def test_a_remote_folder_is_mirrored_once(network: Path, bucket: Folder, tmp_path: Path) -> None:
    store, url = storage.Store(bucket.url, bucket.options), f"{bucket.url}/clip"
    for name, data in content(network).items():
        store.create(f"clip/{name}", data)
    first = locate_network(url, bucket.options, tmp_path)
    assert content(first) == content(network)
    assert locate_network(url, bucket.options, tmp_path) == first


def test_only_the_needed_files_of_a_hub_repository_are_downloaded(
    network: Path, tmp_path: Path
) -> None:
    whole, pickled = tmp_path / "whole", tmp_path / "pickled"
    for root in (whole, pickled):
        shutil.copytree(network, root)
        (root / "pytorch_model.bin").write_bytes(b"never to be fetched")
    (whole / "README.md").write_text("A card.")
    (whole / "onnx").mkdir()
    (whole / "onnx" / "config.json").write_text("{}")
    (pickled / "model.safetensors").unlink()
    with serving({"o/clip": whole, "o/pickled": pickled}) as hub:
        sources = ["o/clip@v1", "o/pickled", "o/other", "o/clip@v9"]
        found, unsafe, missing, revision = ask(hub, tmp_path / "hf", sources)
    assert COMMIT in Path(found).parts
    assert content(Path(found)) == content(network)
    assert sorted(hub.fetched["o/clip"]) == sorted(content(network))
    assert unsafe.startswith("UnsafeWeights: o/pickled: the only weights are pickles")
    assert hub.fetched["o/pickled"] == []
    assert missing.startswith("ModelNotFound")
    assert revision.startswith("ModelNotFound")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("/no/such/folder", "must be a folder, a hub id such as"),
        (__file__, "is a file; a network is a folder with a config"),
        (str(Path(__file__).parent), "not a saved network: config.json is missing"),
    ],
)
def test_what_is_no_network_is_refused(source: str, said: str) -> None:
    with pytest.raises(ModelNotFound, match=said):
        locate_network(source)


def test_a_url_without_a_network_is_refused(bucket: Folder, tmp_path: Path) -> None:
    storage.Store(bucket.url, bucket.options).create("sea/blue.txt", b"blue")
    for name, said in {
        "sea": "not a saved network: config.json is missing",
        "no": "no such",
    }.items():
        with pytest.raises(ModelNotFound, match=said):
            locate_network(f"{bucket.url}/{name}", bucket.options, tmp_path)


def test_one_file_is_found_wherever_it_lies(bucket: Folder, tmp_path: Path) -> None:
    store = storage.Store(bucket.url, bucket.options)
    store.create("faces/yunet.onnx", b"weights")
    local = tmp_path / "yunet.onnx"
    local.write_bytes(b"weights")
    assert locate_file(str(local)) == locate_file(local.as_uri()) == local
    url = f"{bucket.url}/faces/yunet.onnx"
    mirrored = locate_file(url, bucket.options, tmp_path / "cache")
    assert (mirrored.name, mirrored.read_bytes()) == ("yunet.onnx", b"weights")
    assert locate_file(url, bucket.options, tmp_path / "cache") == mirrored
    assert read_file(url, bucket.options) == read_file(str(local)) == b"weights"


def test_what_is_no_file_is_refused(bucket: Folder, tmp_path: Path) -> None:
    storage.Store(bucket.url, bucket.options).create("faces/yunet.onnx", b"weights")
    wrong: dict[str, Any] = {
        str(tmp_path): "not a file",
        str(tmp_path / "no.onnx"): "no such file",
        f"{bucket.url}/no.onnx": "no such file",
        f"{bucket.url}/faces": "is a folder; expected one file",
    }
    for source, said in wrong.items():
        with pytest.raises(ModelNotFound, match=said):
            locate_file(source, bucket.options, tmp_path / "cache")
