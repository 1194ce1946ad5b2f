"""Whole mornings on the review page in Chromium: many marks, several reviewers, odd runs, views."""

from collections.abc import Iterator
from typing import Any

import pytest
from support import review_rows
from support.review_page import ReviewPage
from support.review_server import ReviewServer, review_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def server() -> Iterator[ReviewServer]:
    with review_server(6000) as started:
        yield started


def other(server: ReviewServer, n: int, field: str, value: Any, **more: Any) -> dict[str, Any]:
    """A mark of grace on image `n`."""
    mark = {
        "image_id": server.rows["image_id"][n],
        "sha256": server.rows["sha256"][n],
        "field": field,
        "value": value,
        "counter": n + 1,
        "reviewer": "grace",
        **more,
    }
    server.others.append(mark)
    return mark


def test_three_hundred_marks_by_keyboard_with_a_server_that_dies_again_and_again(
    server: ReviewServer, open_page: Any
) -> None:
    page = open_page(server.url)
    names = server.rows["image_id"]
    expected: dict[tuple[str, str], Any] = {}
    flags = {"p": "pick", "x": "reject"}
    colours = {"6": "red", "7": "yellow", "8": "green", "9": "blue"}
    for n in range(300):
        key = "px12345px6789px"[n % 15]
        page.press(key, "ArrowRight")
        field = "flag" if key in flags else "stars" if key in "12345" else "colour"
        expected[names[n], field] = flags.get(key) or colours.get(key) or int(key)
        if n % 50 == 20:
            server.answers_lost = 1
        if n % 60 == 30:
            server.stop()
        if n % 60 == 45:
            server.start()
    page.value("NP.delivery.retry()")
    page.until_saved()
    assert server.marks() == expected
    page.reload()
    assert page.value("NP.marks.picked") == list(expected.values()).count("pick")
    page.press(*["Control+z"] * 5)
    page.until_saved()
    assert server.marks()[names[299], "flag"] == ""


def test_two_reviewers_see_each_other_and_where_they_disagree(
    server: ReviewServer, open_page: Any
) -> None:
    for n, value in ((0, "pick"), (1, "reject"), (2, "pick")):
        other(server, n, "flag", value)
    other(server, 1, "comment", "<b>the heel</b> is cut")
    page = open_page(server.url)
    page.press("p", "ArrowRight", "p", "ArrowRight", "x")
    assert page.value("[0, 1, 2, 3].map(NP.marks.disagree)") == [False, True, True, False]
    assert page.page.locator(".cell .other").count() == 3
    section = page.page.locator(".facet.marks .choice:has(.name:text-is('Disagreement'))")
    assert section.locator(".count").inner_text() == "2"
    section.click()
    assert page.num_shown == 2
    page.press("Home", "i")
    assert "<b>the heel</b> is cut" in page.page.locator(".remark").inner_text()
    page.page.get_by_role("button", name="Blind").click()
    assert page.page.locator(".cell .other, .remark").count() == 0
    assert page.num_shown == 6000  # a blind reviewer does not see disagreements either
    assert section.count() == 0
    page.until_saved()
    assert server.marks()[server.rows["image_id"][2], "flag"] == "reject"


def test_marks_of_others_come_while_the_page_is_open(server: ReviewServer, open_page: Any) -> None:
    page = open_page(server.url)
    assert page.page.locator(".blind").is_hidden()
    other(server, 4, "flag", "pick")
    page.value("document.dispatchEvent(new Event('visibilitychange'))")
    page.until("NP.marks.others.size === 1")
    assert page.page.locator(".cell .other").inner_text() == "GR"


def test_an_image_that_was_made_again_says_so_until_it_is_marked_again(
    server: ReviewServer, open_page: Any
) -> None:
    other(server, 0, "flag", "pick", reviewer="ada", sha256="0" * 64)
    page = open_page(server.url)
    first = page.page.locator(".cell").first
    assert "Changed since you picked it" in first.get_attribute("aria-label")
    assert first.get_attribute("data-flag") == ""
    assert page.value("NP.marks.picked") == 0
    page.press("p")
    page.until_saved()
    page.reload()
    assert "Changed" not in page.page.locator(".cell").first.get_attribute("aria-label")
    assert page.value("NP.marks.picked") == 1


