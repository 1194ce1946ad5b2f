"""Copies of chosen images: which, how they are named and rated, what is refused, and resuming."""

import csv
import io
import json
import re
import zipfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from support.made_runs import begin, commit, finish, made
from support.marked_runs import marked_run, say
from support.servers import Folder
from support.signers import Studio

from nightpress.jobs import MarkChoice, PickCopies, deliver, export_picks, select
from nightpress.jobs.cli import command
from nightpress.jobs.errors import RunBlocked
from nightpress.jobs.progress.events import Event, Message
from nightpress.jobs.runs import picks_place
from nightpress.jobs.runs.marked_images import marked_images
from nightpress.jobs.runs.picks_table import cell
from nightpress.pipelines import Run
from nightpress.pipelines.errors import MarksError, SpecError
from nightpress.pipelines.image_files.client_copies import PixelSpec
from nightpress.pipelines.image_files.encoding import decoded, read_facts
from nightpress.pipelines.reporting import contact_pdf
from nightpress.pipelines.storage import Store

PICKED = MarkChoice("pick")
REJECTED = MarkChoice("reject")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return marked_run(tmp_path / "runs")


def nightpress(*arguments: object) -> Result:
    return CliRunner().invoke(command, [*map(str, arguments)])


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def rows(table: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(table.decode("utf-8-sig"), newline="")))


@pytest.mark.parametrize(
    ("choice", "ids"),
    [
        (MarkChoice("pick"), ("0_00", "1_00", "3_00")),
        (MarkChoice("reject"), ("2_00",)),
        (MarkChoice("pick", policy="majority"), ("1_00", "3_00")),
        (MarkChoice("reject", policy="all"), ("2_00",)),
        (MarkChoice("reject", policy="lead", lead="ben"), ("0_00", "2_00")),
        (MarkChoice(stars=4), ("1_00",)),
        (MarkChoice("pick", 3), ("1_00",)),
    ],
)
def test_a_policy_decides_which_images_are_chosen(
    run: Run, choice: MarkChoice, ids: tuple[str, ...]
) -> None:
    assert marked_images(run, choice).ids == ids


def test_picks_are_copied_with_their_ratings_and_listed(run: Run, tmp_path: Path) -> None:
    before = contents(Path(run.url))
    done = export_picks(run, str(tmp_path / "out"), marks=PICKED)
    assert (done.num_copies, done.num_written, done.table) == (3, 3, "picks.csv")
    assert contents(Path(run.url)) == before
    found = contents(tmp_path / "out")
    assert sorted(found) == ["0_00.png", "1_00.png", "3_00.png", "picks.csv"]
    properties = {
        name: re.findall(rb"<(xmp\w*:\w+)>([^<]*)<", data)
        for name, data in found.items()
        if name != "picks.csv"
    }
    assert properties == {
        "0_00.png": [(b"xmpDM:pick", b"1")],
        "1_00.png": [(b"xmp:Rating", b"4"), (b"xmpDM:pick", b"1")],
        "3_00.png": [(b"xmp:Label", b"Red"), (b"xmpDM:pick", b"1")],
    }
    for row in rows(found["picks.csv"]):
        copy, image = found[row["file"]], run.image(row["image_id"])
        assert b"trainedAlgorithmicMedia" in copy
        assert read_facts(copy) is None
        assert decoded(copy).tobytes() == image.tobytes()
        assert row["sha256"] == run.hashes()[row["image_id"]]
        assert row["topic"] == f"topic {row['seed']}"
    assert rows(found["picks.csv"])[2]["comments"] == "ben: =2+5"


def test_a_rejected_image_has_the_rating_of_one(run: Run, tmp_path: Path) -> None:
    export_picks(run, str(tmp_path / "out"), marks=REJECTED)
    copy = (tmp_path / "out/2_00.png").read_bytes()
    assert b"<xmp:Rating>-1</xmp:Rating>" in copy
    assert b"<xmpDM:pick>-1</xmpDM:pick>" in copy


@pytest.mark.parametrize("value", ["=1+1", "+1", "-1", "@a", "\t=1", "\r=1"])
def test_no_text_of_the_table_is_a_formula(value: str) -> None:
    assert cell(value) == f"'{value}"
    assert cell([value]) == f"'{value}"


def test_numbers_of_the_table_stay_numbers() -> None:
    assert [cell(-4.5), cell(3), cell(None), cell(True)] == [-4.5, 3, "", "yes"]


