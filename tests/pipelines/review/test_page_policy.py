"""The policy on the page: it decides as `decisions` does, and can be counted and filtered by."""

import random
from collections.abc import Iterator
from typing import Any

import pytest
from support.review_server import ReviewServer, review_server
from support.slow_cases import slow_except

from nightpress.pipelines.run_directory.marks import Mark
from nightpress.pipelines.run_directory.marks_file import CountedMark, marks_table
from nightpress.pipelines.run_directory.marks_merge import Policy, decisions

pytestmark = pytest.mark.timeout(180)

NUM_IMAGES = 400
POLICIES = [("any", None), ("all", None), ("majority", None), ("lead", "bert"), ("lead", "ada")]


@pytest.fixture
def server() -> Iterator[ReviewServer]:
    with review_server(NUM_IMAGES) as started:
        yield started


def say(server: ReviewServer, reviewer: str, n: int, field: str, value: Any, **more: Any) -> None:
    rows = server.rows
    mark = {"image_id": rows["image_id"][n], "sha256": rows["sha256"][n], "field": field}
    server.others.append({**mark, "value": value, "counter": 1, "reviewer": reviewer, **more})


def decided(server: ReviewServer, policy: Policy) -> tuple[dict[str, str], set[str]]:
    """The flag of each image that has one under a policy, and the images that are disputed."""
    marks = [
        (each["reviewer"], Mark(**{k: v for k, v in each.items() if k != "reviewer"}))
        for each in server.others
    ]
    counted = [CountedMark(reviewer, mark, "s", 0) for reviewer, mark in marks]
    current = dict(zip(server.rows["image_id"], server.rows["sha256"], strict=True))
    rows = decisions(marks_table(counted, current), policy).to_pylist()
    flags = {row["image_id"]: row["flag"] for row in rows if row["flag"]}
    return flags, {row["image_id"] for row in rows if row["disagree"]}


@pytest.mark.parametrize(
    ("name", "lead"), slow_except(POLICIES, ("majority", None), ("lead", "bert"))
)
def test_the_page_decides_as_decisions_do(
    server: ReviewServer, open_page: Any, name: str, lead: str | None
) -> None:
    rng = random.Random(7)
    for reviewer in ("ada", "bert", "cleo"):  # ada looks at the page
        for n in rng.sample(range(NUM_IMAGES), 250):
            say(server, reviewer, n, "flag", rng.choice(["pick", "pick", "reject", ""]))
            say(server, reviewer, n, "stars", rng.choice([0, 1, 2, 4, 5]))
    say(server, "dora", 0, "flag", "pick", sha256="0" * 64)  # of an earlier picture
    server.review = {"policy": name, "lead": lead, "blind": False}
    page = open_page(server.url)
    flags, disputed = decided(server, Policy.of(name, lead))
    seen = page.value("NP.rows.imageId.map((id, i) => [id, NP.FLAGS[NP.policy.of(i)]])")
    assert {image: flag for image, flag in seen if flag} == flags
    disagree = page.value("NP.rows.imageId.filter((id, i) => NP.marks.disagree(i))")
    assert set(disagree) == disputed
    counts = [list(flags.values()).count(each) for each in ("pick", "reject")]
    assert page.value("[NP.policy.picked, NP.policy.rejected]") == counts
    tally = page.page.locator(".decided-count").inner_text()
    assert tally == f"{name}: {counts[0]} picked, {counts[1]} rejected"


def test_a_filter_shows_what_the_policy_leaves_undecided(
    server: ReviewServer, open_page: Any
) -> None:
    server.review = {"policy": "majority", "lead": None, "blind": False}
    for n in range(3):
        say(server, "bert", n, "flag", "pick")
    say(server, "cleo", 0, "flag", "reject")
    page = open_page(server.url)
    box = page.page.locator(".decision .choice")
    assert page.page.locator(".decision h3").inner_text() == "Decided by majority"
    assert [each.inner_text().split() for each in box.all()] == [
        ["Picked", "2"],
        ["Rejected", "0"],
        ["Undecided", "398"],
    ]
    page.press("x", "ArrowRight", "x", "ArrowRight", "p")  # 0: 2 to 1 rejected, 1: one to one
    page.until("NP.policy.rejected === 1")
    box.filter(has_text="Undecided").click()
    assert page.num_shown == 398
    assert page.page.locator(".chip").inner_text() == "Undecided by majority"
    page.until("location.hash.includes('decided=undecided')")
    page.reload()
    assert page.num_shown == 398
    box.filter(has_text="Undecided").click()
    box.filter(has_text="Rejected").click()
    assert page.num_shown == 1
    page.value("NP.focusView()")
    page.press("e")
    assert page.page.locator(".loupe-status").inner_text().startswith("Rejected by majority")
    assert page.findings() == []
    page.press("g")
    assert page.findings() == []


def test_without_other_reviewers_or_when_blind_no_decision_is_shown(
    server: ReviewServer, open_page: Any
) -> None:
    page = open_page(server.url)
    page.press("p")
    assert page.page.locator(".decision").is_hidden()
    page.until_saved()
    say(server, "bert", 0, "flag", "reject")
    page.reload()
    assert page.page.locator(".decision").is_visible()
    page.page.locator(".blind").click()
    assert page.page.locator(".decision").is_hidden()
    assert page.page.locator(".decided-count").count() == 0


def test_a_lead_who_has_marked_nothing_is_said(server: ReviewServer, open_page: Any) -> None:
    server.review = {"policy": "lead", "lead": "zoe", "blind": False}
    page = open_page(server.url)
    page.press("p")
    assert page.page.locator(".decision .word").inner_text() == "zoe has marked nothing yet."
    page.page.locator(".saving").click()
    assert (
        "zoe has marked nothing yet, so nothing is decided"
        in page.page.locator("dialog").inner_text()
    )


@pytest.mark.parametrize("width", slow_except([390, 1024, 1440], 390))
def test_the_decision_in_the_bar_below_never_lies_on_a_button(
    server: ReviewServer, open_page: Any, width: int
) -> None:
    for n in range(120):
        say(server, "bert", n, "flag", ("pick", "reject")[n % 2])
    page = open_page(server.url, viewport={"width": width, "height": 800})
    words = page.page.locator(".decided-count")
    if words.is_visible():
        buttons = page.page.locator("#bottom .mark-bar").bounding_box()
        box = words.bounding_box()
        assert box["x"] + box["width"] <= buttons["x"]
    assert words.is_visible() == (width > 1000)
