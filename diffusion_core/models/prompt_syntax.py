"""Weights and tags that other programs read in a prompt, and that diffusers takes as plain text.

The patterns are valid for Python's `re` and for RE2, so that whole columns can be searched. A
number counts as a weight only right before a closing bracket, and not where it ends a time, a ratio
or a verse: `(10:30)`, `(16:9)`, `(aspect 1:1.85)`, `[John 3:16]` and `(age: 30)` are ordinary text.
"""

import re
from dataclasses import dataclass

_WEIGHT = (
    # right after a word: (word:1.4), (word:2)
    r"(?:[^\s\d(\[:]:[+-]?(?:\d{1,2}(?:\.\d*)?|\.\d+)"
    # a fraction after a space or a number, unless the number is 1 alone: (word: 1.4), (1990:1.2)
    r"|(?:[^\s\d(\[:]|\d\d|[02-9])\s*:\s*[+-]?\d?\.\d+)\s*"
)
_NAMES = "lora|lyco|loha|lokr|hypernet|hypernetwork"


@dataclass(frozen=True)
class Syntax:
    """One kind of tag."""

    pattern: str
    meaning: str
    """What other programs take it for."""
    opening: str = ""
    """What it begins with, if the pattern may match more text before it."""
    shown: str = ""
    """What messages show of it; all of it by default."""

    def found_in(self, text: str) -> str | None:
        """The first such tag in a text, at most 60 characters of it."""
        match = re.search(self.pattern, text)
        if match is None:
            return None
        found = self.shown or match.group()
        found = found[max(0, found.rfind(self.opening)) if self.opening else 0 :]
        return found if len(found) <= 60 else f"{found[:57]}..."


LORA = Syntax(rf"(?i:<\s*(?:{_NAMES})\s*:[^<>\n]*>?)", "loads a LoRA")

SYNTAXES = (
    LORA,
    Syntax(rf"(?s:\(.*?{_WEIGHT}\))", "is a weight", "("),
    Syntax(rf"(?s:\[.*?{_WEIGHT}\])", "is a change at a step", "["),
    Syntax(r"\[[^\[\]|\n]+\|[^\[\]\n]+\]", "is a choice of words"),
    Syntax(r"\{[^{}|\n]+\|[^{}\n]+\}", "is a choice of words"),
    Syntax(
        r"(?:[a-z0-9]\s+|[.,;:)>\]]\s*)BREAK(?:\s*[.,;:(<\[]|\s+[a-z0-9]|\s+[A-Z][a-z\s])",
        "begins a new part",
        shown="BREAK",
    ),
    Syntax(
        r"\bembedding:[A-Za-z0-9_]+|(?i:<\s*(?:embedding|ti)\s*:[^<>\n]*>?)", "loads an embedding"
    ),
)
"""What A1111, ComfyUI and programs like them read in a prompt. `BREAK` counts between other words,
but not in quotes or beside other words in capitals."""

ANY_SYNTAX = "|".join(syntax.pattern for syntax in SYNTAXES)

SIGNS = (b")", b"]", b"}", b"<", b"BREAK", b"embedding:")
"""Every text with one of the tags has one of these in it."""

DOUBLED = r"\(\([^()]+\)\)"
"""`((word))`: emphasis elsewhere, and also how people write, so it is only remarked upon."""


def found_tag(text: str) -> tuple[str, Syntax] | None:
    """The first tag of other programs in a text, and its kind."""
    for syntax in SYNTAXES:
        found = syntax.found_in(text)
        if found is not None:
            return found, syntax
    return None
