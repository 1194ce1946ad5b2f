"""Imports have one direction, between packages and inside each; files and functions are short."""

import subprocess
import sys
from collections.abc import Sequence
from graphlib import TopologicalSorter

import pytest
import structure
from structure import PACKAGES, ROOT

FORBIDDEN = {
    "diffusion_core": {"ray", "click", "pyarrow", "fsspec", "s3fs"},
    "pipelines": {"ray", "click"},
    "jobs": set(),
}
"""What a package never imports, beside the packages above it and the tests."""

LAYERS = {
    "diffusion_core": [
        "training",
        "inspection",
        "tuning",
        "sampling",
        "conditioning",
        "models",
        "acceleration",
        "builtin",
        "theory",
        "patching",
        "errors",
        "silence_libraries",
        "cache_folder",
    ],
    "pipelines": [
        "training",
        "export",
        "review",
        "shards",
        "reporting",
        "run_directory",
        "planning",
        "scoring",
        "image_files",
        "manifest",
        "campaign",
        "inputs",
        "models",
        "job",
        "storage",
        "records",
        "hashing",
        "errors",
        "formatting",
    ],
    "jobs": [
        "cli",
        "commands",
        "reviews",
        "schedules",
        "runs",
        "training",
        "training_worker",
        "submission",
        "tuning",
        "steps",
        "dispatch",
        "cluster",
        "progress",
        "errors",
        "signals",
    ],
}
"""The rooms of each package, from the top: a room imports only rooms below it."""

MOST_ROOMS = {"diffusion_core": 13, "pipelines": 19, "jobs": 15}
MOST_LINES_OF_A_FILE = 400
MOST_LINES_OF_A_FUNCTION = 40


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_never_imports_what_stands_above_it(package: str) -> None:
    above = set(PACKAGES[PACKAGES.index(package) + 1 :]) | {"tests", "support"}
    wrong = {
        f"{file.relative_to(ROOT)}: {name}"
        for file in structure.files(package)
        for name in structure.imported(file)
        if name.removeprefix("nightpress.").split(".")[0] in above | FORBIDDEN[package]
    }
    assert wrong == set()


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_are_imported_under_their_one_installed_name(package: str) -> None:
    bare = {
        f"{file.relative_to(ROOT)}: {name}"
        for file in structure.files(package)
        for name in structure.imported(file)
        if name.split(".")[0] in PACKAGES
    }
    assert bare == set()


@pytest.mark.parametrize("package", PACKAGES)
def test_every_room_has_a_layer(package: str) -> None:
    assert structure.rooms(package) == set(LAYERS[package])
    assert len(LAYERS[package]) <= MOST_ROOMS[package]


@pytest.mark.parametrize("package", PACKAGES)
def test_a_room_imports_only_rooms_below_it(package: str) -> None:
    layers = LAYERS[package]
    upward = {
        f"{each.file} imports {'.'.join(each.module)}"
        for each in structure.imports(package)
        if each.room
        and each.module[0] == package
        and each.module[1:2]
        and each.module[1] in layers
        and layers.index(each.module[1]) < layers.index(each.room)
    }
    assert upward == set()


@pytest.mark.parametrize("package", PACKAGES)
def test_no_files_import_each_other_in_a_circle(package: str) -> None:
    graph: dict[str, set[str]] = {}
    modules = {
        file.relative_to(ROOT).as_posix().removesuffix(".py").removesuffix("/__init__"): file
        for file in structure.files(package)
    }
    for each in structure.imports(package):
        importer = each.file.removesuffix(".py").removesuffix("/__init__")
        if each.file.endswith("__init__.py"):
            continue  # what a package offers at its door is imported from its own rooms
        for length in (len(each.module), len(each.module) - 1):
            target = "/".join(each.module[:length])
            if target in modules and not modules[target].name.startswith("__init__"):
                graph.setdefault(importer, set()).add(target)
                break
    assert list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("package", PACKAGES)
def test_files_and_functions_are_short_enough_to_read(package: str) -> None:
    long_files = {
        f"{file.relative_to(ROOT)}: {lines} lines"
        for file in structure.files(package)
        if (lines := len(file.read_text(encoding="utf-8").splitlines())) > MOST_LINES_OF_A_FILE
    }
    long_functions = {
        f"{where}: {lines} lines"
        for lines, where in structure.function_lengths(package)
        if lines > MOST_LINES_OF_A_FUNCTION
    }
    assert long_files | long_functions == set()


def test_fsspec_is_touched_in_one_folder_only() -> None:
    users = {
        file.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for file in structure.files(package)
        for name in structure.imported(file)
        if name.split(".")[0] in {"fsspec", "s3fs"}
    }
    assert users
    assert all(user.startswith("pipelines/storage/") for user in users), users


IMPORTED_AT_ONCE = (
    "nightpress",
    "nightpress.pipelines",
    "nightpress.pipelines.job.spec",
    "nightpress.jobs",
    "nightpress.jobs.cli",
)
FRAMEWORKS = ("torch", "diffusers", "transformers", "ray", "pyarrow")
AT_ONCE = tuple(
    f"nightpress.jobs.commands.{name}"
    for name in ("status", "runs", "select", "deliver", "plan", "run")
)
"""Commands that only read what is stored or copy it, or may find nothing to make: until then none
needs torch or Ray."""
UNUSED = {
    "status": (
        "rich",
        "jinja2",
        "PIL.PngImagePlugin",
        "nightpress.jobs.progress",
        "nightpress.pipelines.campaign",
        "nightpress.pipelines.manifest.files",
        "nightpress.pipelines.planning.checking",
        "nightpress.pipelines.image_files.encoding",
    ),
    "plan": (
        "jinja2",
        "nightpress.jobs.runs.status",
        "nightpress.pipelines.campaign.campaign",
        "nightpress.pipelines.training.spec",
        "nightpress.pipelines.reporting.report",
        "nightpress.pipelines.image_files.encoding",
    ),
    "run": (
        "jinja2",
        "nightpress.pipelines.campaign.campaign",
        "nightpress.pipelines.training.spec",
    ),
}
"""What a command that answers at once has no use for, beside the frameworks; each import of these
costs more than all that the command does."""
DRIVER = ("nightpress.jobs.dispatch.dispatcher", "nightpress.jobs.commands.export")
"""What drives actors and tasks: only actors have tensors."""


def test_what_a_person_waits_for_imports_no_framework() -> None:
    assert imported_of(
        *((module, FRAMEWORKS) for module in IMPORTED_AT_ONCE),
        *((module, FRAMEWORKS[:4]) for module in AT_ONCE),
        *((module, FRAMEWORKS[:3]) for module in DRIVER),
    ) == ["[]"] * len((*IMPORTED_AT_ONCE, *AT_ONCE, *DRIVER))


@pytest.mark.parametrize("commands", [("status",), ("plan", "run")], ids=" ".join)
def test_a_command_that_answers_at_once_imports_nothing_it_has_no_use_for(
    commands: Sequence[str],
) -> None:
    unused = ((f"nightpress.jobs.commands.{name}", UNUSED[name]) for name in commands)
    assert imported_of(*unused) == ["[]"] * len(commands)


def imported_of(*modules: tuple[str, Sequence[str]]) -> list[str]:
    """Import modules in a new process, one after the other: which of its names are there then."""
    code = (
        "import importlib, sys\n"
        f"for module, names in {modules}:\n"
        "    importlib.import_module(module)\n"
        "    print([(module, name) for name in names if name in sys.modules])\n"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    return printed.splitlines()
