"""The page opens at once, and thumbnails that the run lacks arrive while it is open."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.large_runs import large_run
from support.made_runs import begin, commit, made
from support.review_client import review_client

from nightpress.jobs.reviews import review as reviewing
from nightpress.jobs.reviews import thumbs as late_thumbs
from nightpress.jobs.reviews.options import ReviewOptions, ServerOptions
from nightpress.jobs.reviews.review import review
from nightpress.jobs.reviews.thumbs import LateThumbs
from nightpress.pipelines.errors import StoreError
from nightpress.pipelines.review.thumbnails import ThumbsMade, make_missing
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.run_directory.thumbs import Thumbs, read_thumbs

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def bare(tmp_path: Path) -> Run:
    """A run of 200 images without thumbnails."""
    return large_run(str(tmp_path), 200, side=64, thumbs=False)


def until_done(late: LateThumbs) -> None:
    while not late.is_done:
        time.sleep(0.02)


def test_the_address_is_printed_before_thumbnails_are_made(
    bare: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_open, was_open = threading.Event(), list[bool]()

    def waiting(run: Run, thumbs: Thumbs) -> Iterator[ThumbsMade]:
        was_open.append(is_open.wait(30))
        yield from make_missing(run, thumbs)

    monkeypatch.setattr(late_thumbs, "make_missing", waiting)
    monkeypatch.setattr(reviewing, "_wait", lambda asked: None)
    said = list[str]()
    review(
        bare,
        ReviewOptions("anna"),
        lambda event: said.append(str(event)),
        server=ServerOptions(port=0),
        on_address=lambda address: is_open.set(),
    )
    assert was_open == [True]
    num_made = len(read_thumbs(bare.store).places)
    assert num_made >= 64  # the atlas at hand is finished
    left = " of 200 thumbnails made; the next review makes the others"
    assert any(f"{num_made}{left if num_made < 200 else ' thumbnails made'}" in e for e in said)


def test_thumbnails_arrive_on_the_open_page_and_what_is_picked_meanwhile_is_kept(
    bare: Run, open_page: Any
) -> None:
    late = LateThumbs(bare, lambda event: None)
    with review_client(bare, late=late) as client:
        page = open_page(f"{client.origin}/?token={client.tokens[-1]}")
        words = page.page.locator("#late .words")
        assert words.inner_text() == "Looking for missing thumbnails"
        assert page.value("NP.rows.thumbs.atlas.every((at) => at === -1)")
        assert "without a thumbnail" not in str(page.value("NP.rows.run.notes"))
        page.until("document.querySelector('.cell .pic.bare img') !== null")  # the whole picture
        page.press("p")
        with late.running():
            page.until("NP.lateThumbs.is_done || NP.lateThumbs.num_made > 0")
            page.until("NP.lateThumbs.is_done")
        page.press("ArrowRight", "x")
        page.until_saved()
        places = page.value(
            "NP.rows.imageId.map((id, i) => [id, NP.rows.thumbs.atlases[NP.rows.thumbs.atlas[i]],"
            "NP.rows.thumbs.cell[i]])"
        )
        stored = read_thumbs(bare.store).places
        assert {(i, str(url).removeprefix("atlas/"), cell) for i, url, cell in places} == {
            (image[0], place.path.removeprefix("thumbs/"), place.cell)
            for image, place in stored.items()
        }
        page.press("End")
        page.until("[...NP.grid.cells()].every((cell) => !cell.parts.pic.matches('.bare'))")
        assert words.is_hidden()
        page.reload()
        assert page.value("[NP.marks.picked, NP.marks.rejected]") == [1, 1]
        assert page.value("NP.rows.thumbs.atlas.every((at) => at >= 0)")
        assert page.page.locator("#late").count() == 0


def test_a_page_that_asks_gets_only_what_is_new(bare: Run) -> None:
    late = LateThumbs(bare, lambda event: None)
    with review_client(bare, late=late) as client:
        client.open()
        assert client.get("/api/thumbs").json["is_done"] is False
        with late.running():
            until_done(late)
        answer = client.get("/api/thumbs?after=0").json
        assert [len(each["cells"]) for each in answer["atlases"]] == [64, 64, 64, 8]
        assert (answer["num_made"], answer["num_missing"], answer["is_done"]) == (200, 200, True)
        assert client.get(f"/{answer['atlases'][3]['url']}").status == 200
        assert len(client.get("/api/thumbs?after=3").json["atlases"]) == 1
        assert client.get("/api/thumbs?after=4").json["atlases"] == []
        assert client.get("/api/thumbs?after=-1").status == 400
        assert "must be a number of atlases" in client.get("/api/thumbs?after=x").error


def test_pictures_that_cannot_be_read_are_said_on_the_page(tmp_path: Path, open_page: Any) -> None:
    run = begin(str(tmp_path))
    records = [made(run, n) for n in range(4)]
    commit(run, 0, records)
    run.store.put("images/2_00.png", run.store.read("images/2_00.png")[:-9])
    late = LateThumbs(run, lambda event: None)
    with review_client(run, late=late) as client:
        page = open_page(f"{client.origin}/?token={client.tokens[-1]}")
        with late.running():
            page.until("NP.lateThumbs.is_done")
        text = page.page.locator("#late .words").inner_text()
        assert text.strip() == "No thumbnail of 1 image: nightpress says why."


def test_a_store_that_fails_ends_it_with_a_word(bare: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(run: Run, thumbs: Thumbs) -> Iterator[ThumbsMade]:
        yield next(make_missing(run, thumbs))
        raise StoreError("the store is full")

    monkeypatch.setattr(late_thumbs, "make_missing", failing)
    said = list[Any]()
    late = LateThumbs(bare, said.append)
    with late.running():
        until_done(late)
    assert late.since(0)[1].problem == "the store is full"
    assert any(each.warning and "no more thumbnails are made: the st" in each.text for each in said)
