"""Weights and tags that other programs read in a prompt, and that diffusers takes as plain text.

The patterns mean the same to Python's `re` and to RE2, so that whole columns can be searched: they
name every character themselves, because `\\s`, `\\d`, `\\b` and case differ between the two.

A number counts as a weight only before a closing bracket or where the bracket is never closed, and
not where it ends a time, a ratio or a verse: `(10:30)`, `(16:9)`, `(aspect 1:1.85)`, `[John 3:16]`
and `(age: 30)` are ordinary text. After a word and a lone 1, as in `(word 1:1.4)`, only a fraction
that is rare as a ratio counts: less than 1, or 1.0 to 1.45 in steps of 0.05.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

_SPACES = "\t\n\x0b\x0c\r \x1c-\x1f\x85\xa0\u1680\u2000-\u200b\u2028\u2029\u202f\u205f\u3000\ufeff"
_S = f"[{_SPACES}]"
_D = "[0-9０-９]"  # noqa: RUF001 - full-width digits
_COLON = "[:：]"  # noqa: RUF001
_POINT = "[.．]"  # noqa: RUF001
_NO_WORD = rf"{_SPACES}(\[:（［："  # noqa: RUF001 - characters, for use in a class
_ASCII_MARKS = r"!-@\[-^`{-~"
_ENDS = {"(": ("[(（]", "[)）]"), "[": (r"[\[［]", r"[\]］]")}  # noqa: RUF001

_WORD = f"(?:[^{_NO_WORD}0-9０-９]|[^{_NO_WORD}０-９{_ASCII_MARKS}]{_D}{{1,4}})"  # noqa: RUF001
"""The end of a word, which may be digits right after a letter: `hat`, `girl1`."""
_NUMBER = f"(?:[02-9０２-９]|[^{_NO_WORD}=~][1１])"  # noqa: RUF001
"""The end of a number that is not 1 alone."""
_FRACTION = f"[+-]?{_D}?{_POINT}{_D}+"

_WEIGHT = (
    "(?:"
    # right after a word: (word:1.4), (word:2), (word:1,4)
    f"{_WORD}{_COLON}[+-]?(?:{_D}{{1,2}}(?:{_POINT}{_D}*|,{_D}{{1,2}})?|{_POINT}{_D}+)"
    # a fraction after a space or a number: (word: 1.4), (1990:1.2)
    f"|(?:{_WORD}|{_NUMBER}){_S}*{_COLON}{_S}*{_FRACTION}"
    # few numbers after a colon and a space: (word: 2), (word: 1,4)
    f"|{_WORD}{_S}*{_COLON}{_S}+[+-]?(?:[0-2]|[01],{_D}{{1,2}})"
    # after a word and a lone 1: (word 1:1.4)
    f"|[^{_NO_WORD}]{_S}+[1１]{_S}*{_COLON}{_S}*[+-]?(?:0?{_POINT}{_D}+|1{_POINT}[0-4][05]?)"  # noqa: RUF001
    f"){_S}*"
)


def _any_case(*names: str) -> str:
    """A pattern of these words in small and capital letters."""
    return "|".join("".join(f"[{c}{c.upper()}]" for c in name) for name in names)


def _weight(bracket: str) -> str:
    """A pattern of a weight between brackets, or after one that is never closed."""
    opening, closing = _ENDS[bracket]
    others = f"[^{opening[1:-1]}{closing[1:-1]}]*"
    return (
        rf"(?s:{opening}.*?{_WEIGHT}{closing})"
        rf"|(?:^|[^\\]){opening}{others}{_WEIGHT}(?:[,;]{others})?$"
    )


def _tag(*names: str) -> str:
    """A pattern of a tag in angle brackets, such as `<lora:ink:0.8>`."""
    return rf"[<＜]{_S}*(?:{_any_case(*names)}){_S}*[:：=][^<>＜＞\n]*[>＞]?"  # noqa: RUF001


@dataclass(frozen=True)
class Syntax:
    """One kind of tag."""

    pattern: str
    """If it has a group, this is what messages show."""
    meaning: str
    """What other programs take it for."""
    opening: str = ""
    """Characters of which the last begins it, if the pattern may match more text before it."""

    def found_in(self, text: str) -> str | None:
        """The first such tag in a text, at most 60 characters of it."""
        match = re.search(self.pattern, text)
        if match is None:
            return None
        found = match.group(match.lastindex or 0)
        found = found[max((0, *(found.rfind(each) for each in self.opening))) :]
        return found if len(found) <= 60 else f"{found[:57]}..."


LORA = Syntax(
    _tag("lora", "lyco", "loha", "lokr", "hypernet", "hypernetwork"),
    "loads a LoRA",
)

WEIGHT = Syntax(_weight("("), "is a weight", "(（")  # noqa: RUF001

BREAK = Syntax(
    rf"(?:^{_S}*|[a-z0-9]{_S}+|[.,;:)>\]]{_S}*)"
    rf"(BREAK)(?:{_S}*[.,;:(<\[]|{_S}+[a-z0-9]|{_S}+[A-Z][a-z{_SPACES}])",
    "begins a new part",
)

IN_SQUARE_BRACKETS = (
    Syntax(_weight("["), "is a change at a step", "[［"),  # noqa: RUF001
    Syntax(r"\[[^\[\]|\n]+\|[^\[\]\n]+\]", "is a choice of words"),
)

NOT_OF_A1111 = (
    LORA,
    Syntax(r"\{[^{}|\n]+\|[^{}\n]+\}", "is a choice of words"),
    Syntax(r"\{\{[^{}\n]+\}\}", "is emphasis or a placeholder"),
    Syntax(
        rf"(?:^|[^A-Za-z0-9_])(embedding:[A-Za-z0-9_]+)|({_tag('embedding', 'ti')})",
        "loads an embedding",
    ),
)
"""Tags that are no weights: of extensions of A1111, and of other programs."""

SYNTAXES = (LORA, WEIGHT, *IN_SQUARE_BRACKETS, *NOT_OF_A1111[1:3], BREAK, NOT_OF_A1111[3])
"""What A1111, ComfyUI and programs like them read in a prompt. `BREAK` counts between other words,
but not in quotes or beside other words in capitals."""

ANY_SYNTAX = "|".join(syntax.pattern for syntax in SYNTAXES)

SIGNS = tuple(
    sign.encode()
    for sign in ("(", "[", "{", "<", "（", "［", "＜", "BREAK", "embedding:")  # noqa: RUF001
)
"""Every text with one of the tags has one of these in it."""

DOUBLED = r"\(\([^()]+\)\)"
"""`((word))`: emphasis elsewhere, and also how people write, so it is only remarked upon."""


def found_tag(text: str, syntaxes: Sequence[Syntax] = SYNTAXES) -> tuple[str, Syntax] | None:
    """The first tag of other programs in a text, and its kind."""
    for syntax in syntaxes:
        found = syntax.found_in(text)
        if found is not None:
            return found, syntax
    return None
