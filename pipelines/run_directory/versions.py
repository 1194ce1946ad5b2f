"""The versions of packages that decide the images of a run, and what it means if they differ."""

import platform
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from nightpress.diffusion_core.models.family_rules import CLEANS_PROMPTS
from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.pipelines.job.spec import RunSpec

PIXEL_PACKAGES = ("diffusers", "numpy", "pillow", "torch", "transformers")
"""Packages whose version may affect the last bits of a pixel or an image file."""

RECORDED_PACKAGES = ("nightpress", "ray", "pyarrow", *PIXEL_PACKAGES)

LACKING = "not installed"


def versions_for(spec: RunSpec, models: Iterable[ModelInfo]) -> dict[str, str]:
    """Package -> its version here, for all that may change the images of a run."""
    return package_versions() | _encoder(spec) | _cleaners(models)


def package_versions() -> dict[str, str]:
    """Package -> its version here, for the packages that every record names."""
    return {"python": platform.python_version()} | {
        package: _installed_version(package) for package in RECORDED_PACKAGES
    }


def version_differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What a person should know about packages whose version has changed since a run began."""
    effects = {
        **dict.fromkeys(CLEANS_PROMPTS.values(), "prompts may be read differently"),
        "av": "the bytes of MP4 files may differ, and their frames do not",
        **dict.fromkeys(PIXEL_PACKAGES, "the last bits of a pixel may differ"),
    }
    # Older runs did not record every one of them.
    return [
        f"{name} is {now[name]} and was {before[name]} when the run began; {effect}"
        for name, effect in effects.items()
        if name in now and before.get(name, now[name]) != now[name]
    ]


def _encoder(spec: RunSpec) -> dict[str, str]:
    """The version of what writes the files of a run's clips, if Pillow and numpy do not."""
    return {"av": _installed_version("av")} if spec.images.format == "mp4" else {}


def _cleaners(models: Iterable[ModelInfo]) -> dict[str, str]:
    """The versions of packages that change the prompts of these models where they are installed."""
    names = {CLEANS_PROMPTS[each.pipeline] for each in models if each.pipeline in CLEANS_PROMPTS}
    return {name: _installed_version(name) if find_spec(name) else LACKING for name in names}


@cache
def _installed_version(package: str) -> str:
    """The version of a package as this process found it first: a search through all folders."""
    try:
        return version(package)
    except PackageNotFoundError:  # it was shipped with the job as source
        return "source"