def test_compared_images_zoom_and_pan_together(server: ReviewServer, open_page: Any) -> None:
    page = open_page(server.url)
    page.press("Shift+ArrowRight", "Shift+ArrowRight", "Shift+ArrowRight", "c")
    assert page.page.locator(".pane").count() == 4
    stage = page.page.locator(".pane .stage").nth(1)
    box = stage.bounding_box()
    page.page.mouse.click(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.5)
    scales = page.page.locator(".pane .scale").all_inner_texts()
    assert scales == ["100%"] * 4
    before = [each.bounding_box() for each in page.page.locator(".pane .frame").all()]
    page.page.mouse.move(box["x"] + 100, box["y"] + 200)
    page.page.mouse.down()
    page.page.mouse.move(box["x"] + 40, box["y"] + 150, steps=4)
    page.page.mouse.up()
    after = [each.bounding_box() for each in page.page.locator(".pane .frame").all()]
    moved = {
        (round(a["x"] - b["x"]), round(a["y"] - b["y"])) for a, b in zip(after, before, strict=True)
    }
    assert moved == {(-60, -50)}
    page.press("Home", "p", "ArrowRight", "x", "z")
    assert page.page.locator(".pane .scale:visible").count() == 0
    page.until_saved()
    names = server.rows["image_id"]
    assert server.marks() == {(names[0], "flag"): "pick", (names[1], "flag"): "reject"}
    page.press("Escape")
    assert page.value("NP.view.mode") == "grid"
    assert page.current == names[1]


def test_compare_takes_eight_and_says_what_it_leaves_out(
    server: ReviewServer, open_page: Any
) -> None:
    page = open_page(server.url)
    page.press(*["Shift+ArrowRight"] * 11, "c")
    assert page.page.locator(".pane").count() == 8
    words = page.page.locator("#toast").inner_text()
    assert words == "Compare shows at most 8: the first of 12 selected"
    page.press("n")
    assert page.page.locator(".pane").count() == 12
    page.press("/", "/")
    assert page.page.locator(".pane").count() == 10
    page.reload()
    assert page.page.locator(".pane").count() == 10


def test_a_loupe_at_a_hundred_percent_shows_one_pixel_per_pixel(
    server: ReviewServer, open_page: Any
) -> None:
    page = open_page(server.url)
    page.press("z")
    assert page.page.locator("#loupe .scale").inner_text() == "100%"
    assert page.page.locator("#loupe .frame").bounding_box()["width"] == pytest.approx(1024, 1)
    page.press("ArrowRight")
    assert page.page.locator("#loupe .scale").inner_text() == "100%"
    page.press("z", "Enter")
    assert page.value("NP.view.mode") == "grid"
    page.page.go_back()
    page.until("NP.view.mode === 'grid'")


def test_before_and_after_is_a_slider_for_images_that_have_an_input(
    server: ReviewServer, open_page: Any
) -> None:
    page = open_page(server.url)
    page.press("e", "b")
    handle = page.page.locator("[role=slider].handle")
    assert handle.get_attribute("aria-valuenow") == "50"
    handle.focus()
    page.press("ArrowLeft", "ArrowLeft")
    assert handle.get_attribute("aria-valuenow") == "46"
    assert page.current == server.rows["image_id"][0]
    box = page.page.locator("#loupe .frame").bounding_box()
    grip = handle.bounding_box()
    page.page.mouse.move(grip["x"] + 20, grip["y"] + 100)
    page.page.mouse.down()
    page.page.mouse.move(box["x"] + box["width"] * 0.9, grip["y"] + 100)
    page.page.mouse.up()
    assert handle.get_attribute("aria-valuenow") == "90"
    page.press("Escape", "ArrowRight", "e")
    assert handle.is_hidden()
    page.press("b")
    assert page.page.locator("#toast").inner_text() == "This image was made from its prompt alone"


def test_with_caps_lock_each_mark_goes_on_to_the_next_image(
    server: ReviewServer, open_page: Any
) -> None:
    page = open_page(server.url)
    keys = [("P", True), ("x", True), ("4", True), ("p", False)]
    for key, caps_lock in keys:
        page.value_of(
            """([key, caps]) => document.activeElement.dispatchEvent(new KeyboardEvent('keydown',
            {key, code: '', modifierCapsLock: caps, bubbles: true, cancelable: true}))""",
            [key, caps_lock],
        )
    page.until_saved()
    names = server.rows["image_id"]
    assert server.marks() == {
        (names[0], "flag"): "pick",
        (names[1], "flag"): "reject",
        (names[2], "stars"): 4,
        (names[3], "flag"): "pick",
    }
    assert page.current == names[3]


