"""Tags of other programs are found, and ordinary prose is not taken for them."""

import random

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from nightpress.diffusion_core.models.prompt_syntax import ANY_SYNTAX, SIGNS, found_tag

TAGS = {
    "a cat <lora:ink:0.8>": "<lora:ink:0.8>",
    "<LORA:ink>, a cat": "<LORA:ink>",
    "<lyco:ink:1:0.5>": "<lyco:ink:1:0.5>",
    "<hypernet:ink:0.5>": "<hypernet:ink:0.5>",
    "a <lora:ink:0.8 cat": "<lora:ink:0.8 cat",
    "a (red hat:1.4)": "(red hat:1.4)",
    "((word:1.1))": "(word:1.1)",
    "(a (b) c:1.3)": "(b) c:1.3)",
    "(word:2)": "(word:2)",
    "(word: 1.4 )": "(word: 1.4 )",
    "(word:-1)": "(word:-1)",
    "(x:.5)": "(x:.5)",
    "(year 1990:1.2)": "(year 1990:1.2)",
    "(two\nlines:1.2)": "(two\nlines:1.2)",
    "[word:0.5]": "[word:0.5]",
    "[cat:dog:10]": "[cat:dog:10]",
    "[cat|dog] in a field": "[cat|dog]",
    "{red|blue} car": "{red|blue}",
    "a cat, BREAK a dog": "BREAK",
    "a cat BREAK dog": "BREAK",
    "a cat\nBREAK\na dog": "BREAK",
    "embedding:bad-hands": "embedding:bad",
    "(girl1:1.3)": "(girl1:1.3)",
    "(v1:2)": "(v1:2)",
    "(tag_1:.8)": "(tag_1:.8)",
    "(猫1:1.3)": "(猫1:1.3)",
    "(v2.1:1.4)": "(v2.1:1.4)",
    "[word1:0.5]": "[word1:0.5]",
    "(word 1:1.4)": "(word 1:1.4)",
    "(girl 1:0.8)": "(girl 1:0.8)",
    "(word:\u00a01.4)": "(word:\u00a01.4)",
    "(word\u3000:\t1.4)": "(word\u3000:\t1.4)",
    "（word：１.４）": "（word：１.４）",  # noqa: RUF001
    "(word:1,4)": "(word:1,4)",
    "(word: 2)": "(word: 2)",
    "(word٣:2)": "(word٣:2)",
    "a (word:1.4": "(word:1.4",
    "a (word:1.4, a cat": "(word:1.4, a cat",
    "<lora=ink:0.8>": "<lora=ink:0.8>",
    "＜lora：ink：0.8＞": "＜lora：ink：0.8＞",  # noqa: RUF001
    "a <ti:bad>": "<ti:bad>",
    "éembedding:bad": "embedding:bad",
    "a {{word}}": "{{word}}",
    "BREAK a dog": "BREAK",
    "BREAK, a dog": "BREAK",
}

PROSE = (
    "(see figure 1:4)",
    "ratio 16:9",
    "a sign that says (10:30)",
    "(16:9)",
    "(2.39:1)",
    "(aspect ratio 1:1.85)",
    "a clock (at 12:45:30)",
    "a stopwatch [00:59.9]",
    "[John 3:16]",
    "(age: 30)",
    "(Year:2020)",
    "(http://localhost:8080)",
    "((word))",
    "(word) [word] {word}",
    r"fox \(character:1.4\)",
    "the word embedding: a diagram",
    'a sign that says "BREAK" in red',
    "COFFEE BREAK TIME",
    "BREAK GLASS",
    "a lunch break",
    "I <3 you",
    "a < b > c",
    "(: a smile :)",
    "1) a cat 2) a dog",
    "left | right",
    "Room [101]",
    "black AND white",
    "from 9:00 to 17:00)",
    "f/2.8, ISO:400, (50mm)",
    "(f:2.8, ISO:400)",
    "(1:1.4)",
    "(scale 1:1.5)",
    "(ratio=1:1.85)",
    "red apple (ratio\u00a0:2)",
    "(smiling :3)",
    "(John 3:1,4)",
    "at 10:30 (or 11:30",
    "Romans 8:1 (NIV)",
    "({word})",
    "",
)


@pytest.mark.parametrize("text", TAGS)
def test_a_tag_of_another_program_is_found(text: str) -> None:
    found = found_tag(text)
    assert found is not None
    assert found[0] == TAGS[text]
    assert any(sign in text.encode() for sign in SIGNS)


@pytest.mark.parametrize("text", PROSE)
def test_prose_is_no_tag(text: str) -> None:
    assert found_tag(text) is None


def test_a_long_tag_is_shortened_in_messages() -> None:
    found = found_tag(f"({'word ' * 40}x:1.2)")
    assert found is not None
    assert (len(found[0]), found[0][-3:]) == (60, "...")


PARTS = (
    *("(", ")", "[", "]", "{", "}", "<", ">", "|", "=", "\\", ":", ":", ":", ",", "_", "-", "^"),
    *("（", "）", "［", "：", "＜", "１"),  # noqa: RUF001
    *("0", "1", "1", "2", "1.4", ".5", "٣", "½", "word", "é", "猫", "A", "BREAK", " BREAK ", "\0"),
    *(
        "lora",
        "LoRA",
        "\u212aypernet",
        "hypernetwor\u212a",
        "ti",
        "t\u0131",
        "embedding",
        "embedding:a",
    ),
    *(" ", "\n", "\t", "\x0b", "\x1c", "\x85", "\u00a0", "\u180e", "\u200b", "\u2028", "\u3000"),
)
"""Pieces of tags, and characters that Python and RE2 class differently."""


def test_the_search_of_a_column_finds_exactly_what_is_shown_of_single_texts() -> None:
    chance = random.Random(1)
    texts = ["".join(chance.choices(PARTS, k=chance.randint(1, 14))) for _ in range(30_000)]
    in_column = pc.match_substring_regex(pa.array(texts), ANY_SYNTAX).to_pylist()
    found = [found_tag(text) for text in texts]
    assert [each is not None for each in found] == in_column
    assert 500 < sum(in_column) < 15_000
    for text, each in zip(texts, found, strict=True):
        assert each is None or (each[0] and each[0].removesuffix("...") in text)
        assert each is None or any(sign in text.encode() for sign in SIGNS)
