r"""A1111's weights in a prompt: `(word)`, `(word:1.2)`, `[word]`, and `BREAK`, read into segments.

The grammar is that of AUTOMATIC1111's stable-diffusion-webui: `parse_prompt_attention` in
`modules/prompt_parser.py`, and its wiki, "Attention/emphasis". A round bracket multiplies the
weight of what it holds by 1.1, or by the number before it is closed; a square bracket divides it by
1.1; brackets nest; `\(`, `\)`, `\[`, `\]` and `\\` stand for the character; `BREAK` begins a new
chunk. Stricter than A1111 in what it would take silently for something else: brackets that are
never closed or opened or that cross, numbers that it does not read, and its other syntax, which
changes words at a step or composes prompts.
"""

import math
import re
from dataclasses import dataclass

ROUND = 1.1
"""The weight of `(word)`."""

SQUARE = 1 / 1.1
"""The weight of `[word]`."""

MAX_WEIGHT = 10.0
"""The largest weight, brackets around brackets multiplied; weights down to -10 are allowed."""

_PART = re.compile(
    r"\\[()\[\]\\]"
    r"|\\|\(|\["
    r"|:\s*([+-]?[.\d]+)\s*\)"
    r"|\)|\]|[^\\()\[\]:]+|:"
)
"""What the text is split into, as in A1111; the group is a weight."""

_BREAK = re.compile(r"\s*\bBREAK\b\s*")

_NOT_A_NUMBER = re.compile(r":\s*([+-]?(?:nan|inf(?:inity)?|[.\d]+e[+-]?\d+))\s*\)", re.IGNORECASE)
"""What a person means as a weight and A1111 takes as text."""

_AT_A_STEP = re.compile(r":\s*[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?\s*$")
"""The end of what square brackets hold in prompt editing."""

_COMPOSED = re.compile(r"\bAND\b(?!_PERP_|_SALT_|_TOPK_)")

_CLOSED_BY = {"(": ")", "[": "]"}


class PromptSyntaxError(ValueError):
    """A text is not in A1111's grammar, or uses what is not supported; the message is one line."""


@dataclass(frozen=True)
class Segment:
    """A piece of a prompt whose tokens all have one weight."""

    text: str
    weight: float = 1.0
    begins_chunk: bool = False
    """Whether `BREAK` stands before it."""


@dataclass(frozen=True)
class _Open:
    """A bracket that is not closed yet."""

    bracket: str
    place: int
    """Where it stands in the text."""
    first: int
    """The number of pieces before it."""


def parse_weights(text: str) -> tuple[Segment, ...]:
    """Read A1111's weights in a text.

    Returns:
        At least one segment; neighbours without `BREAK` between them have different weights.

    Raises:
        PromptSyntaxError: brackets do not match, a weight is no number or not between -10 and 10,
            or the text uses prompt editing, alternation or composition.
    """
    _refuse_other_syntax(text)
    pieces: list[Segment] = []
    brackets: list[_Open] = []
    for match in _PART.finditer(text):
        part, weight = match.group(), match.group(1)
        if part.startswith("\\") and len(part) == 2:
            pieces.append(Segment(part[1]))
        elif part in _CLOSED_BY:
            brackets.append(_Open(part, match.start(), len(pieces)))
        elif weight is not None or part in (")", "]"):
            opened = _closed(text, brackets, part[-1], match.end() - 1)
            factor = SQUARE if part == "]" else ROUND if weight is None else _number(weight, match)
            pieces[opened.first :] = [_times(each, factor) for each in pieces[opened.first :]]
        else:
            pieces += _split_at_breaks(match, bool(brackets))
    if brackets:
        first = brackets[0]
        raise PromptSyntaxError(
            f"{_place(text, first.place)}: {first.bracket!r} is never closed; close it with "
            f"{_CLOSED_BY[first.bracket]!r}, or write \\{first.bracket} for the character"
        )
    return _checked(_merged(pieces))


def _refuse_other_syntax(text: str) -> None:
    if match := _NOT_A_NUMBER.search(text):
        raise PromptSyntaxError(
            f"{_place(text, match.start(1))}: the weight {match.group(1)!r} is not a plain number "
            "such as 1.2"
        )
    if match := _COMPOSED.search(text):
        raise PromptSyntaxError(
            f"{_place(text, match.start())}: 'AND' composes several prompts in A1111, which is not "
            "supported; write it in small letters, or make images of their own"
        )


def _closed(text: str, brackets: list[_Open], closing: str, place: int) -> _Open:
    """Take off the innermost open bracket, which this one must close."""
    if not brackets:
        raise PromptSyntaxError(
            f"{_place(text, place)}: {closing!r} closes a bracket that was never opened; write "
            f"\\{closing} for the character"
        )
    opened = brackets.pop()
    if _CLOSED_BY[opened.bracket] != closing:
        raise PromptSyntaxError(
            f"{_place(text, place)}: {closing!r} stands where {_CLOSED_BY[opened.bracket]!r} must "
            f"close the bracket of {_place(text, opened.place)}"
        )
    if closing == "]":
        _refuse_editing(text, opened.place, place)
    return opened


def _refuse_editing(text: str, start: int, end: int) -> None:
    inside, shown = text[start + 1 : end], _shown(text[start : end + 1])
    if _AT_A_STEP.search(inside):
        raise PromptSyntaxError(
            f"{_place(text, start)}: {shown!r} is prompt editing, a change at a step, which is not "
            "supported; remove it"
        )
    if "|" in inside:
        raise PromptSyntaxError(
            f"{_place(text, start)}: {shown!r} is alternation, another word at each step, which is "
            "not supported; remove it"
        )


def _number(weight: str, match: re.Match[str]) -> float:
    try:
        return float(weight)
    except ValueError as error:
        raise PromptSyntaxError(
            f"{_place(match.string, match.start(1))}: the weight {weight!r} is not a plain number "
            "such as 1.2"
        ) from error


def _split_at_breaks(match: re.Match[str], in_brackets: bool) -> list[Segment]:
    found = _BREAK.search(match.group())
    if found is not None and in_brackets:
        place = match.start() + match.group().index("BREAK", found.start())
        raise PromptSyntaxError(
            f"{_place(match.string, place)}: 'BREAK' stands inside brackets, where A1111 reads it "
            "as a word; close the brackets before it"
        )
    texts = _BREAK.split(match.group())
    return [Segment(text, begins_chunk=number > 0) for number, text in enumerate(texts)]


def _times(segment: Segment, factor: float) -> Segment:
    return Segment(segment.text, segment.weight * factor, segment.begins_chunk)


def _merged(pieces: list[Segment]) -> list[Segment]:
    """Join neighbours of equal weight, so that no word is divided where nothing changes."""
    merged: list[Segment] = []
    for piece in pieces:
        last = merged[-1] if merged and not piece.begins_chunk else None
        if last is not None and last.weight == piece.weight:
            merged[-1] = Segment(last.text + piece.text, last.weight, last.begins_chunk)
        else:
            merged.append(piece)
    return merged or [Segment("")]


def _checked(segments: list[Segment]) -> tuple[Segment, ...]:
    for each in segments:
        if not math.isfinite(each.weight) or abs(each.weight) > MAX_WEIGHT:
            raise PromptSyntaxError(
                f"{_shown(each.text)!r} has the weight {each.weight:.6g}, which is not between "
                f"{-MAX_WEIGHT:g} and {MAX_WEIGHT:g}"
            )
    return tuple(segments)


def _place(text: str, index: int) -> str:
    """`character 12 of 40`, counted from 1."""
    return f"character {index + 1:,} of {len(text):,}"


def _shown(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."
