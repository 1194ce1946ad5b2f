"""Text that is read in an image, against the text that is expected there."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.scored_images import noise, poster, scored

from nightpress.pipelines.errors import ScorerError
from nightpress.pipelines.job.scores_section import OcrSpec
from nightpress.pipelines.scoring.fetch import Fetch
from nightpress.pipelines.scoring.scorers.ocr import OcrScorer, likeness, reading_order

SPEC = OcrSpec(scorer="ocr", expect="{headline} {place}")
LINES = ("Fresh bread", "every morning", "from 7 a.m.")


@pytest.fixture(scope="module")
def scorer() -> OcrScorer:
    return OcrScorer.load(SPEC, Fetch(), "cpu")


def test_a_poster_with_the_expected_text_has_the_highest_score(scorer: OcrScorer) -> None:
    image = scored(poster(LINES), headline="Fresh bread every morning", place="from 7 a.m.")
    assert scorer.score(image) == {"": 1.0}
    assert scorer.read(image.pixels).splitlines() == list(LINES)


def test_a_wrong_letter_costs_its_share(scorer: OcrScorer) -> None:
    image = scored(poster(["Fresh bread"]), headline="Fresh", place="broad")
    assert scorer.score(image) == {"": pytest.approx(0.9)}


def test_an_image_without_text_has_the_lowest_score(scorer: OcrScorer) -> None:
    blank = np.full((64, 64, 3), 200, np.uint8)
    assert scorer.score(scored(blank, headline="Fresh", place="bread")) == {"": 0.0}
    assert scorer.score(scored(blank, headline="", place=None)) == {"": 1.0}


def test_text_where_none_is_expected_has_the_lowest_score(scorer: OcrScorer) -> None:
    assert scorer.score(scored(poster(["SALE"]), headline=None, place="")) == {"": 0.0}


def test_a_score_does_not_depend_on_what_was_scored_before(scorer: OcrScorer) -> None:
    images = [
        scored(pixels, headline="Fresh", place="bread")
        for pixels in (poster(["Fresh"], side=256), poster(["bread"], side=200))
    ]
    scores = [scorer.score(image) for image in images]
    assert scores == [scorer.score(image) for image in reversed(images)][::-1]


def test_a_row_without_a_column_of_the_template_is_refused(scorer: OcrScorer) -> None:
    with pytest.raises(ScorerError, match="there is no column 'place'; the columns are: headline"):
        scorer.score(scored(noise(1), headline="Fresh"))


def test_the_fingerprint_tells_settings_apart(scorer: OcrScorer) -> None:
    info = OcrScorer.describe(SPEC, Fetch())
    other = OcrSpec(scorer="ocr", expect=SPEC.expect, ignore_case=True)
    assert info.fingerprint == scorer.fingerprint
    assert OcrScorer.describe(other, Fetch()).fingerprint != info.fingerprint
    assert info.weight_bytes > 30_000_000


@settings(max_examples=30)
@given(text=st.text(), other=st.text())
def test_likeness_is_a_share(text: str, other: str) -> None:
    assert likeness(text, text, False) == 1.0
    assert 0.0 <= likeness(text, other, False) <= 1.0


@pytest.mark.parametrize(
    ("expected", "read", "ignore_case", "score"),
    [
        ("SALE", "SALE", False, 1.0),
        ("SALE", "SA LE\n", False, 1.0),
        ("SALE", "sale", False, 0.0),
        ("SALE", "sale", True, 1.0),
        ("SALE", "SALES", False, 0.75),
        ("SALE", "SAL", False, 0.75),
        ("SALE", "SALE now on, all shops", False, 0.0),
        ("Straße", "STRASSE", True, 1.0),
        ("ﬁne", "fine", False, 1.0),
        ("", "", False, 1.0),
        ("", "x", False, 0.0),
    ],
)
def test_likeness_is_one_less_the_rate_of_wrong_characters(
    expected: str, read: str, ignore_case: bool, score: float
) -> None:
    assert likeness(expected, read, ignore_case) == pytest.approx(score)


def boxes(*sides: tuple[float, float, float, float]) -> np.ndarray:
    """Boxes of left, top, right and bottom, with their corners."""
    return np.array([[(x0, y0), (x1, y0), (x1, y1), (x0, y1)] for x0, y0, x1, y1 in sides], float)


def test_pieces_of_a_line_are_read_from_the_left_to_the_right_whatever_their_heights() -> None:
    found = boxes((300, 104, 400, 130), (0, 110, 250, 128), (0, 10, 200, 40), (0, 200, 90, 230))
    assert reading_order(found) == [[2], [1, 0], [3]]


@given(st.permutations(range(6)))
def test_the_order_of_reading_does_not_depend_on_the_order_of_finding(order: list[int]) -> None:
    sides = [
        (100.0 * (i % 2), 50.0 * (i // 2), 100.0 * (i % 2) + 90, 50.0 * (i // 2) + 30)
        for i in range(6)
    ]
    read = reading_order(boxes(*(sides[i] for i in order)))
    assert [[order[index] for index in line] for line in read] == [[0, 1], [2, 3], [4, 5]]
