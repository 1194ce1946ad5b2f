"""`nightpress import`: what it prints, its exit codes, and that nightpress expand goes on."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from nightpress.jobs.cli import command


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(command, ["import", *arguments])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    wild = tmp_path / "wild"
    wild.mkdir()
    (wild / "colours.txt").write_text("red\n<random:light, dark> blue\n{a}\n<lora:b>\n")
    (wild / "notes.md").write_text("x")
    return wild


def test_entries_without_a_counterpart_end_with_2_and_nothing_is_written(
    folder: Path, tmp_path: Path
) -> None:
    result = invoke(str(folder), "-o", str(tmp_path / "out"))
    assert result.exit_code == 2
    assert result.stderr == (
        f"error: {folder}/colours.txt, line 4, character 1: <lora> asks SwarmUI for more than "
        "text; there is no counterpart\n"
        "nothing was written; --leave-out leaves these entries out\n"
    )
    assert not (tmp_path / "out").exists()


def test_the_import_says_what_became_of_every_entry(folder: Path, tmp_path: Path) -> None:
    (folder / "more.txt").write_text("{a|b}\n")
    out = tmp_path / "out"
    result = invoke(str(folder), "-o", str(out), "--leave-out")
    assert result.exit_code == 0, result.output
    assert result.stdout.replace(f"{tmp_path}/", "") == (
        "kept as text:\n"
        "  wild/more.txt, line 1, character 1: this has a meaning in sd-dynamic-prompts, but is "
        "text in SwarmUI\n"
        "left out:\n"
        "  wild/colours.txt, line 4, character 1: <lora> asks SwarmUI for more than text; there "
        "is no counterpart\n"
        "not read:\n"
        "  wild/notes.md: not one of .txt .yaml .yml .json\n"
        "read as SwarmUI: 2 lists, 4 entries, 1 left out\n"
        "wrote out/lists/ and out/wild.campaign.yaml; next: nightpress expand "
        "out/wild.campaign.yaml\n"
    )
    expanded = CliRunner().invoke(command, ["expand", str(out / "wild.campaign.yaml"), "--count"])
    assert expanded.exit_code == 0, expanded.output


def test_json_has_every_finding(folder: Path, tmp_path: Path) -> None:
    result = invoke(str(folder), "-o", str(tmp_path / "out"), "--leave-out", "--json")
    values = json.loads(result.stdout)
    assert (values["tool"], values["num_lists"], values["num_left_out"]) == ("swarmui", 1, 1)
    assert [(each["kind"], each["line"]) for each in values["findings"]] == [("not converted", 4)]
    assert values["exit_code"] == 0


def test_json_has_the_problems_that_ended_the_import(folder: Path, tmp_path: Path) -> None:
    result = invoke(str(folder), "-o", str(tmp_path / "out"), "--json")
    error = json.loads(result.stdout)["error"]
    assert error["type"] == "NotConverted"
    assert [(each["line"], each["character"]) for each in error["problems"]] == [(4, 1)]


def test_the_other_syntax_can_be_chosen(tmp_path: Path) -> None:
    (tmp_path / "wild").mkdir()
    (tmp_path / "wild/a.txt").write_text("{a|b} ~~a2~~ <random:x>\n")
    (tmp_path / "wild/a2.txt").write_text("x\n")
    arguments = ("--from", "dynamic-prompts", "--wrap", "~~")
    result = invoke(str(tmp_path / "wild"), "-o", str(tmp_path / "out"), *arguments)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out/lists/a.txt").read_text() == "{a|b} __a2__ \\<random:x>\n"
    assert "this has a meaning in SwarmUI, but is text in sd-dynamic-prompts" in result.stdout


def test_an_empty_wrap_is_refused(folder: Path, tmp_path: Path) -> None:
    result = invoke(str(folder), "-o", str(tmp_path / "out"), "--wrap", "")
    assert result.exit_code == 2
    assert "--wrap needs a text such as __" in result.output
