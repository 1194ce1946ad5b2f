"""Tiny models, saved and loaded once for the whole test session, and other fixtures."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support import tiny_models

from nightpress.diffusion_core.models import loading
from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.sampling import no_sync, schedulers


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """One thread, as an actor has, and as batch invariance needs on a CPU."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own, so that it never touches the caches of who runs it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "nightpress"


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Family -> the folder of its tiny model, which tests must not change."""

    @functools.cache
    def save(family: str) -> Path:
        return tiny_models.save(family, tmp_path_factory.mktemp(family))

    return save


@pytest.fixture(scope="session")
def loaded_on(saved: Callable[[str], Path]) -> Callable[[str, str], LoadedModel]:
    """Family, device -> its tiny model in float32, loaded by nightpress."""

    @functools.cache
    def load(family: str, device: str) -> LoadedModel:
        spec = ModelSpec(source=str(saved(family)))
        if device != "cpu":  # where `auto` is bfloat16
            spec = spec.model_copy(update={"dtype": "float32"})
        return loading.load(saved(family), spec, device)

    return load


@pytest.fixture(scope="session")
def loaded(loaded_on: Callable[[str, str], LoadedModel]) -> Callable[[str], LoadedModel]:
    """Family -> its tiny model on the CPU, loaded by nightpress."""
    return lambda family: loaded_on(family, "cpu")


@pytest.fixture
def plain(saved: Callable[[str], Path]) -> Callable[..., Any]:
    """Family, device (the CPU unless given) -> its tiny model, loaded by plain diffusers."""

    def load(family: str, device: str = "cpu") -> Any:
        from diffusers import DiffusionPipeline

        pipeline = DiffusionPipeline.from_pretrained(saved(family), local_files_only=True)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline.to(device)

    return load


@pytest.fixture
def no_sync_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the no-sync patches on a CPU too, where a sampler leaves schedulers as they are."""
    make = schedulers.Schedulers.make
    monkeypatch.setattr(schedulers.Schedulers, "make", lambda *args: no_sync.install(make(*args)))
