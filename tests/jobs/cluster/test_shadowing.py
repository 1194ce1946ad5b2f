"""Files in the way of a library are named before they are imported, and never by workers."""

import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

import pytest

import nightpress
from nightpress.jobs.cluster.import_path import worker_imports
from nightpress.jobs.cluster.shadowing import LIBRARIES, require_libraries
from nightpress.jobs.errors import ClusterError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that comes first on Python's path."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["torch", "diffusers", "PIL", "nightpress", "s3fs"])
@pytest.mark.parametrize("form", ["{}.py", "{}/__init__.py"])
def test_a_module_that_would_be_imported_instead_of_a_library_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, form: str
) -> None:
    assert name in LIBRARIES
    monkeypatch.delitem(sys.modules, name, raising=False)
    file = folder / form.format(name)
    file.parent.mkdir(exist_ok=True)
    file.touch()
    with pytest.raises(ClusterError, match="in the way") as caught:
        require_libraries()
    assert str(caught.value).startswith(
        f"{file} is in the way: Python imports it instead of {name}"
    )
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["tqdm", "regex", "packaging", "typing_extensions", "aiohttp"])
def test_what_the_libraries_need_is_looked_for_too(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    assert name not in LIBRARIES
    monkeypatch.delitem(sys.modules, name, raising=False)
    (folder / f"{name}.py").touch()
    with pytest.raises(ClusterError, match=rf"{name}\.py is in the way"):
        require_libraries()


@pytest.mark.parametrize("is_imported", [True, False])
def test_a_standard_module_is_looked_for_before_anything_imports_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, is_imported: bool
) -> None:
    (folder / "colorsys.py").write_text("mine = True\n")
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    if is_imported:
        mine: ModuleType = __import__("colorsys")
        assert mine.mine
    with pytest.raises(ClusterError, match=r"colorsys\.py is in the way"):
        require_libraries()
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)


def test_what_does_no_harm_is_left_alone(folder: Path) -> None:
    for name in ("test.py", "tests.py", "jobs.py", "pipelines.py", "torch_helpers.py", "json.py"):
        (folder / name).touch()
    for name in ("time.py", "turtle.py", "queue.txt"):  # built in, never imported, no module
        (folder / name).touch()
    (folder / "diffusers").mkdir()  # without modules
    require_libraries()
    (folder / "torch.py").touch()
    (folder / "torch-2.13.0.dist-info").mkdir()  # libraries are installed in this folder
    require_libraries()


def test_the_folder_above_the_standard_library_and_that_of_nightpress_do_no_harm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    standard = Path(sysconfig.get_path("stdlib"))
    for folder in (standard, standard.parent, Path(nightpress.__path__[0]).parent):
        monkeypatch.syspath_prepend(folder)
    require_libraries()


def test_a_library_that_is_loaded_already_is_not_in_danger(folder: Path) -> None:
    (folder / "yaml.py").touch()
    assert "yaml" in sys.modules
    require_libraries()


def test_workers_import_from_no_folder_of_the_driver() -> None:
    config = worker_imports()
    config._py_driver_sys_path.extend(["/home/someone/project"])
    assert "/home/someone/project" not in config._py_driver_sys_path


@pytest.mark.parametrize("name", ["torch", "json", "queue", "click", "typing_extensions", "uuid"])
def test_the_command_says_what_is_in_the_way_in_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / f"{name}.py").touch()
    done = subprocess.run(
        [sys.executable, "-m", "nightpress", "status", "runs/night"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {tmp_path / name}.py is in the way: ")
