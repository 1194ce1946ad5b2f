"""Locating models: built in, local, on the hub and at URLs."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import s3fs
from moto.server import ThreadedMotoServer
from support import tiny_models
from support.fakes.fake_hub import COMMIT, FakeHub, serving

from nightpress.diffusion_core import builtin
from nightpress.diffusion_core.errors import HubUnavailable, ModelError, ModelNotFound
from nightpress.diffusion_core.models import loading
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.pipelines import storage
from nightpress.pipelines.errors import StoreError
from nightpress.pipelines.models.location import component_folder, hub_error, is_here, locate
from nightpress.pipelines.models.mirrors import mirror_once
from nightpress.pipelines.storage import Source
from nightpress.pipelines.storage.urls import Options

REPO, HALF, PICKLED = "studio/tiny", "studio/half", "studio/pickled"

LOCATE = """
import json, sys, warnings
warnings.simplefilter("ignore")
from pathlib import Path
from nightpress.diffusion_core.errors import ModelError
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.pipelines.models.location import locate
for values in json.loads(sys.argv[1]):
    try:
        print(json.dumps({"path": str(locate(ModelSpec(**values)))}))
    except ModelError as error:
        print(json.dumps({"error": type(error).__name__, "message": str(error)}))
"""
"""Locates models in a separate process, because the hub's library reads its settings once."""


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save("sd", tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def hub(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeHub]:
    """A hub with the tiny model among unneeded files, and with a model that has only pickles."""
    whole, pickled = (tmp_path_factory.mktemp("hub") / name for name in ("whole", "pickled"))
    for root in (whole, pickled):
        shutil.copytree(tiny, root)
        (root / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"never to be fetched")
    (whole / "README.md").write_text("A card.")
    (whole / "flax_model.msgpack").write_bytes(b"another framework's weights")
    safe = whole / "unet" / "diffusion_pytorch_model.safetensors"
    safe.with_suffix(".fp16.safetensors").write_bytes(safe.read_bytes())
    (pickled / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with serving({REPO: whole, HALF: whole, PICKLED: pickled}) as hub:
        yield hub


def ask(hub: FakeHub, home: Path, *specs: dict[str, Any]) -> list[dict[str, str]]:
    """Locate models in a separate process."""
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(home)}
    command = [sys.executable, "-c", LOCATE, json.dumps(specs)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def hub_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache folder of the hub's library."""
    return tmp_path_factory.mktemp("hf")


@pytest.fixture(scope="module")
def answers(hub: FakeHub, hub_home: Path) -> dict[str, dict[str, str]]:
    """What locating gives while the hub is reachable."""
    asked = {
        "at": {"source": f"{REPO}@v1"},
        "revision": {"source": REPO, "revision": "v1"},
        "half": {"source": HALF, "variant": "fp16"},
        "pickled": {"source": PICKLED},
        "no model": {"source": "studio/other"},
        "no revision": {"source": f"{REPO}@v9"},
    }
    return dict(zip(asked, ask(hub, hub_home, *asked.values()), strict=True))


def test_the_builtin_model_is_in_its_package() -> None:
    assert locate(ModelSpec()) == builtin.folder()


def test_a_local_folder_is_used_in_place(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert locate(ModelSpec(source=str(tiny))) == tiny
    monkeypatch.chdir(tiny.parent)
    assert locate(ModelSpec(source=tiny.name)) == tiny
    assert locate(ModelSpec(source=tiny.as_uri())) == tiny


@pytest.mark.parametrize("source", ["./nowhere", "/no/such/folder", "a b", "nowhere"])
def test_an_unknown_source_is_refused_with_what_is_allowed(source: str) -> None:
    with pytest.raises(ModelNotFound, match="`builtin`, a folder, a hub id"):
        locate(ModelSpec(source=source))


def test_two_different_revisions_are_refused() -> None:
    with pytest.raises(ModelError, match=r"names a revision other than model\.revision, 'v2'"):
        locate(ModelSpec(source="a/b@v1", revision="v2"))


def test_only_the_needed_files_of_a_hub_model_are_downloaded_once(
    hub: FakeHub, answers: dict[str, dict[str, str]], tiny: Path
) -> None:
    assert answers["at"] == answers["revision"]
    folder = Path(answers["at"]["path"])
    assert COMMIT in folder.parts
    needed = sorted(p.relative_to(tiny).as_posix() for p in tiny.rglob("*") if p.is_file())
    assert sorted(hub.fetched[REPO]) == needed
    assert loading.describe(folder, ModelSpec(source=REPO)).pipeline == "StableDiffusionPipeline"


def test_only_the_variant_of_a_hub_model_is_downloaded(
    hub: FakeHub, answers: dict[str, dict[str, str]]
) -> None:
    assert "path" in answers["half"]
    weights = [file for file in hub.fetched[HALF] if file.startswith("unet/diffusion")]
    assert weights == ["unet/diffusion_pytorch_model.fp16.safetensors"]


def test_what_the_hub_does_not_have_is_reported_in_one_line(
    hub: FakeHub, answers: dict[str, dict[str, str]]
) -> None:
    expected = {
        "no model": ("ModelNotFound", "the hub has no such model"),
        "no revision": ("ModelNotFound", "not that revision"),
        "pickled": ("UnsafeWeights", "model.allow_pickle: true"),
    }
    for case, (kind, message) in expected.items():
        assert answers[case]["error"] == kind
        assert message in answers[case]["message"]
        assert "\n" not in answers[case]["message"]
    assert not any(file.endswith(".bin") for file in hub.fetched[PICKLED])


@pytest.mark.slow
def test_a_hub_that_is_busy_is_no_missing_model(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "failing", 503)
    (answer,) = ask(hub, tmp_path / "empty", {"source": "studio/new"})
    assert answer["error"] == "HubUnavailable"
    assert answer["message"].startswith("model 'studio/new': the hub keeps failing (")
    assert "\n" not in answer["message"]


@pytest.mark.parametrize(
    ("status", "kind"), [(429, HubUnavailable), (503, HubUnavailable), (418, ModelNotFound)]
)
def test_a_hub_answer_that_may_pass_is_told_from_one_that_stays(
    status: int, kind: type[ModelError]
) -> None:
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import httpx

    response = httpx.Response(status, request=httpx.Request("GET", "https://hub.invalid/api"))
    error = hub_error("studio/new", HfHubHTTPError("it says no", response=response))
    assert type(error) is kind


@pytest.mark.slow
def test_a_cached_hub_model_is_found_when_the_hub_is_unreachable(
    hub: FakeHub, hub_home: Path, answers: dict[str, dict[str, str]]
) -> None:
    hub.shutdown()
    hub.server_close()
    known, unknown = ask(hub, hub_home, {"source": f"{REPO}@v1"}, {"source": "studio/new"})
    assert known == answers["at"]
    assert unknown["error"] == "ModelNotFound"
    assert "the hub cannot be reached" in unknown["message"]
    assert "\n" not in unknown["message"]


MIRROR = """
import json, sys, time
from pathlib import Path
from nightpress.pipelines import storage
from nightpress.pipelines.models import location

url, options, cache, log = sys.argv[1:]
download = storage.download_folder

def slowly(*args):
    with open(log, "a") as file:
        file.write("download\\n")
    time.sleep(0.5)
    download(*args)

storage.download_folder = slowly
print(location.locate(location.ModelSpec(source=url), json.loads(options), Path(cache)))
"""
"""An actor that needs a remote model; its download is slow and writes a line to a log."""


@pytest.fixture(scope="module")
def s3() -> Iterator[s3fs.S3FileSystem]:
    """A light S3 server on loopback, with an empty bucket `models`."""
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        s3 = s3fs.S3FileSystem(endpoint_url=f"http://{host}:{port}")
        s3.mkdir("models")
        yield s3
    server.stop()


@pytest.fixture
def options(s3: s3fs.S3FileSystem) -> dict[str, dict[str, Any]]:
    return {"s3": {"endpoint_url": s3.endpoint_url}}


@pytest.fixture
def remote(s3: s3fs.S3FileSystem, tiny: Path) -> str:
    """The URL of the tiny model on S3."""
    if s3.exists("models/tiny"):
        s3.rm("models/tiny", recursive=True)
    s3.put(str(tiny), "models/tiny", recursive=True)
    return "s3://models/tiny"


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_a_remote_model_is_mirrored_completely_and_once(
    remote: str, options: Options, tiny: Path, tmp_path: Path
) -> None:
    folder = locate(ModelSpec(source=remote), options, tmp_path / "cache")
    assert content(folder) == content(tiny)
    before = folder.stat().st_ino
    assert locate(ModelSpec(source=remote), options, tmp_path / "cache") == folder
    assert folder.stat().st_ino == before


def test_a_remote_model_is_here_once_it_is_mirrored(
    s3: s3fs.S3FileSystem, remote: str, options: Options, tmp_path: Path
) -> None:
    spec = ModelSpec(source=remote)
    assert not is_here(spec, options, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    locate(spec, options, tmp_path / "cache")
    assert is_here(spec, options, tmp_path / "cache")
    with s3.open(f"{remote}/model_index.json", "ab") as file:
        file.write(b" ")
    assert not is_here(spec, options, tmp_path / "cache")
    with pytest.raises(ModelNotFound):
        is_here(ModelSpec(source=f"{remote}-not"), options, tmp_path / "cache")


def test_local_models_are_here_and_hub_models_that_were_never_fetched_are_not(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert is_here(ModelSpec(source="builtin"))
    assert is_here(ModelSpec(source=str(tiny)))
    cached = tmp_path / "models--studio--tiny"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for source in (REPO, "no such folder", "a--b/c", f"{REPO}@v1"):
        assert not is_here(ModelSpec(source=source)), source
    snapshot = cached / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "model_index.json").write_text("{}")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(COMMIT)
    assert is_here(ModelSpec(source=REPO))
    assert is_here(ModelSpec(source=f"{REPO}@{COMMIT}"))
    assert not is_here(ModelSpec(source=f"{REPO}@v1"))


@pytest.mark.slow
def test_actors_that_race_for_a_remote_model_download_it_once(
    remote: str, options: Options, tiny: Path, tmp_path: Path
) -> None:
    log, cache = tmp_path / "log", tmp_path / "cache"
    command = [sys.executable, "-c", MIRROR, remote, json.dumps(options), str(cache), str(log)]
    actors = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    answers = {actor.communicate(timeout=120)[0].strip() for actor in actors}
    assert [actor.returncode for actor in actors] == [0, 0, 0]
    assert log.read_text() == "download\n"
    assert len(answers) == 1
    assert content(Path(answers.pop())) == content(tiny)
    assert not list(cache.glob("*.partial-*"))


def test_an_actor_that_dies_halfway_leaves_no_partial_model(
    remote: str, options: Options, tiny: Path, tmp_path: Path
) -> None:
    log, cache = tmp_path / "log", tmp_path / "cache"
    actor = subprocess.Popen(
        [sys.executable, "-c", MIRROR, remote, json.dumps(options), str(cache), str(log)]
    )
    while not log.exists():
        assert actor.poll() is None
        time.sleep(0.05)
    actor.kill()
    actor.wait()
    assert not [path for path in cache.iterdir() if path.is_dir() and ".partial-" not in path.name]
    assert content(locate(ModelSpec(source=remote), options, cache)) == content(tiny)
    assert not list(cache.glob("*.partial-*"))


def test_a_failed_download_is_removed(
    remote: str, options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_url: str, into: Path, _options: object) -> None:
        (into / "model_index.json").write_text("{")
        raise StoreError("the network is gone")

    monkeypatch.setattr(storage, "download_folder", fails)
    with pytest.raises(StoreError, match="gone"):
        locate(ModelSpec(source=remote), options, tmp_path / "cache")
    monkeypatch.setattr(storage, "download_folder", lambda *_: None)
    with pytest.raises(ModelError, match=r"0 of .* bytes arrived"):
        locate(ModelSpec(source=remote), options, tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]


def test_a_changed_remote_model_is_mirrored_again(
    remote: str, options: Options, s3: s3fs.S3FileSystem, tiny: Path, tmp_path: Path
) -> None:
    first = locate(ModelSpec(source=remote), options, tmp_path / "cache")
    old = (tiny / "unet" / "config.json").read_bytes()
    s3.pipe_file("models/tiny/unet/config.json", old.replace(b"silu", b"relu"))
    second = locate(ModelSpec(source=remote), options, tmp_path / "cache")
    assert second != first
    assert content(first) == content(tiny)
    assert b"relu" in (second / "unet" / "config.json").read_bytes()


def test_a_url_without_a_model_is_refused_before_downloading(
    s3: s3fs.S3FileSystem, options: Options, tmp_path: Path
) -> None:
    s3.pipe_file("models/holiday/sea.txt", b"blue")
    for url, message in {
        "s3://models/holiday": r"not a saved diffusers model: model_index\.json is missing",
        "s3://models/nowhere": "no such folder",
    }.items():
        with pytest.raises(ModelNotFound, match=message):
            locate(ModelSpec(source=url), options, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_part_of_the_builtin_model_is_found_by_name(tmp_path: Path) -> None:
    assert component_folder("builtin/text_encoder") == builtin.folder() / "text_encoder"
    (tmp_path / "vae").mkdir()
    assert component_folder(str(tmp_path / "vae")) == tmp_path / "vae"
    with pytest.raises(ModelNotFound, match="builtin/crystal_ball: no such folder"):
        component_folder("builtin/crystal_ball")


def test_importing_the_module_loads_no_framework() -> None:
    code = (
        "import sys, nightpress.pipelines.models.location, nightpress.pipelines.job.spec\n"
        "print([m for m in ('torch', 'diffusers', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_cache_that_cannot_be_written_is_named_with_what_to_set(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    source = Source("s3://b/model_index.json", 2, "1")
    with pytest.raises(ModelError, match=r"file/models: .*; to use another folder, set XDG_CACHE"):
        mirror_once("s3://b", [source], tmp_path / "file" / "models", lambda into: None)
