"""The three packages import in one direction, and each stays free of what it must not know."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

FORBIDDEN = {
    "diffusion_core": {"ray", "click", "pyarrow", "fsspec", "s3fs", "pipelines", "jobs", "tests"},
    "pipelines": {"ray", "click", "jobs", "tests"},
    "jobs": {"tests"},
}

FSSPEC_ROOMS = {"pipelines/storage"}


def imported_names(path: Path) -> set[str]:
    """The top-level modules that a file imports, wherever in it the import stands."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", FORBIDDEN)
def test_a_package_never_imports_what_stands_above_it(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    wrong = {
        str(path.relative_to(ROOT)): sorted(found)
        for path in files
        if (found := imported_names(path) & FORBIDDEN[package])
    }
    assert wrong == {}


def test_fsspec_is_touched_in_one_room_only() -> None:
    users = {
        path.relative_to(ROOT).as_posix()
        for package in FORBIDDEN
        for path in (ROOT / package).rglob("*.py")
        if imported_names(path) & {"fsspec", "s3fs"}
    }
    assert users
    assert all(user.startswith(tuple(FSSPEC_ROOMS)) for user in users), users


@pytest.mark.parametrize("module", ["pipelines", "pipelines.spec", "jobs", "jobs.cli"])
def test_what_a_person_waits_for_imports_no_framework(module: str) -> None:
    heavy = ("torch", "diffusers", "transformers", "ray", "pyarrow")
    code = f"import sys, {module}; print([m for m in {heavy!r} if m in sys.modules])"
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert printed.strip() == "[]"