def test_the_same_command_keeps_what_is_there_and_makes_what_is_missing(
    run: Run, tmp_path: Path
) -> None:
    export_picks(run, str(tmp_path / "out"), marks=PICKED, copies=PickCopies(contact_sheet=True))
    first = contents(tmp_path / "out")
    (tmp_path / "out/1_00.png").unlink()
    (tmp_path / "out/picks.csv").unlink()
    done = export_picks(
        run, str(tmp_path / "out"), marks=PICKED, copies=PickCopies(contact_sheet=True)
    )
    assert (done.num_copies, done.num_written) == (3, 1)
    assert contents(tmp_path / "out") == first


def test_other_files_are_never_replaced(run: Run, tmp_path: Path) -> None:
    export_picks(run, str(tmp_path / "out"), marks=PICKED)
    first = contents(tmp_path / "out")
    changes = r"1 image more \(2_00\), 3 images fewer \(0_00, 1_00, 3_00\); --update brings it"
    with pytest.raises(SpecError, match=f"holds another export, as its picks.csv says: {changes}"):
        export_picks(run, str(tmp_path / "out"), marks=REJECTED)
    (tmp_path / "out/picks.csv").unlink()
    small = PickCopies(pixels=PixelSpec(resize=4))
    with pytest.raises(SpecError, match="another file lies there"):
        export_picks(run, str(tmp_path / "out"), marks=PICKED, copies=small)
    del first["picks.csv"]
    assert contents(tmp_path / "out") == first


