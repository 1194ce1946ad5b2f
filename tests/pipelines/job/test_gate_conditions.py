"""Conditions on scores: a name, an operator and a number."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightpress.pipelines.job.gate_conditions import GateCondition, parse_conditions

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
OPERATORS = st.sampled_from(["<", "<=", ">", ">=", "==", "!="])


@given(st.from_regex(r"[a-z][a-z_.0-9]{0,20}", fullmatch=True), OPERATORS, NUMBERS)
def test_a_condition_survives_a_round_trip_through_its_text(
    score: str, operator: str, value: float
) -> None:
    condition = GateCondition.parse(f"{score} {operator} {value!r}")
    assert (condition.score, condition.operator, condition.value) == (score, operator, value)
    assert GateCondition.parse(str(condition)) == condition


@pytest.mark.parametrize(
    ("text", "below", "equal", "above"),
    [
        ("clip < 0.5", True, False, False),
        ("clip <= 0.5", True, True, False),
        ("clip > 0.5", False, False, True),
        ("clip>=.5", False, True, True),
        ("  clip==5e-1 ", False, True, False),
        ('"clip" != +0.5', True, False, True),
    ],
)
def test_an_operator_means_what_it_means_everywhere(
    text: str, below: bool, equal: bool, above: bool
) -> None:
    condition = GateCondition.parse(text)
    assert [condition.holds(value) for value in (0.4, 0.5, 0.6)] == [below, equal, above]


@pytest.mark.parametrize("operator", ["<", "<=", ">", ">=", "==", "!="])
def test_a_score_that_is_missing_or_no_number_meets_no_condition(operator: str) -> None:
    condition = GateCondition.parse(f"clip {operator} 0")
    assert not condition.holds(None)
    assert not condition.holds(math.nan)
    assert not condition.holds_in({"sharpness": 3.0})


def test_the_name_of_a_label_may_have_blanks_and_commas() -> None:
    condition = GateCondition.parse("kind.tabby, tabby cat >= 0.5")
    assert condition.score == "kind.tabby, tabby cat"
    assert condition.holds_in({"kind.tabby, tabby cat": 0.5})


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "compares nothing"),
        ("sharpness", "'sharpness' compares nothing"),
        ("sharpness 40", "compares nothing"),
        ("> 40", "names no score before >"),
        ('"" > 40', "names no score before >"),
        ("sharpness = 40", "= is no comparison; equal is =="),
        ("sharpness => 40", "=> is no comparison"),
        ("sharpness >", "'' is no number"),
        ("sharpness > high", "'high' is no number"),
        ("sharpness > nan", "'nan' is no number"),
        ("sharpness > inf", "'inf' is no number"),
        ("sharpness > 1e999", "'1e999' is no number"),
        ("sharpness > 1_0", "'1_0' is no number"),
        ("clipping < 20%", "a share is written as 0.2"),
        ("sharpness > 40 and nsfw < 0.2", "each condition is a text of its own"),
        ("0.2 < nsfw < 0.4", "each condition is a text of its own"),
    ],
)
def test_what_is_no_condition_is_refused_in_one_line_that_says_what_is_allowed(
    text: str, complaint: str
) -> None:
    with pytest.raises(ValueError, match="sharpness > 40") as error:
        GateCondition.parse(text)
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)


def test_a_condition_that_is_given_twice_is_refused() -> None:
    conditions = parse_conditions(["nsfw < 0.2", "clip > 0.3"])
    assert [each.score for each in conditions] == ["nsfw", "clip"]
    with pytest.raises(ValueError, match=r"'nsfw<0.20' is given twice"):
        parse_conditions(["nsfw < 0.2", "nsfw<0.20"])


@pytest.mark.parametrize(
    ("value", "finding"),
    [
        (31.0, "sharpness 31 < 40"),
        (40.0, "sharpness 40 = 40"),
        (39.99999, "sharpness 39.99999 < 40"),
        (1234.5678, "sharpness 1230 > 40"),
        (math.inf, "sharpness inf > 40"),
        (None, "sharpness is missing"),
        (math.nan, "sharpness is missing"),
    ],
)
def test_a_finding_shows_on_which_side_a_score_is(value: float | None, finding: str) -> None:
    assert GateCondition.parse("sharpness > 40").finding(value) == finding
