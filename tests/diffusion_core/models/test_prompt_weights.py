"""A1111's weights: its own published examples and texts as people write them."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightpress.diffusion_core.models.prompt_weights import PromptSyntaxError, parse_weights


def read(text: str) -> list[tuple[str, float]]:
    """The segments as (text, weight), with BREAK before those that begin a chunk."""
    return [
        ("BREAK " * each.begins_chunk + each.text, round(each.weight, 6))
        for each in parse_weights(text)
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # of the docstring of A1111's parse_prompt_attention
        ("normal text", [("normal text", 1.0)]),
        ("an (important) word", [("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
        ("\\(literal\\]", [("(literal]", 1.0)]),
        ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
        (
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))))",
            [
                ("a ", 1.0),
                ("house", 1.573),
                (" ", 1.1),
                ("on", 1.0),
                (" a ", 1.1),
                ("hill", 0.55),
                (", sun, ", 1.1),
                ("sky", 1.4641),
            ],
        ),
        # what people write
        ("((best quality)), masterpiece", [("best quality", 1.21), (", masterpiece", 1.0)]),
        ("[[blurry]]", [("blurry", 0.826446)]),
        ("[(same)]", [("same", 1.0)]),
        ("(red:1.2) (red : 1.2)", [("red", 1.2), (" ", 1.0), ("red ", 1.2)]),
        ("(word: 1.4 )", [("word", 1.4)]),
        ("(cut:-0.5)", [("cut", -0.5)]),
        ("(ratio 16:9 wide)", [("ratio 16:9 wide", 1.1)]),
        ("a: b: c", [("a: b: c", 1.0)]),
        ("", [("", 1.0)]),
        ("\\\\(a)", [("\\", 1.0), ("a", 1.1)]),
        ("c:\\users", [("c:\\users", 1.0)]),
        ("a cat BREAK a (dog)", [("a cat", 1.0), ("BREAK a ", 1.0), ("dog", 1.1)]),
        ("a\nBREAK\nBREAK b", [("a", 1.0), ("BREAK ", 1.0), ("BREAK b", 1.0)]),
        ("BREAKFAST for bANDit", [("BREAKFAST for bANDit", 1.0)]),
        ("salt and pepper", [("salt and pepper", 1.0)]),
    ],
)
def test_weights_are_read_as_a1111_reads_them(text: str, expected: list[tuple[str, float]]) -> None:
    assert read(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a (red hat", "character 3 of 10: '(' is never closed"),
        ("a [red (hat)", "character 3 of 12: '[' is never closed"),
        ("smile :)", "character 8 of 8: ')' closes a bracket that was never opened"),
        ("word:1.2)", "character 9 of 9: ')' closes a bracket that was never opened"),
        ("(a [b) c]", "character 6 of 9: ')' stands where ']' must close the bracket of charact"),
        ("(a:nan)", "character 4 of 7: the weight 'nan' is not a plain number"),
        ("(a:-Infinity)", "the weight '-Infinity' is not a plain number"),
        ("(a:1e5)", "the weight '1e5' is not a plain number"),
        ("(a:1.2.3)", "the weight '1.2.3' is not a plain number"),
        ("(a:.)", "the weight '.' is not a plain number"),
        ("(a:10.5)", "'a' has the weight 10.5, which is not between -10 and 10"),
        (f"(a:{'9' * 400})", "'a' has the weight inf, which is not between -10 and 10"),
        ("((a:9):-9)", "'a' has the weight -81, which is not between"),
        ("(" * 30 + "a" + ")" * 30, "'a' has the weight 17.4494, which is not between"),
        ("[cat:dog:0.5]", "'[cat:dog:0.5]' is prompt editing, a change at a step"),
        ("a [b:10]", "character 3 of 8: '[b:10]' is prompt editing"),
        ("[John 3:16]", "'[John 3:16]' is prompt editing"),
        ("[a::.5]", "is prompt editing"),
        ("[a|(b:1.2)]", "'[a|(b:1.2)]' is alternation, another word at each step"),
        ("a AND b", "character 3 of 7: 'AND' composes several prompts"),
        ("(a BREAK b:1.2)", "character 4 of 15: 'BREAK' stands inside brackets"),
    ],
)
def test_what_a1111_reads_otherwise_or_not_at_all_is_refused_with_its_place(
    text: str, message: str
) -> None:
    with pytest.raises(PromptSyntaxError, match=re.escape(message)) as caught:
        parse_weights(text)
    assert "\n" not in str(caught.value)


def as_a1111(text: str) -> list[list[object]]:
    """`parse_prompt_attention` from its published description: a list and two stacks."""
    found: list[list[object]] = []
    stacks: dict[str, list[int]] = {"(": [], "[": []}

    def scale(start: int, factor: float) -> None:
        for piece in found[start:]:
            piece[1] = float(str(piece[1])) * factor

    index = 0
    while index < len(text):
        rest = text[index:]
        number = re.match(r":\s*([+-]?[.\d]+)\s*\)", rest)
        if rest[0] == "\\" and rest[1:2] in tuple("()[]\\"):
            found.append([rest[1], 1.0])
            index += 2
        elif rest[0] in stacks:
            stacks[rest[0]].append(len(found))
            index += 1
        elif number and stacks["("]:
            scale(stacks["("].pop(), float(number[1]))
            index += number.end()
        elif rest[0] == ")" and stacks["("]:
            scale(stacks["("].pop(), 1.1)
            index += 1
        elif rest[0] == "]" and stacks["["]:
            scale(stacks["["].pop(), 1 / 1.1)
            index += 1
        else:
            found.append([rest[0], 1.0])
            index += 1
    return found


WORDS = st.sampled_from(["cat", " ", ", ", "(", ")", "[", "]", ":1.2)", ":0.5)", "\\(", ":", "a"])


@given(st.lists(WORDS, max_size=20).map("".join))
def test_every_text_that_is_not_refused_has_each_characters_weight_of_a1111(text: str) -> None:
    try:
        segments = parse_weights(text)
    except PromptSyntaxError:
        return
    ours = [(char, each.weight) for each in segments for char in each.text]
    theirs = as_a1111(text)
    assert [char for char, _ in ours] == [char for char, _ in theirs]
    pairs = zip(ours, theirs, strict=True)
    assert all(math.isclose(mine[1], float(str(other[1]))) for mine, other in pairs)