def test_a_zip_file_appears_whole_and_is_the_same_again(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "new" / "picks.zip"
    done = export_picks(run, str(path), marks=PICKED)
    assert (done.url, done.num_written) == (str(path), 3)
    first = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["0_00.png", "1_00.png", "3_00.png", "picks.csv"]
    assert export_picks(run, str(path), marks=PICKED).num_written == 0
    with pytest.raises(SpecError, match="another file lies there"):
        export_picks(run, str(path), marks=REJECTED)
    assert path.read_bytes() == first
    assert [each.name for each in path.parent.iterdir()] == ["picks.zip"]


def test_a_zip_file_with_a_missing_image_is_not_made(run: Run, tmp_path: Path) -> None:
    run.store.delete("images/1_00.png")
    result = nightpress("export", run.url, "--picked", "--to", tmp_path / "x.zip")
    assert result.exit_code == 3
    assert "1_00: images/1_00.png is not in the run" in result.stdout
    assert not (tmp_path / "x.zip").exists()
    assert [each.name for each in tmp_path.iterdir()] == ["runs"]


def test_a_damaged_image_is_named_and_the_others_are_copied(run: Run, tmp_path: Path) -> None:
    run.store.put("images/1_00.png", b"damaged")
    done = export_picks(run, str(tmp_path / "out"), marks=PICKED)
    assert (done.is_complete, done.num_copies, done.table) == (False, 2, None)
    assert done.findings[0].startswith("1_00: images/1_00.png is not what the run recorded")
    assert sorted(contents(tmp_path / "out")) == ["0_00.png", "3_00.png"]


def test_an_image_that_was_made_again_since_is_said_and_left_out(run: Run, tmp_path: Path) -> None:
    say(run, "anna", (7, "flag", "pick"), (0, "flag", "pick"), n=2, sha256="e" * 64)
    said: list[Event] = []
    done = export_picks(run, str(tmp_path / "out"), said.append, marks=PICKED)
    assert done.num_copies == 3
    (warning,) = [each for each in said if isinstance(each, Message) and each.warning]
    assert warning.text == (
        "1 image made again since they were marked, and left out; --include-changed takes them: "
        "7_00"
    )
    asked = MarkChoice("pick", include_changed=True)
    assert export_picks(run, str(tmp_path / "all"), marks=asked).num_copies == 4
    assert b"xmpDM:pick" in (tmp_path / "all/7_00.png").read_bytes()


def test_a_new_mark_on_an_image_that_was_made_again_overrules_the_old(run: Run) -> None:
    say(run, "anna", (2, "flag", "pick"), n=2, sha256="e" * 64)
    found = marked_images(run, MarkChoice("pick", include_changed=True))
    assert (found.changed, "2_00" in found.ids) == ((), False)


def test_copies_are_named_resized_and_encoded_as_asked(run: Run, tmp_path: Path) -> None:
    copies = PickCopies("{topic}/{stars}-{image_id}", PixelSpec(8, "jpeg", 90))
    export_picks(run, str(tmp_path / "out"), marks=PICKED, copies=copies)
    found = contents(tmp_path / "out")
    assert sorted(found)[1:] == [f"topic {n}/{n and 4 * (n == 1)}-{n}_00.jpg" for n in (0, 1, 3)]
    assert not (tmp_path / "out" / ".partial").exists()
    with decoded(found["topic 1/4-1_00.jpg"]) as image:
        assert (image.format, image.size) == ("JPEG", (8, 8))
    assert b"<xmp:Rating>4</xmp:Rating>" in found["topic 1/4-1_00.jpg"]


def test_small_images_keep_their_size_and_their_pixels(run: Run, tmp_path: Path) -> None:
    copies = PickCopies(pixels=PixelSpec(resize=500))
    export_picks(run, str(tmp_path / "out"), marks=PICKED, copies=copies)
    plain = export_picks(run, str(tmp_path / "plain"), marks=PICKED)
    assert plain.num_copies == 3
    assert contents(tmp_path / "out") == contents(tmp_path / "plain")


def test_contact_sheets_have_all_images(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contact_pdf, "ROWS", 1)
    monkeypatch.setattr(contact_pdf, "COLUMNS", 2)
    monkeypatch.setattr(contact_pdf, "PAGES_A_FILE", 1)
    done = export_picks(
        run, str(tmp_path / "out"), marks=PICKED, copies=PickCopies(contact_sheet=True)
    )
    assert done.contact_sheets == ("contact-sheet.pdf", "contact-sheet-2.pdf")
    for name in done.contact_sheets:
        data = (tmp_path / "out" / name).read_bytes()
        assert data.startswith(b"%PDF-")
        assert data.count(b"/Type /Page\n") == 1


def test_captions_that_the_font_cannot_draw_are_said(tmp_path: Path) -> None:
    run, said = begin(str(tmp_path / "runs")), list[Event]()
    prompts = ["a cat", "Jürgens Café", "猫の写真", "قطة حمراء"]
    commit(run, 0, [made(run, n, prompt) for n, prompt in enumerate(prompts)])
    sheets = PickCopies(contact_sheet=True)
    export_picks(run, str(tmp_path / "out"), said.append, where="seed < 4", copies=sheets)
    (warning,) = (each.text for each in said if isinstance(each, Message))
    assert warning.startswith("2 captions of the contact sheets with letters that its font lacks")
    assert "the first is of 2_00.png; picks.csv has all letters" in warning
    assert "猫の写真" in contents(tmp_path / "out")["picks.csv"].decode()
    said.clear()
    export_picks(run, str(tmp_path / "plain"), said.append, where="seed < 2", copies=sheets)
    assert said == []


def test_a_selection_and_marks_together(run: Run, tmp_path: Path) -> None:
    select(run.url, "some", where="seed > 0")
    done = export_picks(run, str(tmp_path / "out"), selection="some", marks=PICKED)
    assert done.num_copies == 2
    done = export_picks(run, str(tmp_path / "b"), where="seed < 3", marks=PICKED)
    assert done.num_copies == 2


def test_images_are_exported_without_marks_too(tmp_path: Path) -> None:
    run = begin(str(tmp_path / "runs"))
    finish(run)
    done = export_picks(run, str(tmp_path / "out"), where="seed >= 4")
    assert (done.num_copies, done.num_failed_rows) == (5, 1)
    with pytest.raises(SpecError, match="nobody has marked an image of it yet"):
        export_picks(run, str(tmp_path / "out"), marks=PICKED)


def test_a_delivery_takes_picks(run: Run, tmp_path: Path) -> None:
    done = deliver(run, str(tmp_path / "out"), marks=MarkChoice("pick", policy="majority"))
    ids = pq.read_table(str(done.table)).column("image_id").to_pylist()
    assert ids == ["1_00", "3_00"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("--to o", "choose images by --picked, --rejected, --stars, --ids, --where or --selection"),
        ("--picked", "--to: name the folder"),
        ("--picked --rejected --to o", "give one of them"),
        ("--picked --ids ids.txt --to o", "by ids or by marks"),
        ("--lead anna --to o", "--lead goes with --picked"),
        ("--picked --lead anna --to o", "only under the policy lead"),
        ("--picked --policy lead --lead zoe --to o", "zoe has marked nothing"),
        ("--stars 5 --to o", "no image is given at least 5 stars under the policy any"),
        ("--picked --names {nope} --to o", "there is no column {nope}"),
        ("--picked --names {prompt} --to o", "would both be called 'a cat.png'"),
        ("--picked --names ../{image_id} --to o", "no path component may be"),
        ("--picked --quality 80 --to o", "a PNG file has none"),
        ("--picked --set name=x --to o", "--set: this is a run"),
        ("--picked --take-over --to o", "--take-over: this is a run"),
        ("--picked --to RUN/out", "lies in the run directory"),
        ("--picked --to RUN/out.zip", "lies in the run directory"),
        ("--picked --where seed=77 --to o", "no image is chosen"),
    ],
)
def test_what_cannot_be_exported_is_refused_before_anything_is_written(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: str, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("ids.txt").write_text("0_00\n")
    before = contents(tmp_path)
    result = nightpress("export", run.url, *options.replace("RUN", run.url).split())
    assert result.exit_code == 2
    assert reason in " ".join(str(result.exception or result.output).split()) + result.output
    assert contents(tmp_path) == before


def test_the_options_of_copies_are_refused_beside_the_file_of_a_set(
    run: Run, tmp_path: Path
) -> None:
    path = tmp_path / "set.yaml"
    path.write_text(json.dumps({"from": run.url, "output": str(tmp_path / "sets")}))
    for option in ("--picked", "--to=o", "--contact-sheet"):
        result = nightpress("export", path, option)
        assert result.exit_code == 2
        assert "this is the file of a set" in result.output


def test_the_export_of_a_run_prints_json(run: Run, tmp_path: Path) -> None:
    result = nightpress("export", run.url, "--picked", "--to", tmp_path / "out", "--json")
    values = json.loads(result.stdout)
    assert (values["num_copies"], values["table"], values["exit_code"]) == (3, "picks.csv", 0)


def test_another_process_that_writes_the_same_name_is_not_overwritten(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module: Any = import_module("nightpress.jobs.runs.export_picks")
    copied: Callable[..., Any] = module._Export._copied

    def late(self: Any, number: int) -> Any:
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out/1_00.png").write_bytes(b"theirs")
        return copied(self, number)

    monkeypatch.setattr(module._Export, "_copied", late)
    with pytest.raises(RunBlocked, match="another file lies there"):
        export_picks(run, str(tmp_path / "out"), marks=PICKED)
    assert (tmp_path / "out/1_00.png").read_bytes() == b"theirs"


@pytest.mark.parametrize("is_remote", [False, True])
def test_of_two_that_write_the_same_zip_file_one_is_told(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_remote: bool
) -> None:
    folder = f"memory://{tmp_path.name}" if is_remote else str(tmp_path)
    size = Store.size

    def looked(self: Store, path: str) -> int | None:
        found = size(self, path)
        if path == "out.zip" and found is None:
            assert Store(folder).create(path, b"theirs")
        return found

    monkeypatch.setattr(Store, "size", looked)
    with pytest.raises(RunBlocked, match=r"out\.zip: another process has written it"):
        export_picks(run, f"{folder}/out.zip", marks=PICKED)
    assert Store(folder).read("out.zip") == b"theirs"


def test_a_lead_is_named_only_under_its_policy() -> None:
    with pytest.raises(MarksError):
        MarkChoice("pick", policy="lead").check()
    with pytest.raises(SpecError, match="not a number from 1 to 5"):
        MarkChoice(stars=6).check()
    with pytest.raises(SpecError, match="by a flag, by stars"):
        MarkChoice().check()


def test_picks_are_exported_to_object_storage(run: Run, bucket: Folder) -> None:
    folder = f"{bucket.url}/picks"
    done = export_picks(run, folder, marks=PICKED, storage=bucket.options)
    assert (done.num_copies, done.num_written, done.url) == (3, 3, folder)
    again = export_picks(run, folder, marks=PICKED, storage=bucket.options)
    assert again.num_written == 0
    as_zip = f"{bucket.url}/zips/picks.zip"
    assert export_picks(run, as_zip, marks=PICKED, storage=bucket.options).num_written == 3
    assert export_picks(run, as_zip, marks=PICKED, storage=bucket.options).num_written == 0
    data = Store(f"{bucket.url}/zips", bucket.options).read("picks.zip")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.namelist() == ["0_00.png", "1_00.png", "3_00.png", "picks.csv"]
    with pytest.raises(SpecError, match="another file lies there"):
        export_picks(run, as_zip, marks=REJECTED, storage=bucket.options)


def test_a_zip_file_at_a_url_has_a_largest_size(
    run: Run, bucket: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(picks_place, "MAX_REMOTE_ZIP_BYTES", 100)
    to = f"{bucket.url}/large/picks.zip"
    with pytest.raises(SpecError, match="a zip file at a URL has at most 100"):
        export_picks(run, to, marks=PICKED, storage=bucket.options)
    assert Store(f"{bucket.url}/large", bucket.options).list() == {}


def test_copies_of_signed_images_are_said_to_be_unsigned(tmp_path: Path) -> None:
    run = marked_run(tmp_path, provenance={"sign": {"certificate": Studio.new().chain}})
    said: list[Event] = []
    export_picks(run, str(tmp_path / "out"), said.append, marks=PICKED)
    assert any("nightpress deliver --certificate signs copies" in str(each) for each in said)
