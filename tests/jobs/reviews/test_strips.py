"""On the review page a clip plays while the pointer is over it, from its strip."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.clip_runs import made_clips
from support.review_client import review_client
from support.review_page import ReviewPage

from nightpress.jobs.reviews.options import ReviewOptions
from nightpress.jobs.reviews.static import write_static_page
from nightpress.jobs.reviews.thumbs import LateThumbs
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.run_directory.thumbs import read_thumbs

pytestmark = pytest.mark.timeout(180)

WALKS = [
    {"prompt": f"walk {n}", "seed": n, "to_seed": 20 + n, "num_frames": 5 + 6 * n} for n in range(5)
]
FRAME_MS = 160


def clips(folder: Path, **others: Any) -> Run:
    sampling = {"width": 256, "height": 160}
    return made_clips(folder, WALKS, images={"format": "webp"}, sampling=sampling, **others)


@contextmanager
def served(run: Run, open_page: Any, **options: Any) -> Iterator[ReviewPage]:
    with review_client(run) as client:
        yield open_page(f"{client.origin}/?token={client.tokens[-1]}", **options)


def shown(page: ReviewPage, number: int) -> np.ndarray:
    """The pixels of the middle of a tile's picture."""
    box = page.page.locator(".cell .pic").nth(number).bounding_box()
    middle = {
        "x": box["x"] + box["width"] / 4,
        "y": box["y"] + box["height"] / 4,
        "width": box["width"] / 2,
        "height": box["height"] / 2,
    }
    picture = Image.open(io.BytesIO(page.page.screenshot(clip=middle))).convert("RGB")
    return np.asarray(picture).astype(int)


def looks(page: ReviewPage, number: int, times: int = 8) -> list[np.ndarray]:
    """What a tile shows at moments that follow each other."""
    found = []
    for _ in range(times):
        page.page.wait_for_timeout(FRAME_MS)
        found.append(shown(page, number))
    return found


def differ(one: np.ndarray, two: np.ndarray) -> bool:
    return bool(np.abs(one - two).mean() > 4)


def until_still(page: ReviewPage) -> None:
    """Wait for the thumbnails, and stop the current clip, which plays without the pointer."""
    page.until("[...NP.grid.cells()].every((c) => c.parts.pic.style.backgroundImage !== '')")
    page.value(
        "Promise.all(NP.rows.thumbs.atlases.map((url) =>"
        " Object.assign(new Image(), { src: url }).decode()))"
    )
    page.value("NP.thumbs.stop()")
    page.page.wait_for_timeout(300)


def plays_under_the_pointer(page: ReviewPage, number: int) -> None:
    """The tile moves while the pointer is over it, and shows the poster before and after."""
    until_still(page)
    poster = shown(page, number)
    page.page.locator(".cell .pic").nth(number).hover()
    page.until(f"document.querySelectorAll('.cell .pic')[{number}] === NP.thumbs.playingNode()")
    seen = looks(page, number)
    assert sum(differ(poster, each) for each in seen) >= 3
    assert any(differ(seen[0], each) for each in seen[1:])
    page.page.mouse.move(2, 2)
    page.until("NP.thumbs.playingNode() === null")
    assert not any(differ(poster, each) for each in looks(page, number, 3))


def test_a_clip_plays_under_the_pointer_and_then_shows_its_poster_again(
    tmp_path: Path, open_page: Any
) -> None:
    run = clips(tmp_path, review={"thumbs": True})
    with served(run, open_page) as page:
        assert page.value("NP.rows.strips.num") == [
            min(each, 16) for each in run.metadata.to_table()["num_frames"].to_pylist()
        ]
        assert page.value("NP.rows.strips.atlases.length") == 2
        for number in (0, 4):
            plays_under_the_pointer(page, number)


@pytest.mark.slow
def test_nothing_plays_where_motion_is_to_be_reduced(tmp_path: Path, open_page: Any) -> None:
    run = clips(tmp_path, review={"thumbs": True})
    with served(run, open_page, reduced_motion="reduce") as page:
        until_still(page)
        poster = shown(page, 1)
        page.page.locator(".cell .pic").nth(1).hover()
        assert page.value("NP.thumbs.isClip(1) && NP.thumbs.playingNode() === null")
        page.press("ArrowRight")
        assert page.value("NP.view.current") == 1
        assert not any(differ(poster, each) for each in looks(page, 1))


@pytest.mark.slow
def test_a_clip_whose_strip_is_lost_keeps_its_poster(tmp_path: Path, open_page: Any) -> None:
    run = clips(tmp_path, review={"thumbs": True})
    for path, atlas in read_thumbs(run.store).named.items():
        if atlas.strips:
            data = run.store.read(path)
            run.store.put(path, data[:100] + bytes([data[100] ^ 1]) + data[101:])
    with review_client(run, read_only=True) as client:
        page = open_page(f"{client.origin}/?token={client.tokens[-1]}")
        until_still(page)
        poster = shown(page, 2)
        page.page.locator(".cell .pic").nth(2).hover()
        assert page.value("NP.thumbs.playingNode() !== null")
        assert not any(differ(poster, each) for each in looks(page, 2, 4))


def test_strips_that_are_made_while_the_page_is_open_play_without_a_reload(
    tmp_path: Path, open_page: Any
) -> None:
    run = clips(tmp_path)
    said = list[Any]()
    late = LateThumbs(run, said.append)
    with review_client(run, late=late) as client:
        page = open_page(f"{client.origin}/?token={client.tokens[-1]}")
        assert page.value("NP.rows.strips.atlas") == [-1] * 5
        with late.running():
            page.until("NP.lateThumbs.is_done")
        assert page.value("NP.lateThumbs.num_made") == 10
        assert "10 thumbnails made" in said[-1].text
        assert page.value("NP.rows.strips.first_cell") == [0, 16, 32, 48, 0]
        plays_under_the_pointer(page, 3)


def test_clips_play_on_the_static_page(tmp_path: Path, open_page: Any) -> None:
    run = clips(tmp_path)
    page = open_page(Path(write_static_page(run, ReviewOptions("anna")).url).as_uri())
    assert page.value("NP.rows.strips.atlases.every((url) => url.startsWith('./thumbs/'))")
    plays_under_the_pointer(page, 4)
