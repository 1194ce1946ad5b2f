"""An export of picks that is brought up to date: what it adds, removes and never touches."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from support.marked_runs import marked_run, say
from support.servers import Folder

from nightpress.jobs import MarkChoice, PickCopies, export_picks
from nightpress.jobs.cli import command
from nightpress.jobs.runs.picks_table import cell, earlier_copies, picks_csv
from nightpress.pipelines import Run
from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.image_files.client_copies import PixelSpec, Rating
from nightpress.pipelines.storage import Store

PICKED = MarkChoice("pick")
SHEETS = PickCopies(names="{stars}-{image_id}", contact_sheet=True)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """0, 1 (four stars) and 3 are picked."""
    return marked_run(tmp_path / "runs")


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def change_picks(run: Run) -> None:
    """Then 1 (two stars), 3 and 4 are picked."""
    say(run, "anna", (0, "flag", ""), (4, "flag", "pick"), (1, "stars", 2), n=5)


@pytest.mark.parametrize("copies", [PickCopies(), SHEETS])
def test_an_updated_folder_is_what_a_new_one_would_be(
    run: Run, tmp_path: Path, copies: PickCopies
) -> None:
    out = tmp_path / "out"
    export_picks(run, str(out), marks=PICKED, copies=copies)
    (out / "notes.txt").write_text("theirs")
    change_picks(run)
    with pytest.raises(
        SpecError, match=r"1 image more \(4_00\), 1 image fewer \(0_00\), 1 image wi"
    ):
        export_picks(run, str(out), marks=PICKED, copies=copies)
    done = export_picks(run, str(out), marks=PICKED, copies=copies, update=True)
    export_picks(run, str(tmp_path / "new"), marks=PICKED, copies=copies)
    expected = contents(tmp_path / "new")
    assert contents(out) == expected | {"notes.txt": b"theirs"}
    sheets = sum(name.endswith(".pdf") for name in expected)
    assert (done.num_copies, done.num_written, done.num_removed) == (3, 2, 2 + sheets)
    again = export_picks(run, str(out), marks=PICKED, copies=copies, update=True)
    assert (again.num_written, again.num_removed) == (0, 0)
    assert contents(out) == expected | {"notes.txt": b"theirs"}


def test_an_update_in_a_bucket_is_what_a_new_export_would_be(run: Run, bucket: Folder) -> None:
    storage = {"s3": bucket.options["s3"]}
    export_picks(run, f"{bucket.url}/out", marks=PICKED, storage=storage)
    change_picks(run)
    export_picks(run, f"{bucket.url}/out", marks=PICKED, storage=storage, update=True)
    export_picks(run, f"{bucket.url}/new", marks=PICKED, storage=storage)
    out, new = (Store(f"{bucket.url}/{name}", storage) for name in ("out", "new"))
    assert set(out.list()) == set(new.list())
    assert all(out.read(name) == new.read(name) for name in new.list())


@pytest.mark.parametrize("stop_at", range(4))
def test_an_interrupted_update_goes_on(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    out = tmp_path / "out"
    export_picks(run, str(out), marks=PICKED, copies=SHEETS)
    change_picks(run)
    removed: list[str] = []
    delete = Store.delete

    def dying(self: Store, name: str) -> None:
        if self.url == str(out):
            if len(removed) == stop_at:
                raise KeyboardInterrupt
            removed.append(name)
        delete(self, name)

    monkeypatch.setattr(Store, "delete", dying)
    with pytest.raises(KeyboardInterrupt):
        export_picks(run, str(out), marks=PICKED, copies=SHEETS, update=True)
    monkeypatch.undo()
    assert "picks.csv" not in removed, "it says which files are the export's"
    export_picks(run, str(out), marks=PICKED, copies=SHEETS, update=True)
    export_picks(run, str(tmp_path / "new"), marks=PICKED, copies=SHEETS)
    assert contents(out) == contents(tmp_path / "new")


def edit_copy(run: Run, out: Path) -> None:
    (out / "0_00.png").write_bytes((out / "0_00.png").read_bytes() + b"edited")


def occupy(run: Run, out: Path) -> None:
    (out / "4_00.png").write_bytes(b"theirs")


def draw_sheet(run: Run, out: Path) -> None:
    (out / "contact-sheet.pdf").write_bytes(b"%PDF-1.7 theirs")


def lose_master(run: Run, out: Path) -> None:
    run.store.delete("images/0_00.png")


def steal(run: Run, out: Path) -> None:
    (out / "picks.csv").write_text("image_id,file,sha256,stars,flag,colour\r\nx,../runs/x,,,,\r\n")


def other_table(run: Run, out: Path) -> None:
    (out / "picks.csv").write_text("a,b\n1,2\n")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (edit_copy, "0_00.png: it is another file, or a copy with another --resize"),
        (occupy, "4_00.png: another file lies there"),
        (draw_sheet, "contact-sheet.pdf: another file lies there"),
        (
            lose_master,
            "0_00.png: what it is a copy of cannot be read (0_00: images/0_00.png is not",
        ),
        (steal, "holds another export, as its picks.csv says; choose another folder"),
        (other_table, "holds another export, as its picks.csv says; choose another folder"),
    ],
)
def test_an_update_that_would_touch_other_files_changes_nothing(
    run: Run, tmp_path: Path, spoil: Any, reason: str
) -> None:
    out = tmp_path / "out"
    export_picks(run, str(out), marks=PICKED)
    change_picks(run)
    spoil(run, out)
    before = contents(out)
    result = CliRunner().invoke(
        command, ["export", run.url, "--picked", "--to", str(out), "--update"]
    )
    assert result.exit_code == 2, result.output
    assert reason in " ".join(result.output.split())
    assert contents(out) == before


def test_copies_of_other_settings_are_not_taken_for_those_of_the_export(
    run: Run, tmp_path: Path
) -> None:
    export_picks(run, str(tmp_path / "out"), marks=PICKED)
    change_picks(run)
    small = PickCopies(pixels=PixelSpec(resize=4))
    with pytest.raises(SpecError, match="or a copy with another --resize, --format or --quality"):
        export_picks(run, str(tmp_path / "out"), marks=PICKED, copies=small, update=True)


def test_the_command_says_what_it_updates(run: Run, tmp_path: Path) -> None:
    export_picks(run, str(tmp_path / "out"), marks=PICKED)
    change_picks(run)
    result = CliRunner().invoke(
        command, ["export", run.url, "--picked", "--to", str(tmp_path / "out"), "--update"]
    )
    assert result.exit_code == 0, result.output
    assert "1 image more (4_00), 1 image fewer (0_00)" in " ".join(result.stderr.split())
    assert "2 files of the earlier export removed" in result.stdout
    refused = CliRunner().invoke(
        command, ["export", run.url, "--picked", "--to", str(tmp_path / "x.zip"), "--update"]
    )
    assert (refused.exit_code, "a zip file is written whole" in refused.output) == (2, True)


@pytest.mark.parametrize("name", ["-1_00", "=a", "@b", "plain"])
def test_a_table_is_read_back_as_it_was_written(name: str) -> None:
    row = {"image_id": name, "sha256": "a" * 64}
    marks = {name: {"stars": 3, "flag": "pick", "colour": "red"}}
    table = picks_csv([row], [f"{name}.png"], marks)
    assert next(csv.reader(io.StringIO(table.decode("utf-8-sig"))))[0] == "image_id"
    found = earlier_copies(table)
    assert found is not None
    (copy,) = found
    assert (copy.image_id, copy.file, copy.sha256) == (name, f"{name}.png", "a" * 64)
    assert copy.rating == Rating(3, "pick", "red")
    assert copy.row["image_id"] == cell(name)
