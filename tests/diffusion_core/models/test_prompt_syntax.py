"""Tags of other programs are found, and ordinary prose is not taken for them."""

import pytest

from nightpress.diffusion_core.models.prompt_syntax import SIGNS, found_tag

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
