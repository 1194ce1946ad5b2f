"""A morning with 6,000 images on SeaweedFS: two people pick at once, with keys alone."""

import random
from collections.abc import Iterator
from typing import Any

import pytest
from support.large_runs import large_run
from support.review_client import review_client
from support.review_page import ReviewPage
from support.servers import Folder

from nightpress.pipelines import Run, open_run

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
