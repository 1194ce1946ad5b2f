"""The review page as text: nothing inline, nothing from elsewhere, and values stay values."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from importlib.resources import files
from typing import Any

import pytest
from support.review_rows import HTML, made_rows

from nightpress.pipelines.review import page

FOLDER = files("nightpress.pipelines.review") / "page"
MOST_LINES = 400


def sources(suffix: str) -> dict[str, str]:
    return {
        each.name: each.read_text(encoding="utf-8")
        for each in FOLDER.iterdir()
        if each.name.endswith(suffix)
    }


class Scripts(HTMLParser):
    """Collects the scripts, styles and attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {"script": [], "style": []}
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in self.texts:
            self._open = tag
            self.texts[tag].append("")

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts[self._open][-1] += data


def of_static(**changes: Any) -> Scripts:
    rows = {**made_rows(40), **changes}
    return Scripts(page.static_page(rows, {"marks": [], "reviewers": []}))


def policy_of(found: Scripts) -> str:
    (policy,) = [a["content"] for t, a in found.elements if t == "meta" and "http-equiv" in a]
    assert policy is not None
    return policy


def digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def test_every_file_of_the_page_is_sent_and_short() -> None:
    there = {each.name for each in FOLDER.iterdir()}
    assert there == {*page.ASSETS, "review.html.j2"}
    long = {name for name in there if len((FOLDER / name).read_text().splitlines()) > MOST_LINES}
    assert long == set()


def test_the_page_never_makes_html_out_of_text() -> None:
    makers = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|srcdoc"
    assert {name for name, text in sources(".js").items() if re.search(makers, text)} == set()
    assert "require-trusted-types-for 'script'" in page.SERVED_POLICY


def test_the_served_page_has_no_script_or_style_of_its_own_and_names_only_assets() -> None:
    found = Scripts(page.served_page())
    assert not any(text.strip() for texts in found.texts.values() for text in texts)
    attributes = [(tag, name) for tag, attrs in found.elements for name in attrs]
    assert not [each for each in attributes if each[1] == "style" or each[1].startswith("on")]
    linked = [a["src"] for t, a in found.elements if t == "script"]
    linked += [a["href"] for _, a in found.elements if a.get("rel") == "stylesheet"]
    assert sorted(filter(None, linked)) == sorted(f"assets/{name}" for name in page.ASSETS)
    assert "unsafe" not in page.SERVED_POLICY


@pytest.mark.parametrize("name", ["../page.py", "review.html.j2", "x.js", "", "/etc/passwd"])
def test_only_assets_are_given(name: str) -> None:
    with pytest.raises(KeyError):
        page.asset(name)


def test_an_asset_has_its_content_type() -> None:
    assert page.asset("app.js")[1] == "text/javascript; charset=utf-8"
    assert page.asset("grid.css")[1] == "text/css; charset=utf-8"


def test_the_policy_of_the_static_page_allows_exactly_its_own_script_and_style() -> None:
    found = of_static()
    policy = policy_of(found)
    data, script = found.texts["script"]
    (style,) = found.texts["style"]
    assert f"script-src '{digest(script)}'" in policy
    assert f"style-src '{digest(style)}'" in policy
    assert "unsafe" not in policy
    assert json.loads(data)["rows"]["length"] == 40


def test_html_in_prompts_is_data_of_the_static_page_and_nothing_else() -> None:
    found = of_static()
    data = json.loads(found.texts["script"][0])
    assert HTML in data["rows"]["prompt"]["values"]
    assert not [attrs for tag, attrs in found.elements if tag == "img" or "onerror" in attrs]
    assert len(found.texts["script"]) == 2


def test_paths_are_linked_relatively_and_odd_names_stay_one_path() -> None:
    rows = made_rows(1)
    rows["thumbs"]["atlases"] = ["thumbs/a b#1?.webp"]
    text = page.static_page(rows, images=["images/s3:x%.png"])
    data = json.loads(Scripts(text).texts["script"][0])
    assert data["rows"]["thumbs"]["atlases"] == ["./thumbs/a b%231%3F.webp"]
    assert data["rows"]["images"] == ["./images/s3:x%25.png"]


def test_embedded_atlases_are_data_urls() -> None:
    rows = made_rows(1)
    locate = page.embedded(lambda path: path.encode())
    data = json.loads(Scripts(page.static_page(rows, locate=locate)).texts["script"][0])
    (url,) = data["rows"]["thumbs"]["atlases"]
    assert url == "data:image/webp;base64," + base64.b64encode(b"atlas/0000.webp").decode()
    assert data["rows"]["images"] is None


def test_the_policy_lets_signed_urls_load_and_no_other_host() -> None:
    text = page.static_page(
        made_rows(1),
        images=["images/a.png", None],
        locate=lambda path: f"https://press.s3.example:8443/{path}?X-Signature=abc",
    )
    policy = policy_of(Scripts(text))
    (images,) = re.findall(r"img-src ([^;]+)", policy)
    assert images.split() == ["'self'", "file:", "data:", "blob:", "https://press.s3.example:8443"]


def test_rows_are_not_changed_by_making_a_page() -> None:
    rows = made_rows(4)
    before = json.dumps(rows)
    page.static_page(rows, images=["images/a.png"] * 4)
    assert json.dumps(rows) == before


def test_not_a_number_is_refused_where_no_browser_could_read_it() -> None:
    rows = made_rows(1)
    rows["columns"][4]["values"] = [float("nan")]
    with pytest.raises(ValueError, match="JSON"):
        page.static_page(rows)
