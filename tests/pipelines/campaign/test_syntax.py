"""The template language: what opens what, and where a mistake is."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightpress.pipelines.campaign.syntax import (
    Choice,
    ListReference,
    TemplateError,
    Variable,
    parse,
    parts_of,
)


def choices(text: str) -> list[Choice]:
    return [part for part in parts_of(parse(text)) if isinstance(part, Choice)]


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("costs $5, or $$5", "costs $5, or $$5"),
        ("a # b", "a # b"),
        ("# a comment\na cat", "a cat"),
        ("a cat\n  # a comment\n on a mat", "a cat on a mat"),
        (r"\# a tag", "# a tag"),
        (r"\<random:a>", "<random:a>"),
        ("\\{a\\|b\\} \\${x} \\__y__ \\\\", "{a|b} ${x} __y__ \\"),
        (r"(word:1.2) [a|b] \(c\) <lora:x:1>", r"(word:1.2) [a|b] \(c\) <lora:x:1>"),
        ("snake_case ____ a__b", "snake_case ____ a__b"),
        ("two\nlines", "two lines"),
        ("  edges  ", "edges"),
        ("", ""),
    ],
)
def test_text_is_text(text: str, plain: str) -> None:
    assert parse(text).plain == plain


def test_alternatives_have_weights_and_keep_their_blanks() -> None:
    (choice,) = choices("{a|2::b | .5::c|}")
    assert [option.plain for option in choice.options] == ["a", "b ", "c", ""]
    assert choice.weights == (1, 2, Fraction(1, 2), 1)
    assert (choice.least, choice.most) == (1, 1)


@pytest.mark.parametrize(
    ("text", "least", "most", "separator", "number"),
    [
        ("{2$$a|b|c}", 2, 2, ", ", 3),
        ("{2$$, $$a|b|c}", 2, 2, ", ", 3),
        ("{1-2$$ and $$a|b|c}", 1, 2, " and ", 3),
        ("{0-1$$a|b}", 0, 1, ", ", 2),
        ("{-2$$a|b}", 0, 2, ", ", 2),
        ("{1-$$a|b}", 1, -1, ", ", 2),
        ("{2$$ | $$a|b|c}", 2, 2, " | ", 3),
        ("{2$$$5|$10}", 2, 2, ", ", 2),
        ("{$$5|b}", 1, 1, ", ", 2),
        ("{12|b}", 1, 1, ", ", 2),
        ("{2$$$$a|b}", 2, 2, "", 2),
    ],
)
def test_several_alternatives_are_drawn_at_once(
    text: str, least: int, most: int, separator: str, number: int
) -> None:
    (choice,) = choices(text)
    found = (choice.least, choice.most, choice.separator, len(choice.options))
    assert found == (least, most, separator, number)


def test_a_dollar_after_a_number_of_alternatives_is_text() -> None:
    assert [option.plain for option in choices("{2$$$5|$10}")[0].options] == ["$5", "$10"]
    assert [option.plain for option in choices("{$$5|b}")[0].options] == ["$$5", "b"]


def test_lists_and_variables_are_found_at_any_depth() -> None:
    found = list(parts_of(parse("__a__ {x __b/c*__|${p.name}} ${p}")))
    assert [each.pattern for each in found if isinstance(each, ListReference)] == ["a", "b/c*"]
    assert [each.name for each in found if isinstance(each, Variable)] == ["p.name", "p"]


def test_names_of_lists_may_have_blanks_and_underscores() -> None:
    found = list(parts_of(parse("__my list__ __a_b__")))
    assert [each.pattern for each in found if isinstance(each, ListReference)] == [
        "my list",
        "a_b",
    ]


def test_what_is_written_alike_is_numbered() -> None:
    assert [choice.occurrence for choice in choices("{a|b} {c|d} {a|b} {x|{a|b}}")] == [
        0,
        0,
        1,
        0,
        2,
    ]


def test_a_named_value_that_is_drawn_once_is_the_same_choice_everywhere() -> None:
    first, second = choices("${x=!{a|b}}${x} and ${x}")
    assert first == second
    first, second = choices("${x={a|b}}${x} and ${x}")
    assert first != second


@pytest.mark.parametrize(
    ("text", "offset", "message"),
    [
        ("a } b", 2, "} closes no choice"),
        ("a {b|c", 2, "not closed"),
        ("a {b|{c}", 2, "not closed"),
        ("${x", 0, "not closed"),
        ("a ${} b", 2, "names nothing"),
        ("a {0::b|0::c}", 2, "weight 0"),
        ("{3-2$$a|b}", 1, "at least 3 and at most 2"),
        ("{-$$a|b}", 1, "does not say how many"),
        ("{2 $$a|b}", 1, "does not say how many"),
        ("{a|-1::b}", 3, "the weight '-1' is not"),
        ("{a| 1e3::b}", 4, "the weight '1e3' is not"),
        ("a __@b__", 2, "not the name of a list"),
        ("${x=a}${x=b}", 6, "twice"),
        ("a {@red|blue}", 2, "names a sampler"),
        ("{% for x in y %}", 0, "Jinja"),
        ("a <random:b|c>", 2, "SwarmUI"),
        ("a <wildcard[2]:b>", 2, "SwarmUI"),
        ("{" * 51 + "a" + "}" * 51, 50, "deep"),
    ],
)
def test_a_mistake_has_a_place(text: str, offset: int, message: str) -> None:
    with pytest.raises(TemplateError, match=message) as caught:
        parse(text)
    assert caught.value.offset == offset


def test_names_that_repeat_names_do_not_grow_without_end() -> None:
    doubled = "".join(f"${{x{n}=${{x{n - 1}}}${{x{n - 1}}}}}" for n in range(1, 40))
    with pytest.raises(TemplateError, match="repeats more than"):
        parse("${x0={a|b}}" + doubled + "${x39}")


@given(st.text(alphabet="ab{}|$_#:\\2- \n=!."))
def test_any_text_is_a_template_or_is_refused_at_a_place_inside_it(text: str) -> None:
    try:
        offset = len(parse(text).parts) * 0
    except TemplateError as error:
        offset = error.offset
    assert 0 <= offset <= len(text)


@given(st.text(alphabet="ab{}|$_#:\\2 <@~!%", max_size=20))
def test_every_text_can_be_escaped(text: str) -> None:
    escaped = "".join(f"\\{each}" if each in "{}|$_#:\\<@~!%" else each for each in text)
    assert parse(escaped).plain == text.strip(" ")
