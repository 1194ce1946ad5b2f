"""Editing job files: they hold the intended job, and everything else stays as written."""

import itertools
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.job import edit
from nightpress.pipelines.job.edit import CannotEdit, edit_section, on_one_line, rewrite_model
from nightpress.pipelines.job.spec import RunSpec

PLAIN = "manifest: a.txt\noutput: out\n"

STYLES = {
    "no model": PLAIN,
    "no end of line": PLAIN.rstrip("\n"),
    "a name": "manifest: a.txt  # rows\nmodel: builtin   # ours\n# and\noutput: out\n",
    "a quoted name": 'manifest: a.txt\nmodel: "builtin"\noutput: out',
    "a name below": "manifest: a.txt\nmodel:\n  builtin\noutput: out\n",
    "a block": (
        "model:\n    source: builtin  # ours\n\n    # why\n    dtype: float32 # slow\n    # tail\n"
        "\nmanifest: a.txt\noutput: out\n"
    ),
    "a block with speed": (
        "manifest: a.txt\nmodel:\n  speed:   # how\n    compile: full # slow to begin\n"
        "    # between\n    channels_last: true  # U-Net\n    deep_features:\n      interval: 3\n"
        "      # deep\n      branch: 1\n    # end\n  source: builtin\noutput: out\n"
    ),
    "a block with speed in brackets": (
        "manifest: a.txt\nmodel:\n  source: builtin\n  speed: {compile: full, }  # fast\n"
        "output: out\n"
    ),
    "brackets": "manifest: a.txt\nmodel: {source: 'builtin', dtype: auto}  # ours\noutput: out\n",
    "brackets over lines": (
        "manifest: a.txt\nmodel: {source: builtin,  # ours\n        loras: [b],   # brand\n"
        "       }\noutput: out\n"
    ),
    "empty brackets": "manifest: a.txt\nmodel: {}\noutput: out\n",
    "all in brackets": "{manifest: a.txt, output: out, model: builtin}\n",
    "all in brackets, no model": "# job\n{manifest: a.txt,\n output: out}\n",
    "ends of lines of Windows": "manifest: a.txt\r\nmodel: builtin # ours\r\noutput: out\r\n",
    "comments at the end": PLAIN + "# model:\n#   dtype: bfloat16\n",
    "an explicit beginning": "---\n" + PLAIN,
    "letters of others": "manifest: ä/猫.txt  # ü\nmodel: builtin\noutput: out\n",
}

CHANGES: list[dict[str, Any]] = [
    {"dtype": "bfloat16"},
    {"speed": {"channels_last": True}},
    {"dtype": "bfloat16", "speed": {"deep_features": {"interval": 3}, "channels_last": True}},
    {"speed": {"attention_backend": "_native_math", "force_upcast": False}},
    {"dtype": "auto", "speed": {}},
]


def meant(text: str, changes: dict[str, Any]) -> dict[str, Any]:
    values = yaml.safe_load(text)
    model = values.get("model", {})
    model = {"source": model} if isinstance(model, str) else model
    return {**values, "model": model | changes}


def comments(text: str) -> list[str]:
    return [line.partition("#")[2].strip() for line in text.splitlines() if "#" in line]


CASES = list(itertools.product(STYLES, CHANGES))


@pytest.mark.parametrize(("style", "changes"), CASES)
def test_an_edited_file_holds_exactly_the_intended_job(style: str, changes: dict[str, Any]) -> None:
    text = STYLES[style]
    assert yaml.safe_load(edit_section(text, "model", changes)) == meant(text, changes)


@pytest.mark.parametrize(("style", "changes"), CASES)
def test_the_same_change_again_changes_nothing(style: str, changes: dict[str, Any]) -> None:
    once = edit_section(STYLES[style], "model", changes)
    assert edit_section(once, "model", changes) == once


@pytest.mark.parametrize(("style", "changes"), CASES)
def test_comments_stay_except_on_lines_that_are_removed(
    style: str, changes: dict[str, Any]
) -> None:
    before, after = STYLES[style], edit_section(STYLES[style], "model", changes)
    gone = {"slow to begin", "U-Net", "deep"} if "speed" in changes else set()
    assert set(comments(before)) - gone <= set(comments(after))


@pytest.mark.parametrize(("style", "changes"), CASES)
def test_unrelated_lines_stay_in_order(style: str, changes: dict[str, Any]) -> None:
    kept = [line for line in STYLES[style].splitlines() if line.startswith(("manifest", "output"))]
    after = edit_section(STYLES[style], "model", changes).splitlines()
    assert [line for line in after if line.startswith(("manifest", "output"))] == kept


