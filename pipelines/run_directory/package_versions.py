"""The versions of the packages that a record names, and what it means if one has changed."""

import platform
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from nightpress.pipelines.job.spec import RunSpec

PIXEL_PACKAGES = ("diffusers", "numpy", "pillow", "torch", "transformers")
"""Packages whose version may affect the last bits of a pixel or an image file."""

RECORDED_PACKAGES = ("nightpress", "ray", "pyarrow", *PIXEL_PACKAGES)


def package_versions() -> dict[str, str]:
    """Package name -> installed version, for the packages that a record names."""
    return {"python": platform.python_version()} | {
        package: _installed_version(package) for package in RECORDED_PACKAGES
    }


def encoder_version(spec: RunSpec) -> dict[str, str]:
    """The version of what writes the files of a run's clips, if Pillow and numpy do not."""
    return {"av": _installed_version("av")} if spec.images.format == "mp4" else {}


@cache
def _installed_version(package: str) -> str:
    """The version of a package as this process found it first: a search through all folders."""
    try:
        return version(package)
    except PackageNotFoundError:  # it was shipped with the job as source
        return "source"


def version_differences(before: Mapping[str, str], spec: RunSpec) -> list[str]:
    """Warnings about packages whose version has changed since a run began.

    Args:
        before: the versions as the run has recorded them.
        spec: its job.
    """
    now = package_versions() | encoder_version(spec)
    encoder = [
        f"{name} is {now[name]} and was {old} when the run began; the bytes of MP4 files "
        "may differ, and their frames do not"
        for name in encoder_version(spec)
        if (old := before.get(name, now[name])) != now[name]
    ]
    return encoder + [
        f"{name} is {now[name]} and was {before[name]} when the run began; "
        "the last bits of a pixel may differ"
        for name in PIXEL_PACKAGES
        if now[name] != before.get(name)
    ]
