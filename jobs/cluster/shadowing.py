"""Files that Python would import instead of a library, because their folder comes before it.

It is used before other modules are imported, so it imports little itself.
"""

import os
import re
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

UNUSED = frozenset(("antigravity", "idlelib", "lib2to3", "test", "this", "turtle", "turtledemo"))
"""Standard modules that no library imports."""

STANDARD = sys.stdlib_module_names - frozenset(sys.builtin_module_names) - UNUSED
"""Standard modules that a file can hide."""

ACCIDENTAL = frozenset(("test", "tests", "doc", "docs", "example", "examples", "scripts", "tools"))
"""Names of folders that some libraries install beside their modules, and never import."""


def require_libraries(also_in: Iterable[str] = ()) -> None:
    """Check that no file stands before a library or a standard module.

    Modules that are loaded already, from elsewhere, are in no danger.

    Args:
        also_in: folders to look in for files before a library, besides those that come first on
            Python's path.

    Raises:
        ClusterError: one does; the message names it.
    """
    first = set(_folders_before_the_libraries())
    for folder in {*first, *also_in}:
        known = {*LIBRARIES, *STANDARD} if folder in first else {*LIBRARIES}
        _refuse_all(folder, _names_in(folder) & known)
    installed = set().union(*(_names_in(folder) for folder in sys.path if folder not in first))
    others = installed - {*LIBRARIES, *STANDARD, *ACCIDENTAL}
    for folder in first:
        in_danger = {name for name in _names_in(folder) & others if _in_the_way(name, folder)}
        if in_danger:  # what is required takes a while to find
            _refuse_all(folder, in_danger & _required_modules())


def _refuse_all(folder: str, names: Iterable[str]) -> None:
    for name in sorted(names):
        if file := _in_the_way(name, folder):
            raise ClusterError(
                f"{file} is in the way: Python imports it instead of {name}, which nightpress "
                "needs; rename it, or start nightpress from another folder and without PYTHONPATH"
            )


def _in_the_way(name: str, folder: str) -> str | None:
    """The file of a folder that is imported under a name, or would be."""
    origin = getattr(PathFinder.find_spec(name, [folder]), "origin", None)
    if origin is None:  # a folder without modules gives way to any library
        return None
    loaded: str = getattr(sys.modules.get(name), "__file__", None) or origin
    return origin if Path(loaded).resolve() == Path(origin).resolve() else None


def _names_in(folder: str) -> set[str]:
    """The names of modules that a folder may hold."""
    try:
        return {entry.partition(".")[0] for entry in os.listdir(folder or os.curdir)}
    except OSError:  # Python passes over it as well
        return set()


def _required_modules() -> frozenset[str]:
    """The modules of all installed libraries that `LIBRARIES` need, and that these need in turn."""
    from importlib.metadata import PackageNotFoundError, distribution, packages_distributions

    owners = packages_distributions()
    found: set[str] = set()
    waiting = [owner for name in LIBRARIES for owner in owners.get(name, ())]
    while waiting:
        name = _normal(waiting.pop())
        if name in found:
            continue
        try:
            requirements = distribution(name).requires or []
        except PackageNotFoundError:  # only for an extra, or another system
            continue
        found.add(name)
        waiting += [
            re.split(r"[^\w.-]", requirement, maxsplit=1)[0] for requirement in requirements
        ]
    return frozenset(
        module for module, names in owners.items() if found & {_normal(name) for name in names}
    )


def _normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _folders_before_the_libraries() -> Iterator[str]:
    """The folder of the script, or the current one, and those of PYTHONPATH.

    Folders that packages were installed into are left out: some machines provide them that way.
    """
    ours = Path(__file__).resolve().parents[2]
    installed = Path(sysconfig.get_path("purelib"))
    standard = Path(sysconfig.get_path("stdlib")).resolve()
    for entry in sys.path:
        if entry.endswith(".zip"):  # the first entry of the standard library
            return
        folder = Path(entry or os.curdir).resolve()
        is_known = (
            (folder / "nightpress" / "jobs").resolve() == ours / "jobs"
            or folder == standard
            or folder.is_relative_to(installed)
        )
        if folder.is_dir() and not is_known and not any(_metadata_in(folder)):
            yield str(folder)


def _metadata_in(folder: Path) -> Iterator[Path]:
    """What package managers leave in a folder that they install into."""
    for pattern in ("*.dist-info", "*.egg-info"):
        yield from folder.glob(pattern)
