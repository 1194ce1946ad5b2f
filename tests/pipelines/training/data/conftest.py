"""Folders for training data, and a short way to pack it."""

from pathlib import Path
from typing import Any

import pytest
from support.servers import Folder, Server
from support.training_files import SIDE, Files, Packed, put

from nightpress.pipelines.training.data import DataSpec, pack


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """A local folder, then one on moto's S3."""
    if request.param == "local":
        return Folder(str(tmp_path / "data"), {})
    server: Server = request.getfixturevalue("moto_s3")
    return server.folder()


@pytest.fixture
def packed(tmp_path: Path) -> Packed:
    """Write files to a local folder and pack them."""

    def make(files: Files, source: str = "set", need_captions: bool = True, **spec: Any) -> Any:
        put(files, Folder(str(tmp_path / "data"), {}))
        data = DataSpec(source=str(tmp_path / "data" / source), **spec)
        return pack(data, SIDE, need_captions, cache=tmp_path / "cache")

    return make
