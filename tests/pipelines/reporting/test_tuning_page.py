"""The page of a tuning: each image embedded once, nothing that runs or loads from elsewhere."""

from base64 import b64decode
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from nightpress.pipelines.reporting.tuning_page import (
    LOSSLESS_SIDE,
    Page,
    PairView,
    Row,
    data_url,
    render,
)

HOSTILE = '</svg></title><script>alert(1)</script>"><img src=x onerror=alert(1)> {{ 7 * 7 }} \x00'


class Elements(HTMLParser):
    """The elements of a page and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data.strip())

    def values(self, tag: str, attribute: str) -> list[str]:
        return [attrs.get(attribute) or "" for name, attrs in self.found if name == tag]


def picture(value: int, side: int = 16) -> np.ndarray:
    rng = np.random.default_rng(value)
    return rng.integers(0, 256, (side, side // 2, 3), np.uint8)


def page(prompt: str = "a red fox", side: int = 16) -> Page:
    rows = (
        Row(("float32, no speed settings", "3.10", "reference")),
        Row(
            ("bfloat16", "6.70", "fastest"),
            "good",
            (PairView(1, "38.1 dB", picture(10, side)), PairView(0, "41.0 dB", picture(11))),
        ),
        Row(("channels_last", "3.20", ""), "", (PairView(1, "88.0 dB", picture(12, side)),)),
    )
    return Page(
        title="night",
        subtitle="builtin",
        outcome="fastest: bfloat16",
        columns=("configuration", "images/s", ""),
        rows=rows,
        refused=("not available: taylorseer_cache",),
        prompts=(prompt, "two ships", "nobody asks"),
        references=np.stack([picture(number, side) for number in range(3)]),
    )


def decoded(url: str) -> np.ndarray:
    kind, _, text = url.partition(",")
    assert kind == "data:image/webp;base64"
    with Image.open(BytesIO(b64decode(text))) as image:
        return np.asarray(image.convert("RGB"))


def test_each_reference_is_embedded_once_and_shown_beside_every_image() -> None:
    elements = Elements(render(page()))
    stored = dict(
        zip(elements.values("image", "id"), elements.values("image", "href"), strict=True)
    )
    assert list(stored) == ["reference-0", "reference-1"]
    assert elements.values("use", "href") == ["#reference-1", "#reference-0", "#reference-1"]
    for number, url in enumerate(stored.values()):
        assert (decoded(url) == picture(number)).all()
    for url, number in zip(elements.values("img", "src"), (10, 11, 12), strict=True):
        assert (decoded(url) == picture(number)).all()


def test_the_page_holds_the_figures_and_the_prompts() -> None:
    words = Elements(render(page())).words
    for word in ("night", "fastest: bfloat16", "6.70", "38.1 dB", "two ships", "images/s"):
        assert word in words
    assert "not available: taylorseer_cache" in words
    assert "nobody asks" not in words


def test_a_config_in_the_table_links_to_its_images() -> None:
    elements = Elements(render(page()))
    targets = [f"#{name}" for name in elements.values("h2", "id")]
    assert elements.values("a", "href") == targets == ["#config-2", "#config-3"]


def test_prompts_are_escaped() -> None:
    elements = Elements(render(page(HOSTILE)))
    assert "script" not in [tag for tag, _ in elements.found]
    assert len(elements.values("img", "src")) == 3
    assert any("{{ 7 * 7 }}" in word for word in elements.words)


def test_the_page_is_self_contained() -> None:
    html = render(page())
    elements = Elements(html)
    links = [*elements.values("image", "href"), *elements.values("img", "src")]
    assert all(link.startswith("data:") for link in links)
    assert "@import" not in html
    assert "link" not in [tag for tag, _ in elements.found]


@pytest.mark.parametrize(("side", "lossless"), [(LOSSLESS_SIDE, True), (LOSSLESS_SIDE + 2, False)])
def test_small_images_are_embedded_losslessly_and_large_ones_are_not(
    side: int, lossless: bool
) -> None:
    shown = decoded(data_url(picture(5, side)))
    assert shown.shape == picture(5, side).shape
    assert (shown == picture(5, side)).all() == lossless
