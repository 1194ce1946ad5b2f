"""Which folders workers import from: those of their installation, not the driver's current one.

Ray puts the driver's current folder, and that of its script, before everything else on the path of
its workers. A file there named like one of our packages or libraries would be imported instead.
"""

import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

from ray.job_config import JobConfig

import nightpress


class _NoFolders(list[str]):
    """The folders that Ray adds to the path of its workers: none, whatever it tries to add."""

    def extend(self, folders: Iterable[str]) -> None:
        """Add nothing."""


def worker_imports() -> JobConfig:
    """Settings for ray.init with which workers import from their own installation only."""
    config = JobConfig()
    config._py_driver_sys_path = _NoFolders(_own_folder())
    return config


def _own_folder() -> list[str]:
    """The folder that holds `nightpress`, if a new Python would not find it there by itself."""
    folder = Path(nightpress.__file__).parent.parent
    installed = {Path(path).resolve() for path in (*_site_folders(), *_editable_folders())}
    return [] if folder.resolve() in installed else [str(folder)]


def _site_folders() -> list[str]:
    return [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]


def _editable_folders() -> Iterator[str]:
    """Folders that `.pth` files add to the path, as editable installs do."""
    for file in Path(sysconfig.get_path("purelib")).glob("*.pth"):
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.strip() and not line.startswith(("#", "import ", "import\t")):
                yield str(file.parent / line.strip())
