"""Tiny models, saved and loaded once for the whole test session."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support import tiny_models

from nightpress.diffusion_core.models import loading
from nightpress.diffusion_core.models.loading import LoadedModel, ModelSpec


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """What an actor has, and what the law of equal bits asks for."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or writes the caches of whoever runs it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "nightpress"


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Family -> the folder of its tiny model; tests must not change it."""

    @functools.cache
    def save(family: str) -> Path:
        return tiny_models.save(family, tmp_path_factory.mktemp(family))

    return save


@pytest.fixture(scope="session")
def loaded(saved: Callable[[str], Path]) -> Callable[[str], LoadedModel]:
    """Family -> its tiny model as nightpress loads it."""

    @functools.cache
    def load(family: str) -> LoadedModel:
        return loading.load(saved(family), ModelSpec(source=str(saved(family))), "cpu")

    return load


@pytest.fixture
def plain(saved: Callable[[str], Path]) -> Callable[[str], Any]:
    """Family -> its tiny model as plain diffusers loads it."""

    def load(family: str) -> Any:
        from diffusers import DiffusionPipeline

        pipeline = DiffusionPipeline.from_pretrained(saved(family), local_files_only=True)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    return load
