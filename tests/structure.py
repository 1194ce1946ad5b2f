"""The structure of the three packages, read from their imports.

    python tests/structure.py [ROOT]

prints for each package its rooms (the files and folders at its top), the arrows between them (one
for each pair of rooms where one imports the other), and the lengths of its functions.
"""

import ast
import functools
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("diffusion_core", "pipelines", "jobs")


@dataclass(frozen=True, order=True)
class Import:
    """One module that a file of a package names in an import."""

    file: str
    """Relative to the repository."""
    room: str
    """The room that the file is in; empty for the package's own `__init__`."""
    module: tuple[str, ...]
    """The dotted name that is imported, without `nightpress`: package, room, ..."""


def files(package: str, root: Path = ROOT) -> list[Path]:
    """Every Python file of a package."""
    return sorted((root / package).rglob("*.py"))


def room_of(file: Path, package: str, root: Path = ROOT) -> str:
    """The room that a file of a package is in; empty for the package's own `__init__`."""
    room = file.relative_to(root / package).parts[0].removesuffix(".py")
    return "" if room == "__init__" else room


def rooms(package: str, root: Path = ROOT) -> set[str]:
    """The rooms of a package."""
    return {room_of(file, package, root) for file in files(package, root)} - {""}


@functools.cache
def nodes(file: Path) -> tuple[ast.AST, ...]:
    """All nodes of a file's syntax tree."""
    return tuple(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))


def imported(file: Path) -> set[str]:
    """The dotted names that a file imports, wherever in it the import stands."""
    names = set()
    for node in nodes(file):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def imports(package: str, root: Path = ROOT) -> list[Import]:
    """What the files of a package import from the three packages."""
    found = set()
    for file in files(package, root):
        for name in imported(file):
            module = tuple(name.removeprefix("nightpress.").split("."))
            if module[0] in PACKAGES:
                where = file.relative_to(root).as_posix()
                found.add(Import(where, room_of(file, package, root), module))
    return sorted(found)


def arrows(package: str, root: Path = ROOT) -> set[tuple[str, str]]:
    """(importing room, imported room) of a package."""
    known = rooms(package, root)
    return {
        (each.room, each.module[1])
        for each in imports(package, root)
        if each.module[0] == package
        and len(each.module) > 1
        and each.module[1] in known - {each.room}
        and each.room
    }


def function_lengths(package: str, root: Path = ROOT) -> list[tuple[int, str]]:
    """(lines, where it stands) of each function of a package."""
    return [
        (node.end_lineno - node.lineno + 1, f"{file.relative_to(root).as_posix()}: {node.name}")
        for file in files(package, root)
        for node in nodes(file)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno
    ]


def main(arguments: Sequence[str]) -> None:
    """Print the figures."""
    root = Path(arguments[0]).resolve() if arguments else ROOT
    for package in PACKAGES:
        lines = [lines for lines, _ in function_lengths(package, root)]
        print(
            f"{package}: {len(rooms(package, root))} rooms, {len(arrows(package, root))} arrows, "
            f"{len(lines)} functions: median {statistics.median(lines):.0f} lines, "
            f"95th percentile {statistics.quantiles(lines, n=20)[-1]:.0f}, longest {max(lines)}"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
