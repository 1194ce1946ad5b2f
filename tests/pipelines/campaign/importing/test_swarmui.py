"""SwarmUI's tags become choices and references; everything else stays the text that it is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightpress.pipelines.campaign.importing.output_text import Unconvertible
from nightpress.pipelines.campaign.importing.references import swarmui_resolver
from nightpress.pipelines.campaign.importing.swarmui import convert
from nightpress.pipelines.campaign.syntax import parse

RESOLVE = swarmui_resolver({name: name for name in ("colours", "clothes/Shoes", "hats/all")})


@pytest.mark.parametrize(
    ("text", "template"),
    [
        ("plain words, (weighted:1.2)", "plain words, (weighted:1.2)"),
        ("<random:red, blue>", "{red|blue}"),
        ("<random:red|light, blue>", "{red|light, blue}"),
        ("<random:a|b||c,d>", r"{a\|b|c,d}"),
        ("<random[2]:a,b,c>", "{2$$ $$a|b|c}"),
        ("<random[1-3,]:a,b,c>", "{1-3$$a|b|c}"),
        ("<random:1-3, blue>", "{{1|2|3}|blue}"),
        ("<random:0.8-1.0>", "{{0.5::0.8|0.9|0.5::1.0}}"),
        ("<random:a <random:b, c>, d>", "{a {b|c}|d}"),
        ("<RANDOM:a,b>", "{a|b}"),
        ("a <wildcard:colours> b", "a __colours__ b"),
        ("<wc:shoes>", "__clothes/Shoes__"),
        ("<wildcard[2]:colours>", "{2$$ $$__colours__}"),
        ("<wildcard[1-2,]:colours>", "{1-2$$__colours__}"),
        ("<repeat[3]:x>", "x x x"),
        ("<repeat[1-2]:<wc:colours>>", "{__colours__|__colours__ __colours__}"),
        ("<setvar[c]:<random:a,b>> and <var:c>", "${c=!{a|b}}${c} and ${c}"),
        ("<setmacro[c,false]:<wc:colours>><macro:c>", "${c=__colours__}${c}"),
        (r"two\nlines", "two lines"),
        ("{a|b} __c__ ${d} 3::e }", r"\{a|b\} \_\_c\_\_ $\{d\} 3\::e \}"),
        (r"\(escaped\) back\{slash", r"\(escaped\) back\\\{slash"),
        ("$<random:5,6>", "{$}{5|6}"),
        ("<3 and <b>bold</b>", "<3 and <b>bold</b>"),
        ("kept # artist", "kept"),
        ("<comment:why>", ""),
    ],
)
def test_an_entry_becomes_a_template(text: str, template: str) -> None:
    converted = convert(text, RESOLVE)
    assert converted.text == template
    parse(converted.text)


def test_what_was_changed_is_said_and_comments_are_kept() -> None:
    converted = convert("<wc:shoes> <i>x</i> # by hand", RESOLVE)
    assert [(note.kind, note.offset, note.message) for note in converted.notes] == [
        ("converted", 20, "what follows # is a comment in SwarmUI"),
        ("converted", 0, "shoes becomes clothes/Shoes"),
        ("kept as text", 11, "<i> is no tag of SwarmUI"),
        ("kept as text", 15, "</i> is no tag of SwarmUI"),
    ]
    assert converted.comments == ["by hand"]
    assert converted.uses == {"clothes/Shoes"}


@pytest.mark.parametrize(
    ("text", "offset", "message"),
    [
        ("a <lora:b:1>", 2, "<lora> asks SwarmUI for more than text; there is no counterpart"),
        ("<random[3]:a,b>", 0, "3 of 2 would repeat some; a choice repeats none"),
        ("<random[x]:a,b>", 0, "[x] is not a number or a range such as [1-3]"),
        ("<wc:none>", 0, "there is no list none"),
        ("<wc:colour<random:s, >>", 0, "the name of the list is itself drawn"),
        (
            "<wildcard:colours,not=red>",
            0,
            "entries are excluded with not=; make a list without them",
        ),
        (
            "x <var:c>",
            2,
            "c gets its value outside this entry, which a campaign does not have",
        ),
        ("<setvar[c]:a><setvar[c]:b>", 13, "c is given a value twice in this entry"),
        ("<random:<setvar[c]:a>,b>", 8, "an option gives a variable a value"),
        ("<repeat[2]:<setvar[c]:a>>", 0, "what is repeated gives a variable a value"),
        ("<repeat[99]:a>", 0, "more than 20 repetitions"),
        ("<random:1-9999>", 8, "1-9999 is not a range of up to 1000"),
    ],
)
def test_what_has_no_counterpart_is_refused_with_its_place(
    text: str, offset: int, message: str
) -> None:
    with pytest.raises(Unconvertible) as raised:
        convert(text, RESOLVE)
    assert (raised.value.offset, raised.value.message) == (offset, message)


PIECES = ["<random:", "<random[2]:", "<wc:colours>", "<setvar[x]:", "<var:x>", "<repeat[2]:"]
PIECES += [">", "|", ",", "a", "{", "}", "__", "$", "1-3", "#", " ", "::", "3", "\\"]


@given(st.lists(st.sampled_from(PIECES), max_size=14))
def test_whatever_is_converted_is_a_template(pieces: list[str]) -> None:
    try:
        converted = convert("".join(pieces), RESOLVE)
    except Unconvertible:
        return
    parse(converted.text)
