"""Texts that differ from row to row."""

import pytest

from nightpress.pipelines.errors import ScorerError
from nightpress.pipelines.scoring.text_template import TextTemplate

ROW = {"headline": "Fresh bread", "price": 2.5, "count": 3, "note": None, "odd name": "x"}


@pytest.mark.parametrize(
    ("text", "rendered"),
    [
        ("{headline}", "Fresh bread"),
        ("{headline}, {price} EUR", "Fresh bread, 2.5 EUR"),
        ("{{{count}}}", "{3}"),
        ("no column", "no column"),
        ("a{note}b", "ab"),
        ("{odd name}", "x"),
    ],
)
def test_a_template_is_filled_from_the_columns(text: str, rendered: str) -> None:
    assert TextTemplate.parse(text).render(ROW) == rendered


def test_it_knows_its_columns() -> None:
    assert TextTemplate.parse("{price}: {headline}, {price}").columns == ("price", "headline")


@pytest.mark.parametrize("text", ["{", "}", "{}", "{price:.2f}", "{price!r}", "{price", "{0!x}"])
def test_what_is_no_template_is_refused(text: str) -> None:
    with pytest.raises(ScorerError, match="is not a template"):
        TextTemplate.parse(text)


def test_an_unknown_column_is_refused_with_the_one_that_was_meant() -> None:
    with pytest.raises(ScorerError, match="no column 'headlin'; did you mean headline"):
        TextTemplate.parse("{headlin}").check(ROW)
    with pytest.raises(ScorerError, match=r"no column 'zzz'; the columns are: count, headline"):
        TextTemplate.parse("{zzz}").render(ROW)
