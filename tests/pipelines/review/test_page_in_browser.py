"""The review page in Chromium, on a server of made-up rows: looking, finding and marking."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import review_rows
from support.review_page import ReviewPage
from support.review_server import ReviewServer, review_server
from support.slow_cases import slow_except

from nightpress.pipelines.review import page as page_files

pytestmark = pytest.mark.timeout(120)

PHONE = {
    "viewport": {"width": 390, "height": 844},
    "device_scale_factor": 2,
    "has_touch": True,
    "is_mobile": True,
}


@pytest.fixture
def server() -> Iterator[ReviewServer]:
    with review_server(6000) as started:
        yield started


def test_six_thousand_images_are_a_grid_of_few_nodes(server: ReviewServer, open_page: Any) -> None:
    page = open_page(server.url)
    grid = page.page.locator("#grid")
    columns = page.value("NP.grid.columns")
    assert grid.get_attribute("role") == "grid"
    assert grid.get_attribute("aria-colcount") == str(columns)
    assert grid.get_attribute("aria-rowcount") == str(-(-6000 // columns))
    assert 10 < page.page.locator("[role=gridcell]").count() < 60
    page.press("End")
    assert page.current == "00001499_03"
    last = page.page.locator(".cell.current")
    assert last.get_attribute("aria-label").startswith("a single")
    assert grid.get_attribute("aria-activedescendant") == last.get_attribute("id")
    assert last.locator("xpath=..").get_attribute("aria-rowindex") == str(-(-6000 // columns))
    assert page.page.locator("[role=gridcell]").count() < 60


def test_counts_follow_the_other_filters_and_search_reads_prompts_only(
    server: ReviewServer, open_page: Any
) -> None:
    page = open_page(server.url)
    codes = {each["name"]: each for each in server.rows["columns"]}
    boots = [i for i, code in enumerate(codes["product"]["codes"]) if code == 0]
    at_night = [i for i in boots if codes["scene"]["codes"][i] == 1]
    assert page.count("Product", "boot") == len(boots)
    page.choice("Product", "boot").click()
    assert page.num_shown == len(boots)
    assert page.count("Scene", "city at night") == len(at_night)
    assert page.count("Product", "brogue") > 0  # what it would show instead
    page.choice("Scene", "city at night").click()
    assert page.num_shown == len(at_night)
    page.press("Control+f")
    page.page.keyboard.type("Studio -backlit 00")
    page.until("NP.view.list.length === 0")
    page.page.locator("#search").fill('"studio grey" -backlit')
    page.until("NP.filters.text.includes('grey')")
    assert page.num_shown == 0
    page.choice("Scene", "city at night").click()
    prompts = server.rows["prompt"]
    texts = [prompts["values"][prompts["codes"][i]] for i in boots]
    expected = sum("studio grey" in text and "backlit" not in text for text in texts)
    assert page.num_shown == expected > 0


def test_thousands_of_values_are_a_list_to_search_that_says_where_it_ends(
    server: ReviewServer, open_page: Any
) -> None:
    page = open_page(server.url)
    section = page.page.locator("details.facet:has(summary span:text-is('SKU'))")
    section.evaluate("node => { node.open = true; node.scrollIntoView(); }")
    section.locator("button.more").click()
    assert section.locator(".choice").count() == 200
    assert section.locator(".word").inner_text() == "200 of 2,000 shown: type to find others"
    section.locator("input.find").fill("sku-1999")
    page.until("[...document.querySelectorAll('.choices .name')].at(-1).textContent === 'sku-1999'")
    section.locator(".choice").click()
    page.until("NP.filters.values.has('sku')")
    codes = server.rows["columns"][-1]["codes"]
    assert page.num_shown == sum(code == 1999 for code in codes)


def test_marks_are_made_by_keyboard_stored_and_there_again_after_a_reload(
    server: ReviewServer, open_page: Any
) -> None:
    page = open_page(server.url)
    page.press("p", "ArrowRight", "x", "ArrowRight", "4", "ArrowRight", "6", "8", "Shift+P", "u")
    page.until_saved()
    names = server.rows["image_id"]
    assert server.marks() == {
        (names[0], "flag"): "pick",
        (names[1], "flag"): "reject",
        (names[2], "stars"): 4,
        (names[3], "colour"): "green",
        (names[3], "flag"): "pick",
    }
    assert page.current == names[4]  # Shift goes on to the next image
    page.reload()
    assert page.current == names[4]
    assert page.mark(names[3]) == {"flag": "pick", "stars": 0, "colour": "green", "comment": ""}
    assert page.page.locator(".tally-pick").inner_text() == "2"


def test_undo_goes_back_to_the_first_mark_and_redo_makes_them_again(
    server: ReviewServer, open_page: Any
) -> None:
    page = open_page(server.url)
    page.press(*["p", "ArrowRight"] * 12)
    page.press("Home", *["Shift+ArrowRight"] * 9, "x")
    assert page.value("NP.marks.rejected") == 10
    page.press(*["Control+z"] * 13)
    assert page.value("[NP.marks.picked, NP.marks.rejected]") == [0, 0]
    assert page.current == server.rows["image_id"][0]
    page.press(*["Control+Shift+z"] * 13)
    page.until_saved()
    flags = list(server.marks().values())
    assert (flags.count("reject"), flags.count("pick")) == (10, 2)


def test_a_server_killed_between_two_marks_loses_none(server: ReviewServer, open_page: Any) -> None:
    page = open_page(server.url)
    page.press("p", "ArrowRight")
    page.until_saved()
    server.stop()
    page.press("x", "ArrowRight", "3", "ArrowRight")
    page.until("NP.delivery.status === 'waiting'")
    assert page.saving == "2 marks not saved yet; trying again"
    server.answers_lost = (
        1  # stored, but the page does not hear of it: it sends the same bytes again
    )
    server.start()
    page.value("NP.delivery.retry()")
    page.until_saved()
    assert page.saving == "All marks saved"
    assert sorted(map(str, server.marks().values())) == ["3", "pick", "reject"]
    assert len(server.batches) == 2


def test_marks_that_were_not_delivered_are_by_the_next_window(
    server: ReviewServer, open_page: Any
) -> None:
    page = open_page(server.url)
    server.stop()
    page.press("p", "ArrowRight", "5")
    page.until("NP.delivery.status === 'waiting'")
    context = page.page.context
    page.page.close()  # offline, and the window is gone too
    server.start()
    again = ReviewPage(context.new_page())
    again.open(server.url)
    again.until_saved()
    names = server.rows["image_id"]
    assert server.marks() == {(names[0], "flag"): "pick", (names[1], "stars"): 5}
    assert again.value("NP.marks.picked") == 1
    assert again.value("Object.keys(localStorage).filter((k) => k.includes('mark:'))") == []


def test_what_the_server_says_when_it_refuses_is_shown_and_the_marks_are_kept(
    server: ReviewServer, open_page: Any
) -> None:
    page = open_page(server.url)
    server.refuse = (403, "Open the address that nightpress review printed")
    page.press("p")
    page.until("NP.delivery.status === 'shut'")
    words = "1 mark not saved: Open the address that nightpress review printed"
    assert page.saving == words
    server.refuse = None
    page.value("NP.delivery.retry()")
    page.until_saved()
    assert list(server.marks().values()) == ["pick"]


def test_a_prompt_full_of_html_is_shown_as_it_is(server: ReviewServer, open_page: Any) -> None:
    page = open_page(f"{server.url}#at={server.rows['image_id'][12]}")
    page.press("j", "i", "e")
    assert page.page.locator(".fact-prompt").inner_text() == review_rows.HTML
    assert page.page.locator(".loupe-title").inner_text() == review_rows.HTML
    assert page.value("document.title") == "shoes-spring · review"
    assert page.page.locator("img[onerror], [src=x]").count() == 0
    page.press("g")
    assert review_rows.HTML[:40] in page.page.locator(".cell.current .caption").inner_text()


@pytest.mark.parametrize("scheme", slow_except(["dark", "light"], "dark"))
def test_axe_finds_nothing_serious(server: ReviewServer, open_page: Any, scheme: str) -> None:
    page = open_page(server.url, color_scheme=scheme)
    page.press("p", "ArrowRight", "x", "ArrowRight", "3", "6", "i")
    page.choice("Product", "boot").click()
    assert page.findings() == []
    page.value("NP.focusView()")
    page.press("e")
    assert page.findings() == []


def test_phone_width_swipes_mark_and_nothing_is_wider_than_the_screen(
    server: ReviewServer, open_page: Any
) -> None:
    page = open_page(server.url, **PHONE)
    assert page.value("document.documentElement.scrollWidth") == 390
    assert page.value("NP.grid.columns") == 3
    page.page.locator(".cell").first.tap()
    assert page.value("NP.view.mode") == "loupe"
    first, second, third = server.rows["image_id"][:3]
    swipe(page.page, (195, 500), (195, 300))
    assert page.current == second
    swipe(page.page, (195, 300), (195, 500))
    assert page.current == third
    swipe(page.page, (100, 400), (300, 400))
    assert page.current == second
    page.until_saved()
    assert server.marks() == {(first, "flag"): "pick", (second, "flag"): "reject"}


def swipe(page: Any, start: tuple[int, int], end: tuple[int, int]) -> None:
    session = page.context.new_cdp_session(page)
    for step in range(6):
        x, y = (start[k] + (end[k] - start[k]) * step / 5 for k in (0, 1))
        kind = "touchMove" if step else "touchStart"
        points = {"type": kind, "touchPoints": [{"x": x, "y": y}]}
        session.send("Input.dispatchTouchEvent", points)
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


@pytest.mark.slow
def test_the_page_as_a_file_keeps_marks_and_exports_them(open_page: Any, tmp_path: Path) -> None:
    rows = review_rows.made_rows(64)
    rows["thumbs"]["atlases"] = ["thumbs/0.webp"]
    (tmp_path / "thumbs").mkdir()
    (tmp_path / "thumbs" / "0.webp").write_bytes(review_rows.atlas_file(0))
    grace = {"reviewer": "grace", "field": "flag", "value": "pick", "counter": 7}
    mark = {"image_id": rows["image_id"][1], "sha256": rows["sha256"][1], **grace}
    text = page_files.static_page(rows, {"marks": [mark], "reviewers": ["grace"]})
    (tmp_path / "review.html").write_text(text, encoding="utf-8")
    page = open_page((tmp_path / "review.html").as_uri())
    is_seen = "new Promise((done) => { const i = new Image(); i.onload = () => done(i.width);"
    assert page.value(f"{is_seen} i.src = NP.rows.thumbs.atlases[0]; }})") == 1536
    page.press("p", "ArrowRight", "x")
    assert page.saving == "Only this browser has 2 marks: export"
    page.reload()
    assert page.value("[NP.marks.picked, NP.marks.rejected]") == [1, 1]
    assert page.value("NP.marks.disagree(1)")
    page.page.locator(".saving").click()
    page.page.locator("#reviewer").fill("ada")
    with page.page.expect_download() as download:
        page.page.get_by_role("button", name="Export 2 marks").click()
    exported = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
    assert (exported["format"], exported["run"], exported["reviewer"]) == (1, "f" * 16, "ada")
    values = {each["image_id"]: each["value"] for each in exported["marks"]}
    assert values == {rows["image_id"][0]: "pick", rows["image_id"][1]: "reject"}
    assert min(each["counter"] for each in exported["marks"]) > 7  # later than all that it knew
