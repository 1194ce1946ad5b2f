"""The page without a server: facts, jobs, before and after, and where its originals are."""

import json
from pathlib import Path
from typing import Any

import pytest
from support import pictured_runs
from support.fakes.fake_runs import finished_run
from support.picture_files import encoded, smooth_picture

from nightpress.jobs.reviews import static
from nightpress.jobs.reviews.options import ReviewOptions
from nightpress.jobs.reviews.static import write_static_page
from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.review.facts import fact_sheet
from nightpress.pipelines.run_directory.reader import Run

pytestmark = pytest.mark.timeout(180)

ANNA = ReviewOptions("anna")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(*finished_run(tmp_path, [f"shoe {n}, </script>" for n in range(12)]))


@pytest.fixture
def pictured(tmp_path: Path) -> Run:
    """Three images, two of them made from the same picture."""
    (tmp_path / "cat.bmp").write_bytes(encoded(smooth_picture(48, 32), "BMP"))
    rows: list[dict[str, Any]] = [
        {"prompt": "a cat", "init_image": "cat.bmp", "strength": 0.5},
        {"prompt": "a dog", "init_image": None, "strength": None},
        {"prompt": "a cow", "init_image": "cat.bmp", "strength": 0.5},
    ]
    store, record = pictured_runs.begin(tmp_path, rows)
    pictured_runs.make(store, record, sampler=pictured_runs.PictureSampler())
    return Run(store, record)


@pytest.mark.slow
def test_it_has_the_facts_and_the_job_that_the_server_has(run: Run, open_page: Any) -> None:
    page = open_page(Path(write_static_page(run, ANNA).url).as_uri())
    for image_id in run.hashes():
        seen = page.value(f"NP.sheets.of(NP.rows.byId.get('{image_id}'))")
        sheet = fact_sheet(run, image_id)
        assert [tuple(each) for each in seen["facts"]] == list(sheet.facts)
        assert seen["job"] == sheet.job
    page.press("i")
    page.until("document.querySelector('.fact-list').textContent.includes('model_fingerprint')")
    page.value("void (navigator.clipboard.writeText = async (text) => (globalThis.copied = text))")
    page.page.get_by_role("button", name="Copy as job").click()
    page.until("globalThis.copied !== undefined")
    assert page.value("copied") == fact_sheet(run, page.current).job


def test_without_room_for_facts_it_says_so(
    run: Run, open_page: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(static, "MOST_SHEET_BYTES", 100)
    page = open_page(Path(write_static_page(run, ANNA).url).as_uri())
    assert "would make this page too large" in page.page.locator("#notes").inner_text()
    page.press("i")
    assert page.page.locator(".fact-list").inner_text().startswith("Image")
    page.page.get_by_role("button", name="Copy as job").click()
    page.until("NP.byId('toast').textContent.startsWith('This page has no jobs')")


def test_before_and_after_are_in_it_once_for_each_picture(pictured: Run, open_page: Any) -> None:
    page = open_page(Path(write_static_page(pictured, ANNA).url).as_uri())
    assert page.value("NP.rows.pictures.length") == 1
    page.press("e", "b")
    page.until("document.querySelector('.before').naturalWidth === 48")
    assert page.page.locator(".handle").is_visible()
    for image_id, is_hidden in (("00000001_00", True), ("00000002_00", False)):
        page.value(f"NP.view.go(NP.rows.byId.get('{image_id}'))")
        page.until(f"document.querySelector('.handle').hidden === {str(is_hidden).lower()}")


def test_a_picture_that_has_gone_is_said(pictured: Run, tmp_path: Path, open_page: Any) -> None:
    (tmp_path / "cat.bmp").unlink()
    page = open_page(Path(write_static_page(pictured, ANNA).url).as_uri())
    assert "No before and after for 1 picture" in page.page.locator("#notes").inner_text()
    page.press("e", "b")
    page.until("NP.byId('toast').textContent === 'This page does not have the picture before'")


def test_originals_that_cannot_be_reached_are_said_and_no_longer_asked_for(
    run: Run, tmp_path: Path, open_page: Any
) -> None:
    url = write_static_page(run, ANNA).url
    alone = tmp_path / "mailed" / "review.html"
    alone.parent.mkdir()
    alone.write_bytes(Path(url).read_bytes())
    page = open_page(alone.as_uri())
    page.press("e")
    page.until("NP.loupe.stage().node.classList.contains('missing')")
    words = page.value("NP.loupe.stage().node.dataset.word")
    assert words == "The original cannot be reached from this page: its thumbnail is shown"


def test_originals_may_be_at_a_url(run: Run) -> None:
    url = write_static_page(run, ReviewOptions("anna", images_at="https://cdn.example/night/")).url
    text = Path(url).read_text()
    assert "https://cdn.example/night/images/00000003_00.png" in text
    assert "img-src 'self' file: data: blob: https://cdn.example;" in text.replace("&#39;", "'")
    assert json.dumps("./thumbs/")[1:-1] in text  # thumbnails still lie beside it
    with pytest.raises(SpecError, match="images_at: must be a URL of https or http, not 'cdn'"):
        ReviewOptions("anna", images_at="cdn")
