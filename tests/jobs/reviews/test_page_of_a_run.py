"""The review page of a real run in Chromium: what is picked on it is in the run."""

from pathlib import Path
from typing import Any

import pytest
from support.fakes.fake_runs import finished_run
from support.review_client import review_client

from nightpress.jobs.reviews.imports import import_marks
from nightpress.jobs.reviews.options import ReviewOptions
from nightpress.jobs.reviews.static import write_static_page
from nightpress.pipelines.run_directory.reader import Run

pytestmark = pytest.mark.timeout(120)

PROMPTS = [f"a shoe, <i>number</i> {n}" for n in range(12)]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(*finished_run(tmp_path, PROMPTS, review={"thumbs": True}))


def flags(run: Run) -> dict[tuple[str, str], str]:
    rows = Run(run.store, run.record).marks.to_pylist()
    return {
        (row["reviewer"], row["image_id"]): row["value"] for row in rows if row["field"] == "flag"
    }


def test_two_reviewers_pick_at_once_and_the_run_has_what_both_said(
    run: Run, open_page: Any
) -> None:
    with review_client(run, reviewer="anna") as annas, review_client(run, reviewer="boris") as his:
        anna = open_page(f"{annas.origin}/?token={annas.tokens[-1]}")
        boris = open_page(f"{his.origin}/?token={his.tokens[-1]}")
        anna.press("p", "ArrowRight", "x")
        boris.press("ArrowRight", "p", "ArrowRight", "p")
        anna.until_saved()
        boris.until_saved()
        assert flags(run) == {
            ("anna", "00000000_00"): "pick",
            ("anna", "00000001_00"): "reject",
            ("boris", "00000001_00"): "pick",
            ("boris", "00000002_00"): "pick",
        }
        anna.reload()
        assert anna.value("[0, 1, 2].map(NP.marks.disagree)") == [False, True, False]
        anna.press("Home", "e")
        anna.until("NP.loupe.stage().node.classList.contains('loaded')")
        anna.press("i")
        anna.until("document.querySelector('.fact-list').textContent.includes('seed')")
        assert anna.page.locator(".fact-prompt").inner_text() == PROMPTS[0]


@pytest.mark.slow
def test_marks_of_the_page_as_a_file_come_into_the_run(
    run: Run, open_page: Any, tmp_path: Path
) -> None:
    url = write_static_page(run, ReviewOptions("anna")).url
    page = open_page(Path(url).as_uri())
    page.press("p", "ArrowRight", "x", "ArrowRight", "4", "e")
    page.until("NP.loupe.stage().node.classList.contains('loaded')")
    page.page.locator(".saving").click()
    page.page.locator("#reviewer").fill("Zoë K.")
    export = page.page.get_by_role("button", name="Export 3 marks")
    export.click()
    assert "does not end with" in page.page.locator("dialog .notice").inner_text()
    page.page.locator("#reviewer").fill("Zoë")
    with page.page.expect_download() as download:
        export.click()
    import_marks(run, str(download.value.path()))
    assert flags(run) == {("Zoë", "00000000_00"): "pick", ("Zoë", "00000001_00"): "reject"}
