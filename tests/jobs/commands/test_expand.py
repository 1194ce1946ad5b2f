"""`nightpress expand`."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support.campaigns import write_campaign

from nightpress.jobs.cli import command

TEXT = """
    prompt: "{film|studio} photo of ${n} by ${who}"
    negative_prompt: "text"
    axes: {n: {count: 40}, who: [ann, bob]}
    rules: [{forbid: {n: 3, who: ann}}, {forbid: {who: bob, n: [4, 5]}}]
"""


def expand(*arguments: str) -> Result:
    return CliRunner().invoke(command, ["expand", *arguments])


def test_rows_are_shown_with_what_was_drawn_marked(tmp_path: Path) -> None:
    shown = expand(write_campaign(tmp_path, TEXT), "--show", "2")
    assert shown.exit_code == 0
    assert shown.output.splitlines()[0] == "1-ann"
    assert "] photo of 1 by ann" in shown.output
    assert "negative_prompt" not in shown.output
    assert shown.output.splitlines()[-1] == "... 2 of 77 rows"


def test_rows_are_counted(tmp_path: Path) -> None:
    counted = expand(write_campaign(tmp_path, TEXT), "--count")
    assert counted.output.split("\n")[:-1] == [
        "axis n            40 values",
        "axis who          2 values",
        "combinations      80",
        "allowed by rules  77",
        "texts of prompt   2 for each combination",
        "rows              77",
    ]


def test_a_quadrillion_is_counted_and_not_expanded(tmp_path: Path) -> None:
    axes = "\n".join(f"  a{n}: {{count: 1000}}" for n in range(5))
    names = " ".join(f"${{a{n}}}" for n in range(5))
    path = write_campaign(tmp_path, f'prompt: "{names}"\naxes:\n{axes}\n')
    assert "rows          1,000,000,000,000,000, more than" in expand(path, "--count").output
    refused = expand(path, "--show", "3")
    assert refused.exit_code == 2
    assert "line 3" in refused.output


def test_rows_are_written_once(tmp_path: Path) -> None:
    path, output = write_campaign(tmp_path, TEXT), str(tmp_path / "x.csv")
    assert expand(path, "-o", output).output == f"wrote 77 rows to {output}\n"
    again = expand(path, "-o", output)
    assert (again.exit_code, "is there already" in again.output) == (2, True)


def test_a_difference_says_what_comes_and_goes(tmp_path: Path) -> None:
    old = str(tmp_path / "x.parquet")
    expand(write_campaign(tmp_path, TEXT), "-o", old)
    shorter = write_campaign(tmp_path, TEXT.replace("count: 40", "count: 39"))
    difference = expand(shorter, "--diff", old)
    lines = difference.output.splitlines()
    assert lines[:3] == ["come     0", "go       2: 40-ann, 40-bob", "change   0"]
    values = json.loads(expand(shorter, "--diff", old, "--json").output)
    assert (values["num_went"], values["went"]) == (2, ["40-ann", "40-bob"])


@pytest.mark.parametrize("option", [["--count"], ["--show", "1"], []])
def test_every_form_has_json(tmp_path: Path, option: list[str]) -> None:
    values = json.loads(expand(write_campaign(tmp_path, TEXT), *option, "--json").output)
    assert values["num_rows"] == 77


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--count", "--show", "3"], "give one of"),
        (["-o", "x.txt"], ".parquet, .csv, .jsonl"),
        (["--show", "0"], "1<=x<=10000"),
    ],
)
def test_wrong_usage_is_refused(tmp_path: Path, arguments: list[str], message: str) -> None:
    refused = expand(write_campaign(tmp_path, TEXT), *arguments)
    assert (refused.exit_code, message in refused.output) == (2, True)


def test_other_manifests_are_no_campaigns(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("prompt\na\n")
    refused = expand(str(tmp_path / "x.csv"))
    assert refused.exit_code == 2
    assert "must end in .campaign.yaml" in refused.output


def test_an_empty_draw_is_marked_and_the_text_is_that_of_the_row(tmp_path: Path) -> None:
    path = write_campaign(tmp_path, 'prompt: "{0::a|} cat {0::b|}"\n')
    assert expand(path).output.splitlines()[1] == "  []cat[]"
    (row,) = json.loads(expand(path, "--json").output)["rows"]
    assert row["prompt"] == {"text": "cat", "drawn": ["", ""]}
