"""Files that a person asks for: what cannot be written is refused before any work."""

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
"""What is typed, the option that names a file, and the name of one."""


@pytest.fixture(autouse=True)
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a job, in which everything is typed."""
    (tmp_path / "prompts.txt").write_text("a red fox\n")
    (tmp_path / "job.yaml").write_text("manifest: prompts.txt\noutput: runs\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(arguments: list[str], desk: Path) -> str:
    """The one line of a command that was refused, and had done nothing."""
    before = sorted(desk.rglob("*"))
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert sorted(desk.rglob("*")) == before
    (line,) = result.stderr.splitlines()
    return line


@pytest.mark.parametrize(("typed", "option", "name"), COMMANDS)
def test_a_file_in_a_folder_that_is_not_there_is_refused(
    desk: Path, typed: list[str], option: str, name: str
) -> None:
    line = refusal([*typed, option, f"nowhere/{name}"], desk)
    assert line == f"error: {option} nowhere/{name}: nowhere is no folder"


def test_a_trace_that_is_a_folder_is_refused(desk: Path) -> None:
    line = refusal(["run", "job.yaml", "--trace", str(desk)], desk)
    assert line == f"error: --trace {desk}: a folder, where a file is to be written"


def test_a_trace_with_too_long_a_name_is_refused(desk: Path) -> None:
    path = f"{'x' * 300}/trace.json"
    line = refusal(["run", "job.yaml", "--trace", path], desk)
    assert line.startswith(f"error: --trace {path}: ")


def test_an_animation_that_cannot_be_written_is_refused_with_its_strip(desk: Path) -> None:
    (desk / "fox.gif").mkdir()
    line = refusal(["steps", "a red fox", "-o", "fox.png"], desk)
    assert line == "error: -o fox.gif: a folder, where a file is to be written"


def test_a_folder_is_asked_for_new_files_and_a_file_for_itself(
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