def test_windows_line_endings_are_kept() -> None:
    after = edit_section(STYLES["ends of lines of Windows"], "model", CHANGES[2])
    assert after.count("\n") == after.count("\r\n") == 6


def test_a_model_string_becomes_the_source_and_keeps_its_comment() -> None:
    after = edit_section("model: builtin  # ours\noutput: out\n", "model", {"dtype": "bfloat16"})
    assert after == "model:\n  source: builtin  # ours\n  dtype: bfloat16\noutput: out\n"


def test_new_keys_are_appended() -> None:
    text = "model:\n  source: builtin\n  # tail\n\noutput: out\n"
    after = edit_section(text, "model", {"speed": {"channels_last": True}})
    lines = "model:\n  source: builtin\n  speed: {channels_last: true}\n  # tail\n\noutput: out\n"
    assert after == lines


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing\n",
        "- a\n- b\n",
        "a: [\n",
        "model: >-\n  builtin\n",
        "model: two\n  lines\n",
        "model:  # ours\n  builtin\n",
        "columns: &c {a: b}\nmodel: *c\n",
        "model:\n  speed: {compile: full,  # slow\n          channels_last: true}\n",
        "model:\n  dtype: |\n    auto\n",
    ],
)
def test_text_that_is_not_written_plainly_is_not_edited(text: str) -> None:
    with pytest.raises(CannotEdit):
        edit_section(text, "model", {"dtype": "bfloat16", "speed": {"channels_last": True}})


@pytest.mark.parametrize("value", ["full", True, 0.5, {"a": {"b": [1, 2]}}, "yes", "a: b", {}])
def test_a_value_on_one_line_is_read_back_as_the_value(value: object) -> None:
    text = on_one_line(value)
    assert "\n" not in text
    assert yaml.safe_load(text) == value


@pytest.fixture
def job(tmp_path: Path) -> Path:
    path = tmp_path / "night.yaml"
    path.write_text("manifest: a.txt\noutput: out\nmodel: builtin  # ours\n")
    return path


def rewritten(path: Path, changes: dict[str, Any]) -> bool:
    before = RunSpec.from_file(path)
    values = before.as_dict()
    after = RunSpec.from_dict(values | {"model": values["model"] | changes})
    return rewrite_model(path, before, after, changes)


def test_a_job_file_is_replaced_in_one_step_and_keeps_its_mode(job: Path) -> None:
    job.chmod(0o640)
    assert rewritten(job, {"dtype": "bfloat16"})
    assert RunSpec.from_file(job).model.dtype == "bfloat16"
    assert RunSpec.from_file(job).name == "night"
    assert job.stat().st_mode & 0o777 == 0o640
    assert list(job.parent.iterdir()) == [job]


def test_a_symbolic_link_to_a_job_file_stays_a_link(job: Path, tmp_path: Path) -> None:
    link = tmp_path / "tonight.yaml"
    link.symlink_to(job)
    assert rewritten(link, {"dtype": "float32"})
    assert link.is_symlink()
    assert RunSpec.from_file(job).model.dtype == "float32"


def test_a_file_that_changed_in_the_meantime_is_left_alone(job: Path) -> None:
    before = RunSpec.from_file(job)
    after = before.model_copy(
        update={"model": before.model.model_copy(update={"dtype": "bfloat16"})}
    )
    job.write_text("manifest: b.txt\noutput: out\nmodel: builtin\n")
    assert not rewrite_model(job, before, after, {"dtype": "bfloat16"})
    assert "b.txt" in job.read_text()
    assert "bfloat16" not in job.read_text()
    assert list(job.parent.iterdir()) == [job]


@pytest.mark.parametrize(
    "text",
    [
        "manifest: a.txt\noutput: out\nmodel: >-\n  builtin\n",
        "manifest: a.txt\noutput: out\n...\n",
        "manifest: a.txt\noutput: &o out\nmodel: {source: builtin, dtype: &d auto, variant: *d}\n",
    ],
)
def test_a_file_that_cannot_be_edited_safely_is_left_alone(job: Path, text: str) -> None:
    job.write_text(text)
    assert not rewritten(job, {"dtype": "bfloat16"})
    assert job.read_text() == text
    assert list(job.parent.iterdir()) == [job]


def test_a_full_disk_leaves_the_file_unchanged(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = job.read_text()

    def full(*paths: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(edit.os, "replace", full)
    with pytest.raises(SpecError, match="No space left"):
        rewritten(job, {"dtype": "bfloat16"})
    assert job.read_text() == text
    assert list(job.parent.iterdir()) == [job]
