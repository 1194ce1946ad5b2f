"""Files that Python would import instead of a library, because their folder comes before it."""

import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from importlib.machinery import PathFinder
from pathlib import Path

from nightpress.jobs.errors import ClusterError

LIBRARIES = (
    *("nightpress", "ray", "torch", "numpy", "pyarrow", "pydantic", "yaml", "fsspec", "PIL"),
    *("diffusers", "transformers", "tokenizers", "safetensors", "huggingface_hub", "accelerate"),
    *("click", "rich", "jinja2", "lazy_loader", "filelock", "grpc", "s3fs", "peft", "pandas"),
)
"""What a run imports, in the driver or in its workers."""


def require_libraries(also_in: Iterable[str] = ()) -> None:
    """Check that no file stands before a library, and none was imported instead of a standard one.

    Args:
        also_in: folders to look in besides those that come first on Python's path.

    Raises:
        ClusterError: one does; the message names it.
    """
    for folder in {*_folders_before_the_libraries(), *also_in}:
        for name in LIBRARIES:
            _refuse(name, PathFinder.find_spec(name, [folder]))
        for name in sys.stdlib_module_names.intersection(sys.modules):
            spec = getattr(sys.modules[name], "__spec__", None)
            origin = getattr(spec, "origin", None) or ""
            if Path(origin).parent == Path(folder) or Path(origin).parent.parent == Path(folder):
                _refuse(name, spec)


def _refuse(name: str, spec: object) -> None:
    """Refuse the file that would be imported under a name, unless the library itself is loaded."""
    origin = getattr(spec, "origin", None)
    if origin is None:  # a folder without modules gives way to any library
        return
    loaded: str = getattr(sys.modules.get(name), "__file__", None) or origin
    if Path(loaded).resolve() != Path(origin).resolve():
        return
    raise ClusterError(
        f"{origin} is in the way: Python imports it instead of {name}, which nightpress needs; "
        "rename it, or start nightpress from another folder and without PYTHONPATH"
    )


def _folders_before_the_libraries() -> Iterator[str]:
    """The folder of the script, or the current one, and those of PYTHONPATH.

    Folders that packages were installed into are left out: some machines provide them that way.
    """
    ours = Path(__file__).resolve().parents[2]
    installed = Path(sysconfig.get_path("purelib"))
    for entry in sys.path:
        if entry.endswith(".zip"):  # the first entry of the standard library
            return
        folder = Path(entry or os.curdir).resolve()
        is_known = ours.is_relative_to(folder / "nightpress") or folder.is_relative_to(installed)
        if folder.is_dir() and not is_known and not any(folder.glob("*.dist-info")):
            yield str(folder)
