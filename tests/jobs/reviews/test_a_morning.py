"""A morning with 6,000 images on SeaweedFS: two people pick; then as a file; then by signed URL."""

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.large_runs import large_run
from support.review_client import review_client
from support.review_page import ReviewPage
from support.servers import Folder

from nightpress.jobs.reviews.imports import import_marks
from nightpress.jobs.reviews.options import ReviewOptions
from nightpress.jobs.reviews.static import write_static_page
from nightpress.pipelines import Run, open_run
from nightpress.pipelines.storage import READ_THREADS, Store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

NUM_IMAGES = 6000
NUM_PICKED = 200


@pytest.fixture(scope="module")
def place(seaweed: Any) -> Folder:
    folder: Folder = seaweed.folder()
    return folder


@pytest.fixture(scope="module")
def run(place: Folder) -> Run:
    return large_run(place.url, NUM_IMAGES, side=96, storage=place.options)


def flags(run: Run, reviewer: str) -> dict[str, str]:
    """The flags that a reviewer has in the run, by image."""
    rows = open_run(run.url, run.store.options).marks.to_pylist()
    own = (row for row in rows if (row["reviewer"], row["field"]) == (reviewer, "flag"))
    return {row["image_id"]: row["value"] for row in own if row["value"]}


def picking(page: ReviewPage, seed: int) -> Iterator[str]:
    """Pick 200 of 6,000 images with keys alone, wandering from the first to the last."""
    rng, done = random.Random(seed), set[str]()
    page.press("Home")
    while len(done) < NUM_PICKED:
        steps = ["ArrowDown"] * rng.randint(0, 5) + ["ArrowRight"] * rng.randint(1, 3)
        page.press(*steps)
        if page.current in done or page.value("NP.view.place(NP.view.current)") > NUM_IMAGES - 40:
            page.press("Home", *["ArrowRight"] * rng.randint(1, 20))
            continue
        done.add(page.current)
        page.press("p")
        yield page.current


def test_two_people_pick_two_hundred_each_at_once_and_nothing_is_lost(
    run: Run, open_page: Any
) -> None:
    with review_client(run, reviewer="anna") as annas, review_client(run, reviewer="boris") as his:
        anna = open_page(f"{annas.origin}/?token={annas.tokens[-1]}")
        boris = open_page(f"{his.origin}/?token={his.tokens[-1]}")
        both = zip(picking(anna, 1), picking(boris, 2), strict=True)
        annas_picks, his_picks = (set(each) for each in zip(*both, strict=True))
        anna.until_saved()
        boris.until_saved()
        assert len(annas_picks) == len(his_picks) == NUM_PICKED
        assert flags(run, "anna") == dict.fromkeys(annas_picks, "pick")
        assert flags(run, "boris") == dict.fromkeys(his_picks, "pick")
        anna.reload()
        assert anna.value("[NP.marks.picked, NP.policy.picked]") == [
            NUM_PICKED,
            len(annas_picks | his_picks),
        ]
        boris.press("Home", *["Control+z"] * NUM_PICKED)
        boris.until_saved()
        assert flags(run, "boris") == {}
        assert flags(run, "anna") == dict.fromkeys(annas_picks, "pick")


def exported(page: ReviewPage, reviewer: str) -> str:
    """The path of the marks that a page without a server saves."""
    page.page.locator(".saving").click()
    page.page.locator("#reviewer").fill(reviewer)
    with page.page.expect_download() as download:
        page.page.get_by_role("button", name=f"Export {NUM_PICKED} marks").click()
    return str(download.value.path())


def test_two_hundred_picks_on_the_page_as_a_file_come_into_the_run(
    run: Run, tmp_path: Path, open_page: Any
) -> None:
    copy = Store(str(tmp_path / "night"))
    with ThreadPoolExecutor(READ_THREADS) as pool:
        paths = [path for path in run.store.list() if not path.startswith("review")]
        list(pool.map(lambda path: copy.create(path, run.store.read(path)), paths))
    url = write_static_page(copy.url, ReviewOptions("anna")).url
    page = open_page(Path(url).as_uri())
    picks = set(picking(page, 3))
    page.press("e")
    page.until("NP.loupe.stage().node.classList.contains('loaded')")  # the image beside it
    page.press("g")
    page.reload()
    assert page.value("NP.marks.picked") == NUM_PICKED
    assert import_marks(run, exported(page, "carla")).num_stored == NUM_PICKED
    assert flags(run, "carla") == dict.fromkeys(picks, "pick")


def test_two_hundred_picks_by_a_signed_url_come_into_the_run(
    run: Run, seaweed: Any, open_page: Any
) -> None:
    static = write_static_page(run, ReviewOptions("anna"))
    signed = seaweed.driver().sign(static.url, expiration=3600)
    page = open_page(signed)
    assert page.value("NP.isStatic")
    seen = "new Promise((done) => { const i = new Image(); i.onload = () => done(i.width);"
    assert page.value(f"{seen} i.src = NP.rows.thumbs.atlases[0]; }})") == 1536
    picks = set(picking(page, 4))
    assert import_marks(run, exported(page, "dora")).num_stored == NUM_PICKED
    assert flags(run, "dora") == dict.fromkeys(picks, "pick")
