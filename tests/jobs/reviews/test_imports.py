"""Marks of a page without a server are stored once, and only for the run that they are of."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from support.made_runs import begin

from nightpress.jobs import cli
from nightpress.jobs.reviews.imports import import_marks
from nightpress.pipelines.errors import MarksError
from nightpress.pipelines.run_directory.marks import MAX_MARKS, Mark, MarksObject, store_marks
from nightpress.pipelines.run_directory.marks_file import MARKS_FILE
from nightpress.pipelines.run_directory.reader import Run


def saved(
    run: Run, folder: Path, marks: list[dict[str, Any]] | None = None, /, **changes: Any
) -> str:
    """A file as the page saves it."""
    values = {
        "format": 1,
        "run": run.record.fingerprint_at_first,
        "name": "run",
        "reviewer": "anna",
        "session": "20270115T080000-1f0c2b7a",
        "exported_at": "2027-01-15T08:00:00Z",
        "marks": [mark_of(run)] if marks is None else marks,
    }
    path = folder / "marks.json"
    path.write_text(json.dumps(values | changes))
    return str(path)


def mark_of(run: Run, number: int = 1, **changes: Any) -> dict[str, Any]:
    image_id = f"{number}_00"
    values = {"image_id": image_id, "sha256": run.hashes()[image_id], "field": "flag"}
    return {**values, "value": "pick", "counter": 1, **changes}


def values_of(run: Run) -> dict[tuple[str, str], str]:
    rows = run.marks.to_pylist()
    return {(row["image_id"], row["field"]): row["value"] for row in rows}


def test_marks_of_a_file_are_stored_once(run: Run, tmp_path: Path) -> None:
    marks = [mark_of(run, 1), mark_of(run, 2, field="comment", value="too dark")]
    file = saved(run, tmp_path, marks)
    first = import_marks(run, file)
    assert (first.reviewer, first.num_marks, first.num_stored) == ("anna", 2, 2)
    objects = run.store.list("review/marks")
    assert len(objects) == 1
    again = import_marks(run, file)
    assert (again.num_marks, again.num_stored) == (2, 0)
    assert run.store.list("review/marks") == objects
    assert values_of(run) == {("1_00", "flag"): "pick", ("2_00", "comment"): "too dark"}
    assert run.store.size(MARKS_FILE)


def test_only_what_is_new_is_stored_of_a_later_file(run: Run, tmp_path: Path) -> None:
    import_marks(run, saved(run, tmp_path))
    later = mark_of(run, value="reject", counter=5)
    store_marks(
        run.store,
        MarksObject(run.record.fingerprint_at_first, "anna", "tab", 0, (Mark(**later),)),
    )
    found = import_marks(run, saved(run, tmp_path, [mark_of(run), mark_of(run, 3)]))
    assert (found.num_marks, found.num_stored) == (2, 1)
    assert values_of(run) == {("1_00", "flag"): "reject", ("3_00", "flag"): "pick"}


def test_a_file_of_many_marks_becomes_several_objects(run: Run, tmp_path: Path) -> None:
    sha256, comment = run.hashes()["1_00"], mark_of(run, field="comment")
    marks = [
        {**comment, "value": f"note {n}", "counter": n + 1, "sha256": f"{n:064x}"}
        for n in range(MAX_MARKS + 1)
    ]
    found = import_marks(run, saved(run, tmp_path, [*marks, mark_of(run)]))
    assert (found.num_stored, found.num_changed) == (MAX_MARKS + 2, MAX_MARKS + 1)
    assert len(run.store.list("review/marks")) == 2
    assert sum(row["current"] for row in run.marks.to_pylist()) == 1
    assert sha256 in run.marks.column("sha256").to_pylist()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"run": "b" * 64}, r"marks.json: these are marks of another run \(fingerprint bbbb"),
        ({"run": None}, r"run: must be the fingerprint of the run, not None"),
        ({"format": 2}, r"it has format 2; this nightpress reads format 1"),
        ({"format": None}, r"not a file with marks: it has no format and no list marks"),
        ({"marks": {}}, r"not a file with marks"),
        ({"marks": [{"image_id": "1_00"}]}, r"mark 1: a mark has exactly the keys"),
        ({"reviewer": "../anna"}, r"a reviewer's name has 1 to 64 letters"),
        ({"reviewer": 7}, r"reviewer: must be a text"),
    ],
)
def test_a_file_that_is_wrong_is_refused_whole(
    run: Run, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(MarksError, match=message):
        import_marks(run, saved(run, tmp_path, **changes))
    assert run.store.list("review") == {}


def test_marks_on_images_that_the_run_does_not_have_are_refused(run: Run, tmp_path: Path) -> None:
    unknown = mark_of(run) | {"image_id": "99_00"}
    with pytest.raises(MarksError, match="it marks 1 image that the run does not have, such as"):
        import_marks(run, saved(run, tmp_path, [mark_of(run), unknown]))
    assert run.store.list("review") == {}


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1]", b"<html>"])
def test_what_is_no_json_is_refused(run: Run, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "marks.json"
    path.write_bytes(content)
    with pytest.raises(MarksError, match=r"marks.json: not "):
        import_marks(run, str(path))


def test_the_command_says_what_became_of_the_marks(run: Run, tmp_path: Path) -> None:
    stale = mark_of(run, 2) | {"sha256": "e" * 64}
    file = saved(run, tmp_path, [mark_of(run), stale])
    arguments = ["review", run.url, "--import", file]
    result = CliRunner().invoke(cli.command, arguments)
    assert result.exit_code == 0
    assert result.output.splitlines() == [
        f"2 marks of anna: 2 stored in {run.url}",
        "1 mark on images that were made again since: they are not current",
    ]
    again = CliRunner().invoke(cli.command, arguments)
    assert "2 marks known already, or replaced since" in again.output
    other = begin(str(tmp_path / "other"), seed=8)
    refused = CliRunner().invoke(cli.command, ["review", other.url, "--import", file])
    assert refused.exit_code == 2
    assert "these are marks of another run" in refused.output
