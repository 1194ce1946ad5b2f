"""Output files: a path that cannot be written is refused before any work."""

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from nightpress.jobs.cli import command
from nightpress.jobs.commands.common import require_writable
from nightpress.pipelines.errors import StoreDenied

COMMANDS = [
    (["run", "job.yaml"], "--trace", "trace.json"),
    (["preview", "job.yaml"], "-o", "sheet.png"),
    (["tune", "job.yaml"], "-o", "pairs.html"),
    (["steps", "a red fox"], "-o", "fox.png"),
    (["reproduce", "image.png"], "--out", "again.png"),
]
"""Arguments, the option that names an output file, and a file name."""


@pytest.fixture(autouse=True)
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a job in it."""
    (tmp_path / "prompts.txt").write_text("a red fox\n")
    (tmp_path / "job.yaml").write_text("manifest: prompts.txt\noutput: runs\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(arguments: list[str], desk: Path) -> str:
    """The one-line error of a command that wrote nothing."""
    before = sorted(desk.rglob("*"))
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert sorted(desk.rglob("*")) == before
    (line,) = result.stderr.splitlines()
    return line


@pytest.mark.parametrize(("typed", "option", "name"), COMMANDS)
def test_a_file_in_a_missing_folder_is_refused(
    desk: Path, typed: list[str], option: str, name: str
) -> None:
    line = refusal([*typed, option, f"nowhere/{name}"], desk)
    assert line == f"error: {option} nowhere/{name}: nowhere is not a folder"


def test_a_trace_that_is_a_folder_is_refused(desk: Path) -> None:
    line = refusal(["run", "job.yaml", "--trace", str(desk)], desk)
    assert line == f"error: --trace {desk}: this is a folder, not a file"


def test_a_trace_with_too_long_a_name_is_refused(desk: Path) -> None:
    path = f"{'x' * 300}/trace.json"
    line = refusal(["run", "job.yaml", "--trace", path], desk)
    assert line.startswith(f"error: --trace {path}: ")


def test_an_animation_that_cannot_be_written_is_refused_with_its_strip(desk: Path) -> None:
    (desk / "fox.gif").mkdir()
    line = refusal(["steps", "a red fox", "-o", "fox.png"], desk)
    assert line == "error: -o fox.gif: this is a folder, not a file"


def test_permission_is_checked_on_the_folder_of_a_new_file_and_on_an_existing_file(
    desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = desk / "there.png"
    there.touch()
    monkeypatch.setattr(os, "access", lambda path, mode: path == there)
    require_writable("--out", there)
    with pytest.raises(StoreDenied, match=r"^--out .*new\.png: permission denied$"):
        require_writable("--out", desk / "new.png")
    monkeypatch.setattr(os, "access", lambda path, mode: path == desk)
    require_writable("--out", desk / "new.png")
    with pytest.raises(StoreDenied, match=r"^--out .*there\.png: permission denied$"):
        require_writable("--out", there)
