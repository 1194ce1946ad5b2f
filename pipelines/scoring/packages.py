"""The packages that scorers need: importing them, and finding the weights that they carry."""

import importlib
import importlib.metadata
import importlib.util
from pathlib import Path
from typing import Any

from nightpress.pipelines.errors import ScorerError

INSTALL = "pip install 'nightpress[scoring]'"


def imported(module: str, package: str) -> Any:
    """Import a module of an optional package.

    Args:
        module: the module.
        package: the name of its package on PyPI, as errors call it.

    Raises:
        ScorerError: it is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]:
            raise _missing(package) from error
        raise ScorerError(f"the package {package} cannot be imported: {error}") from error


def require(module: str, package: str) -> None:
    """Refuse to go on without a package, which is not imported.

    Raises:
        ScorerError: it is not installed.
    """
    if importlib.util.find_spec(module) is None:
        raise _missing(package)


def carried_file(module: str, package: str, name: str, install: str = INSTALL) -> Path:
    """A file that a package carries; the package is not imported.

    Args:
        module: the module of the package.
        package: its name on PyPI, as errors call it.
        name: the file, below the module's folder.
        install: the command that installs the package.

    Raises:
        ScorerError: it is not installed, or has no such file.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise _missing(package, install)
    file = Path(spec.submodule_search_locations[0]) / name
    if not file.is_file():
        raise ScorerError(
            f"the package {package} {version(package)} has no file {name}; install the version "
            "that infra/constraints.txt names"
        )
    return file


def version(package: str) -> str:
    """The version of an installed package.

    Raises:
        ScorerError: it is not installed.
    """
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError as error:
        raise _missing(package) from error


def _missing(package: str, install: str = INSTALL) -> ScorerError:
    return ScorerError(f"the package {package} is not installed; install it with: {install}")
