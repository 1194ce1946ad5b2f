"""Tiny models of every family that has modes with pictures, and pictures for them."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import tiny_image_models

from nightpress.diffusion_core.models import loading
from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.models.spec import ModelSpec


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Family -> the folder of its tiny model, which tests must not change."""

    @functools.cache
    def save(family: str) -> Path:
        return tiny_image_models.save(family, tmp_path_factory.mktemp(family))

    return save


@pytest.fixture(scope="session")
def loaded(saved: Callable[[str], Path]) -> Callable[[str], LoadedModel]:
    """Family -> its tiny model in float32 on the CPU, loaded by nightpress."""

    @functools.cache
    def load(family: str) -> LoadedModel:
        return loading.load(saved(family), ModelSpec(source=str(saved(family))), "cpu")

    return load


@pytest.fixture(scope="session")
def plain(saved: Callable[[str], Path]) -> Callable[[str, str], Any]:
    """Family, class -> plain diffusers' pipeline of that class over the family's components."""

    @functools.cache
    def components(family: str) -> Any:
        from diffusers import DiffusionPipeline

        return DiffusionPipeline.from_pretrained(saved(family), local_files_only=True)

    @functools.cache
    def make(family: str, name: str) -> Any:
        import diffusers

        base = components(family)
        settings = {"requires_safety_checker", "force_zeros_for_empty_prompt"}
        settings |= {"requires_aesthetics_score"}
        config = {key: value for key, value in base.config.items() if key in settings}
        known = inspect.signature(getattr(diffusers, name).__init__).parameters
        parts = {k: v for k, v in {**base.components, **config}.items() if k in known}
        pipeline = getattr(diffusers, name)(**parts)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    return make
