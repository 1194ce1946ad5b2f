"""What reads runs of clips: it works, or says by name that it takes still images."""

import json
from pathlib import Path

import pytest
from support.clip_runs import WALKS, made_clips
from support.fakes.fake_runs import finished_run

from nightpress.jobs.commands.inspect import as_text
from nightpress.jobs.runs.deliver import deliver
from nightpress.jobs.runs.export_picks import export_picks
from nightpress.jobs.runs.inspect_file import inspect
from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.export.sources import open_sources
from nightpress.pipelines.export.spec import ExportSpec
from nightpress.pipelines.reporting.report import write_report
from nightpress.pipelines.review.rows import PageContext, read_rows, rows_json
from nightpress.pipelines.review.thumbnails import make_missing
from nightpress.pipelines.run_directory.clip_checks import refuse_clips
from nightpress.pipelines.run_directory.reader import open_run
from nightpress.pipelines.run_directory.thumbs import read_thumbs

FORMATS = ("mp4", "webp")


@pytest.mark.parametrize("kind", FORMATS)
def test_copies_and_training_sets_of_clips_are_refused_by_name(tmp_path: Path, kind: str) -> None:
    run = made_clips(tmp_path, images={"format": kind})
    to = str(tmp_path / "copies")
    with pytest.raises(SpecError, match="these are clips, and nightpress deliver takes still"):
        deliver(run.url, to)
    with pytest.raises(SpecError, match="nightpress export --to takes still"):
        export_picks(run.url, to, where="status = 'ok'")
    spec = ExportSpec.from_dict(
        {"name": "set", "from": run.url, "layout": "webdataset", "output": to}
    )
    with pytest.raises(SpecError, match="these are clips, and nightpress export takes still"):
        open_sources(spec)
    assert not (tmp_path / "copies").exists()


def test_runs_of_still_images_are_not_refused(tmp_path: Path) -> None:
    store, _ = finished_run(tmp_path, ["a cat"])
    refuse_clips(open_run(store.url), "nightpress deliver")


@pytest.mark.parametrize("kind", FORMATS)
def test_the_report_plays_clips_and_tells_their_frames(tmp_path: Path, kind: str) -> None:
    run = made_clips(tmp_path, images={"format": kind})
    write_report(run, run.store)
    page = (tmp_path / "out/run/report.html").read_text()
    clip = "video" if kind == "mp4" else "image"
    assert page.count(f'data-clip="{clip}"') == len(WALKS)
    assert "frames a second" in page
    assert "sha256 of the frames" in page
    stills, _ = finished_run(tmp_path / "stills", ["a cat"])
    write_report(open_run(stills.url), stills)
    assert 'data-clip="' not in stills.read("report.html").decode()


@pytest.mark.parametrize("kind", FORMATS)
def test_the_review_page_gets_posters_media_types_and_frames(tmp_path: Path, kind: str) -> None:
    run = made_clips(tmp_path, images={"format": kind, "keep": ["first_frame"]})
    for _ in make_missing(run, read_thumbs(run.store)):
        pass
    context = PageContext("anna", read_only=True)
    text = b"".join(rows_json(read_rows(run), read_thumbs(run.store), context))
    found = json.loads(text)
    assert found["media_type"]["values"] == ["video/mp4" if kind == "mp4" else "image/webp"]
    assert sorted(found["num_frames"]) == sorted(walk["num_frames"] for walk in WALKS)
    assert set(found["thumbs"]["cell"]) == {0, 1, 2}
    assert not {"frames_sha256", "first_frame"} & {each["name"] for each in found["columns"]}


@pytest.mark.parametrize("kind", FORMATS)
def test_inspect_says_what_a_clip_says_about_itself(tmp_path: Path, kind: str) -> None:
    run = made_clips(tmp_path, images={"format": kind})
    row = run.row("00000002_00")
    assert row is not None
    found = inspect(f"{run.url}/{row['file']}")
    assert (found.report.format, found.report.num_frames) == (kind, 5)
    text = as_text(found)
    assert f"{kind} 32 x 16, 5 frames at 8 a second" in text
    assert "to seed 4, to prompt 'an owl'" in text
    assert "its checksums are right" in text
    assert "AI-generated" in text
    assert found.is_sound