def test_two_fingers_zoom_the_picture_and_move_it(server: ReviewServer, open_page: Any) -> None:
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    page = open_page(f"{server.url}#view=loupe&at={server.rows['image_id'][0]}", **phone)
    before = page.page.locator("#loupe .frame").bounding_box()["width"]
    session = page.page.context.new_cdp_session(page.page)
    for kind, apart in (("Start", 40), ("Move", 80), ("Move", 120)):
        points = [
            {"x": 195 - apart / 2, "y": 420, "id": 0},
            {"x": 195 + apart / 2, "y": 420, "id": 1},
        ]
        session.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": points})
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    after = page.page.locator("#loupe .frame").bounding_box()["width"]
    assert after == pytest.approx(3 * before, rel=0.1)
    assert page.value("NP.view.mode") == "loupe"
    assert page.value("NP.marks.picked + NP.marks.rejected") == 0


def test_stacks_close_to_their_best_image_and_open_again(
    server: ReviewServer, open_page: Any
) -> None:
    page = open_page(f"{server.url}#group=id")
    names = server.rows["image_id"]
    page.press("ArrowRight", "ArrowRight", "p", "Shift+s")
    assert page.num_shown == 1500
    assert page.current == names[2]
    assert "stack of 4" in page.page.locator(".cell.current").get_attribute("aria-label")
    page.press("s")
    assert page.num_shown == 1503
    page.reload()
    assert page.num_shown == 1500
    page.until("location.hash.includes('stacks=closed')")


def test_the_state_of_the_page_is_in_its_address(server: ReviewServer, open_page: Any) -> None:
    page = open_page(server.url)
    page.choice("Product", "clog").click()
    page.choice("Light", "none").click()
    page.value("NP.filters.setRange('score.sharpness', 40, Infinity)")
    page.value("(NP.order.by = 'score.clip', NP.order.descending = true, NP.emit('order'))")
    page.press("ArrowRight", "ArrowRight", "p")
    page.until_saved()
    page.until("location.hash.includes('score.clip')")
    before = (page.num_shown, page.current, page.value("[...NP.view.list.subarray(0, 20)]"))
    again = ReviewPage(page.page.context.new_page())
    again.open(page.page.url)
    after = (again.num_shown, again.current, again.value("[...NP.view.list.subarray(0, 20)]"))
    assert after == before
    assert again.errors == []


def test_an_image_marked_out_of_the_filter_stays_until_the_view_is_refreshed(
    server: ReviewServer, open_page: Any
) -> None:
    page = open_page(f"{server.url}#flag=unmarked")
    page.press("p", "ArrowRight", "x")
    assert page.num_shown == 6000
    stale = page.page.locator(".chip.stale")
    stale.wait_for()
    assert stale.inner_text() == "2 images marked since: refresh (R)"
    page.press("r")
    assert page.num_shown == 5998
    assert page.current == server.rows["image_id"][2]


def test_the_current_image_comes_back_when_the_filter_that_hid_it_is_taken_away(
    server: ReviewServer, open_page: Any
) -> None:
    page = open_page(server.url)
    page.press(*["ArrowRight"] * 9)
    here = page.current
    page.choice("Scene", "studio grey").click()
    assert page.current != here
    page.choice("Scene", "studio grey").click()
    assert page.current == here
    assert page.value("document.activeElement.id") == "grid"


def test_a_closed_server_of_a_read_only_run_makes_no_marks(open_page: Any) -> None:
    with review_server(64, read_only=True) as server:
        page = open_page(server.url)
        page.press("p", "Control+a", "5")
        assert "read-only" in page.page.locator("#toast").inner_text()
        assert page.saving == "Read-only"
        assert page.value("[NP.marks.picked, NP.delivery.unsaved()]") == [0, 0]


def test_failed_rows_and_notes_are_listed(open_page: Any) -> None:
    notes = ["12 images have no thumbnail yet", "3 of 40 shards are not committed yet"]
    with review_server(64, notes=notes) as server:
        page = open_page(server.url)
        assert page.page.locator("#notes").inner_text() == " · ".join(notes)
        page.page.get_by_role("button", name="3 failed").click()
        rows = page.page.locator("dialog tbody tr")
        assert rows.count() == 3
        assert "InputMissing s3://in/0.png is not there" in rows.first.inner_text()
        assert page.findings() == []
        page.press("Escape", "?")
        assert page.findings() == []


