"""The versions of packages that a run, a training or an export records."""

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


def version_differences(spec: RunSpec, recorded: Mapping[str, str]) -> list[str]:
    """Warnings about packages whose version is not the recorded one."""
    now = package_versions() | encoder_version(spec)
    encoder = [
        f"{name} is {now[name]} and was {before} when the run began; the bytes of MP4 files "
        "may differ, and their frames do not"
        for name in encoder_version(spec)
        if (before := recorded.get(name, now[name])) != now[name]
    ]
    return encoder + [
        f"{name} is {now[name]} and was {recorded.get(name, 'not recorded')} when the run began; "
        "the last bits of a pixel may differ"
        for name in PIXEL_PACKAGES
        if now[name] != recorded.get(name)
    ]


@cache
def _installed_version(package: str) -> str:
    """The version of a package as this process found it first: a search through all folders."""
    try:
        return version(package)
    except PackageNotFoundError:  # it was shipped with the job as source
        return "source"
