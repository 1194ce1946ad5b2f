"""Fixtures for all tests: S3 servers that start on first use, folders to write to, devices."""

import gc
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from support import servers
from support.servers import Folder, Server
from support.slow_tests import mark_slow_tests

hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")  # no test asserts a time

# The tests start many processes that import nightpress; without this each would compile it again
# where PYTHONDONTWRITEBYTECODE is set, as pytest would the tests.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

if "PYTEST_XDIST_WORKER" not in os.environ:  # it has the folder of the process that started it
    # What tests keep in the cache folder is not for the person's own runs, nor the reverse.
    CACHE = tempfile.TemporaryDirectory(prefix="nightpress-tests-", ignore_cleanup_errors=True)
    os.environ["XDG_CACHE_HOME"] = CACHE.name


@pytest.hookimpl(tryfirst=True)  # before `-m` selects
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the slow tests; deselect the tests marked `gpu` where there is no accelerator."""
    mark_slow_tests(items)
    for_gpus = [item for item in items if item.get_closest_marker("gpu")]
    if not for_gpus:
        return
    import torch

    if not torch.cuda.is_available():
        items[:] = [item for item in items if not item.get_closest_marker("gpu")]
        config.hook.pytest_deselected(items=for_gpus)


def pytest_collection() -> None:
    """Keep the garbage collector from going through torch and Ray while they are imported."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Keep the garbage collector from going through torch and Ray again and again.

    What was imported until now is never garbage.
    """
    gc.enable()
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """The device a model runs on: `cpu`, then `cuda` on a machine with an accelerator."""
    name: str = request.param
    return name


@pytest.fixture(scope="session", autouse=True)
def aws_environment() -> Iterator[None]:
    """Set the credentials of the loopback servers and hide the machine's own settings.

    For the whole session, because processes that tests start early inherit them.
    """
    with servers.environment():
        yield


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """SeaweedFS: a real store, which honours conditional writes and checks credentials."""
    with servers.seaweed(tmp_path_factory.mktemp("seaweed") / "data") as server:
        yield server


@pytest.fixture(scope="session")
def moto_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """moto: light, in memory, accepts any credentials."""
    with servers.moto(tmp_path_factory.mktemp("moto") / "data") as server:
        yield server


@pytest.fixture(scope="session")
def rclone_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """rclone over a folder: ignores conditional writes, as some stores do."""
    with servers.rclone(tmp_path_factory.mktemp("rclone") / "data") as server:
        yield server


@pytest.fixture
def bucket(seaweed: Server) -> Folder:
    """A new folder in a bucket on SeaweedFS: `url`, and `options` for a job file's `storage`."""
    return seaweed.folder()


@pytest.fixture(params=["local", "s3"])
def run_url(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """Where a run may write: a local folder, then a folder on SeaweedFS."""
    if request.param == "local":
        return Folder(str(tmp_path / "out"), {})
    bucket: Folder = request.getfixturevalue("bucket")
    return bucket