@pytest.mark.parametrize("num_images", [0, 1, 3])
def test_runs_of_no_image_and_of_few_are_pages_too(open_page: Any, num_images: int) -> None:
    with review_server(num_images, complete=False) as server:
        page = open_page(server.url)
        keys = [
            "p",
            "ArrowDown",
            "End",
            "e",
            "z",
            "c",
            "n",
            "s",
            "g",
            "Control+a",
            "x",
            "i",
            "Escape",
        ]
        page.press(*keys, "Control+z")
        assert page.page.locator("#empty").is_visible() == (num_images == 0)
        if num_images == 0:
            assert "has not stored an image yet" in page.page.locator("#empty").inner_text()
        assert page.page.locator(".cell").count() == num_images


def test_a_missing_atlas_is_said_and_whole_pictures_take_its_place(open_page: Any) -> None:
    def change(rows: dict[str, Any]) -> None:
        rows["thumbs"]["atlases"][0] = "gone/0.webp"
        rows["thumbs"]["atlas"][9] = -1

    with review_server(128, change) as server:
        page = open_page(server.url)
        page.until("document.querySelectorAll('.cell .pic.bare img').length >= 10")
        assert "thumbnails are missing" in page.page.locator("#toast").inner_text()


def test_a_grid_that_flies_by_asks_for_the_thumbnails_where_it_comes_to_rest(
    server: ReviewServer, open_page: Any
) -> None:
    page = open_page(server.url)
    asked = list[str]()
    page.page.on("request", lambda request: asked.append(request.url))
    page.value_of(
        """async () => {
            const scroller = NP.byId('scroller');
            for (let step = 0; step < 60; step++) {
                scroller.scrollTop += 1500;
                await new Promise(requestAnimationFrame);
            }
        }""",
        None,
    )
    page.until("[...NP.grid.cells()].every((cell) => cell.parts.pic.style.backgroundImage !== '')")
    atlases = {url for url in asked if "/atlas/" in url}
    place = page.value("Math.max(...[...NP.grid.cells()].map((cell) => cell.image))")
    assert place > 1500
    assert any(f"{place // 64:04d}.webp" in url for url in atlases)
    assert len(atlases) < place / 64 / 2


def test_clips_play_where_the_pointer_is_unless_motion_is_reduced(open_page: Any) -> None:
    def change(rows: dict[str, Any]) -> None:
        count = rows["length"]
        rows["num_frames"] = [49] * count
        rows["strips"] = {
            "atlases": ["atlas/0001.webp"],
            "atlas": [0] * count,
            "first_cell": [n % 8 * 8 for n in range(count)],
            "num": [8] * count,
        }

    with review_server(64, change) as server:
        for motion, is_playing in (("no-preference", True), ("reduce", False)):
            page = open_page(server.url, reduced_motion=motion)
            cell = page.page.locator(".cell").nth(2)
            assert "clip" in cell.get_attribute("aria-label")
            cell.hover()
            assert page.value("NP.thumbs.playingNode() !== null") == is_playing
            if is_playing:
                page.until(
                    "document.querySelectorAll('.cell .pic')[2]"
                    ".style.backgroundImage.includes('0001')"
                )


def test_comments_are_kept_and_right_to_left_prompts_read_that_way(
    server: ReviewServer, open_page: Any
) -> None:
    page = open_page(f"{server.url}#at={server.rows['image_id'][20]}")
    page.press("m")
    page.page.keyboard.type("the p of x is 5")
    page.press("Control+Enter", "p")
    page.until_saved()
    name = server.rows["image_id"][20]
    assert server.marks() == {(name, "comment"): "the p of x is 5", (name, "flag"): "pick"}
    prompt = page.page.locator(".fact-prompt")
    assert prompt.inner_text() == review_rows.RIGHT_TO_LEFT
    assert prompt.evaluate("node => getComputedStyle(node).direction") == "rtl"


