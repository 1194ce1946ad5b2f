"""The language of sd-dynamic-prompts becomes that of campaigns, with what differs written out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightpress.pipelines.campaign.importing.dynamic_prompts import convert
from nightpress.pipelines.campaign.importing.output_text import Unconvertible
from nightpress.pipelines.campaign.importing.references import dynamic_prompts_resolver
from nightpress.pipelines.campaign.syntax import parse

NAMES = ("colours", "clothes/shoes", "clothes/hats", "artists/a/b", "Animals")
RESOLVE = dynamic_prompts_resolver({name: name for name in NAMES})


@pytest.mark.parametrize(
    ("text", "template"),
    [
        ("plain, (weighted:1.2)", "plain, (weighted:1.2)"),
        ("{a|2::b|0.5:: c}", "{a|2::b|0.5::c}"),
        ("{2$$ and $$a|b|c}", "{2$$ and $$a|b|c}"),
        ("{2$$a|b|c}", "{2$$a|b|c}"),
        ("{-2$$a|b|c}", "{1-2$$a|b|c}"),
        ("{2-$$a|b|c}", "{2-$$a|b|c}"),
        ("{4$$a|b}", "{2$$a|b}"),
        ("{2$$__colours__}", "{2$$__colours__}"),
        ("{a|{b|c}}", "{a|{b|c}}"),
        ("{@a|b} {~c|d}", "{a|b} {c|d}"),
        ("__~colours__ __@colours__", "__colours__ __colours__"),
        ("__shoes__", "__clothes/shoes__"),
        ("__animals__", "__Animals__"),
        ("__clothes/*__", "__clothes/*__"),
        ("__artists*__", "__artists**__"),
        ("__artists/**__", "__artists/**__"),
        ("${x=!__colours__} ${x} ${x}", "${x=!__colours__} ${x} ${x}"),
        ("${x={a|b}}${x}", "${x={a|b}}${x}"),
        ("${figure} toy", "${figure} toy"),
        ("${figure:a {red|blue} frog} toy", "a {red|blue} frog toy"),
        ("${x=a}${x:b}", "${x=a}${x}"),
        ("{\n  2::red\n  # not | blue\n  |1::green\n}", "{2::red|1::green}"),
        ("# usage\nfoo,\n  bar", "foo, bar"),
        ("artist #1", "artist"),
        ("$5 100% a|b", "$5 100% a|b"),
        ("a }", r"a \}"),
        ("snake__case", r"snake\_\_case"),
        (r"\(escaped\)", r"\(escaped\)"),
        ("{__colours__|x}_a", r"{__colours__|x}\_a"),
    ],
)
def test_an_entry_becomes_a_template(text: str, template: str) -> None:
    converted = convert(text, RESOLVE)
    assert converted.text == template
    parse(converted.text)


def test_what_was_changed_is_said() -> None:
    converted = convert("${figure} {@a|b} __shoes__ x__y # hi", RESOLVE)
    assert [(note.kind, note.offset, note.message) for note in converted.notes] == [
        ("converted", 0, "${figure} becomes the axis figure of the campaign"),
        ("converted", 10, "@, one after the other, becomes a draw"),
        ("converted", 17, "shoes becomes clothes/shoes"),
        ("kept as text", 28, "__ that refers to no list"),
        ("converted", 32, "what follows # or // is a comment"),
    ]
    assert converted.axes == {"figure"}
    assert converted.comments == ["hi"]


def test_another_wrap_stands_around_names() -> None:
    assert convert("--colours-- __x__", RESOLVE, "--").text == r"__colours__ \_\_x\_\_"


@pytest.mark.parametrize(
    ("text", "offset", "message"),
    [
        ("{a|b", 0, "{ opens a choice that is not closed"),
        ("a ${x=b", 2, "${x is not closed"),
        ("${x=a}${x=b}", 6, "${x} is given a value twice in this entry"),
        ("${x?=a}", 0, "?= keeps a value from outside the entry; there is none"),
        ("${1}", 0, "${ that names no variable; a name has letters, digits, _ -"),
        ("a __colours(x=y)__", 2, "a list takes no parameters such as (x=y)"),
        ("__{a|b}__", 0, "the name of the list is itself drawn"),
        ("%{a $$b}", 0, "%{...$$...}, text around text, has no counterpart"),
        ("__colour__", 0, "there is no list colour; did you mean colours?"),
        ("__[ac]*__", 0, "no pattern of * and ** means the same lists as [ac]*"),
        ("a <lora:b:1>", 2, "<lora:b:1> is no text; there is a column for lora"),
        ("{2$$a|$$b}", 0, "a separator cannot be 'a|'"),
        ("{" * 60, 51, "choices are nested more than 50 deep"),
    ],
)
def test_what_has_no_counterpart_is_refused_with_its_place(
    text: str, offset: int, message: str
) -> None:
    with pytest.raises(Unconvertible) as raised:
        convert(text, RESOLVE)
    assert (raised.value.offset, raised.value.message) == (offset, message)


PIECES = ["{", "}", "|", "$$", "${", "${x=", "__", "__colours__", "2", "::", "@", "~", "!", "-"]
PIECES += ["a", " ", "\n", "#", "<", "%", "\\", "_", ":", "="]


@given(st.lists(st.sampled_from(PIECES), max_size=16))
def test_whatever_is_converted_is_a_template(pieces: list[str]) -> None:
    try:
        converted = convert("".join(pieces), RESOLVE)
    except Unconvertible:
        return
    parse(converted.text)