def test_a_very_long_prompt_is_whole_in_the_facts_and_covers_nothing(
    server: ReviewServer, open_page: Any
) -> None:
    page = open_page(f"{server.url}#at={server.rows['image_id'][28]}&view=loupe")
    page.press("i")
    prompt = page.page.locator(".fact-prompt")
    assert prompt.text_content() == review_rows.LONG
    assert prompt.bounding_box()["height"] < 200
    assert page.page.locator(".loupe-title").bounding_box()["height"] < 40
    assert page.value("document.documentElement.scrollWidth") == 1440


def test_a_job_can_be_copied(server: ReviewServer, open_page: Any) -> None:
    page = open_page(server.url, permissions=["clipboard-read", "clipboard-write"])
    page.press("i")
    page.page.get_by_role("button", name="Copy as job").click()
    page.until("document.getElementById('toast').textContent === 'Job copied'")
    assert page.value("navigator.clipboard.readText()") == "manifest: one.csv  # 00000000_00\n"


def test_undo_goes_on_after_a_reload(server: ReviewServer, open_page: Any) -> None:
    page = open_page(server.url)
    page.press("p", "ArrowRight", "x")
    page.until_saved()
    page.reload()
    page.press("Control+z", "Control+z")
    page.until_saved()
    assert list(server.marks().values()) == ["", ""]


def test_a_mark_that_is_refused_keeps_no_other_back(server: ReviewServer, open_page: Any) -> None:
    page = open_page(server.url)
    names = server.rows["image_id"]
    server.unknown = {names[3]}
    page.press("Control+a", "x")
    page.until("NP.delivery.unsaved() === 0")
    assert page.saving == f"1 mark refused: the run has no image {names[3]}"
    assert set(server.marks()) == {(name, "flag") for name in names if name != names[3]}
    page.page.locator(".saving").click()
    page.page.get_by_role("button", name="Discard").click()
    assert page.saving == "All marks saved"
    assert page.value("Object.keys(localStorage).filter((k) => k.includes(':batch:'))") == []


def test_hundreds_of_marks_are_made_taken_back_and_made_again_at_once(
    server: ReviewServer, open_page: Any
) -> None:
    page = open_page(server.url)
    page.press("Control+a", "p", "x", "Control+z", "5")
    page.until_saved()
    values = server.marks()
    assert [values[name, "flag"] for name in server.rows["image_id"]] == ["pick"] * 6000
    assert [values[name, "stars"] for name in server.rows["image_id"]] == [5] * 6000


def test_a_few_hundred_marks_follow_others_at_once(open_page: Any) -> None:
    with review_server(300) as server:
        page = open_page(server.url)
        for keys in (["Control+a", "u", "p"], ["x"], ["Control+z"]):
            page.press(*keys)
            page.until_saved()
        assert set(server.marks().values()) == {"pick"}


def test_a_number_that_another_window_took_is_no_loss(server: ReviewServer, open_page: Any) -> None:
    page = open_page(server.url)
    server.batches[page.value("NP.delivery.session"), 0] = '{"marks": []}'
    page.press("p")
    page.until_saved()
    assert list(server.marks().values()) == ["pick"]


def test_a_server_that_answers_with_an_error_is_quoted(browser: Any) -> None:
    with review_server(64) as server:
        server.rows_refused = (401, "This address needs its token")
        page = browser.new_page()
        page.goto(server.url)
        page.locator("#empty h2").wait_for()
        assert "This address needs its token" in page.locator("#empty").inner_text()
        page.close()


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_axe_finds_nothing_serious_in_any_view(
    server: ReviewServer, open_page: Any, scheme: str
) -> None:
    other(server, 1, "flag", "reject")
    other(server, 2, "flag", "pick", reviewer="ada", sha256="0" * 64)
    page = open_page(f"{server.url}#group=id", color_scheme=scheme)
    page.press("p", "Shift+ArrowRight", "5", "7", "j", "i")
    for keys in (["c"], ["n"], ["e", "b"], ["g", "Escape", "f"]):
        page.press(*keys)
        page.page.wait_for_timeout(200)
        assert page.findings() == [], keys


def test_a_hundred_thousand_images_are_a_grid_of_few_nodes(open_page: Any) -> None:
    with review_server(100_000) as server:
        page = open_page(server.url)
        page.press("End", "p")
        page.until_saved()
        assert page.value("NP.grid.nodeCount()") < 1200
        assert list(server.marks()) == [(server.rows["image_id"][-1], "flag")]
        assert page.page.locator(".cell.current").is_visible()
