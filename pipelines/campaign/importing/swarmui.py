"""Converts entries of SwarmUI's wildcards, whose syntax is `<tag[before]:data>`, to templates."""

import re
from decimal import Decimal
from typing import NamedTuple

from nightpress.pipelines.campaign.importing.output_text import (
    Converted,
    Kind,
    Note,
    Resolve,
    Unconvertible,
    escaped,
    list_reference,
    several,
    whole_entry,
)

_OTHER_TAGS = """alternate alt fromto preset p param embed embedding lora base refiner pixeldecoder
video videoswap segment object region extend break trigger clear"""
OTHER_TAGS = frozenset(_OTHER_TAGS.split())
"""The tags of SwarmUI that ask for more than text."""

SIGN = re.compile(r"<(?:random|wildcard|wc|repeat|setvar|var|setmacro|macro)(?:\[[^]]*\])?:", re.I)
"""Matches in text that was written for SwarmUI."""

MAX_REPEATS = 20
MAX_NUMBERS = 1_000
"""The most numbers that a range such as `1-10` is written out as."""

_INTEGERS = re.compile(r"\s*(-?\d+)\s*(?:-\s*(\d+)\s*)?")
_NUMBERS = re.compile(r"\s*(\d*\.?\d+)\s*-\s*(\d*\.?\d+)\s*")


class Piece(NamedTuple):
    """A part of an entry's text, and its offset."""

    text: str
    offset: int

    def part(self, start: int, end: int | None = None) -> "Piece":
        """A part of it, without blanks at its ends."""
        text = self.text[start:end]
        blanks = len(text) - len(text.lstrip())
        return Piece(text.strip(), self.offset + start + blanks)


class _Tag(NamedTuple):
    name: str
    before: str | None
    """What is in the square brackets."""
    data: Piece
    offset: int


def convert(text: str, resolve: Resolve) -> Converted:
    """Convert an entry.

    Args:
        text: the entry, on one line.
        resolve: finds the lists that it refers to.

    Raises:
        Unconvertible: a part of it has no counterpart.
    """
    kept, comment_mark, comment = text.partition("#")
    converter = _Converter(resolve)
    if comment_mark:
        converter.say("converted", len(kept), "what follows # is a comment in SwarmUI")
        converter.converted.comments.append(comment.strip())
    if "\\n" in kept:
        converter.say("converted", kept.index("\\n"), "\\n, a line break, becomes a blank")
    kept = kept.replace("\\n", " \n")
    converter.converted.text = whole_entry(converter.text(Piece(kept, 0), in_choice=False))
    return converter.converted


class _Converter:
    """Converts one entry, collecting what is said about it."""

    def __init__(self, resolve: Resolve) -> None:
        self.converted = Converted()
        self._resolve = resolve
        self._variables: set[str] = set()

    def say(self, kind: Kind, offset: int, message: str) -> None:
        """Note something about the entry."""
        self.converted.notes.append(Note(kind, offset, message))

    def text(self, piece: Piece, in_choice: bool) -> str:
        """Text with tags in it."""
        parts: list[str] = []
        at = 0
        while (start := piece.text.find("<", at)) >= 0 and (end := _closing(piece.text, start)):
            parts.append(escaped(piece.text[at:start], in_choice))
            tag = _tag(Piece(piece.text[start + 1 : end], piece.offset + start + 1))
            parts.append(self._tag(tag, piece.text[start : end + 1], in_choice))
            at = end + 1
        parts.append(escaped(piece.text[at:], in_choice))
        return "".join(parts)

    def _tag(self, tag: _Tag, written: str, in_choice: bool) -> str:
        match tag.name:
            case "random":
                return self._random(tag)
            case "wildcard" | "wc":
                return self._wildcard(tag)
            case "repeat":
                return self._repeat(tag)
            case "setvar" | "setmacro":
                return self._set(tag, in_choice)
            case "var" | "macro":
                return self._get(tag)
            case "comment":
                self.converted.comments.append(tag.data.text.strip())
                self.say("converted", tag.offset, "<comment:...> becomes a comment")
                return ""
        if tag.name in OTHER_TAGS:
            message = f"<{tag.name}> asks SwarmUI for more than text; there is no counterpart"
            raise Unconvertible(tag.offset, message)
        self.say("kept as text", tag.offset, f"{written} is no tag of SwarmUI")
        return escaped(written, in_choice)

    def _random(self, tag: _Tag) -> str:
        options = _split(tag.data)
        least, most, separator = _quantity(tag)
        if most > len(options):
            message = f"{most} of {len(options)} would repeat some; a choice repeats none"
            raise Unconvertible(tag.offset, message)
        written = "|".join(self._option(option) for option in options)
        return f"{{{'' if least == most == 1 else several(least, most, separator)}{written}}}"

    def _option(self, option: Piece) -> str:
        numbers = _numbers(option)
        return self.text(option, in_choice=True) if numbers is None else numbers

    def _wildcard(self, tag: _Tag) -> str:
        name, comma, rest = tag.data.text.partition(",")
        if "<" in name:
            raise Unconvertible(tag.offset, "the name of the list is itself drawn")
        if comma and rest.startswith("not="):
            raise Unconvertible(
                tag.offset, "entries are excluded with not=; make a list without them"
            )
        least, most, separator = _quantity(tag)
        found = list_reference(self.converted, self._resolve, name.strip(" :"), tag.offset)
        if least == most == 1:
            return found
        return f"{{{several(least, most, separator)}{found}}}"

    def _repeat(self, tag: _Tag) -> str:
        before, data = tag.before, tag.data
        if before is None:
            before, comma, _ = data.text.partition(",")
            data = data.part(len(before) + len(comma))
        least, most, _ = _quantity(tag._replace(before=before))
        if most > MAX_REPEATS:
            raise Unconvertible(tag.offset, f"more than {MAX_REPEATS} repetitions")
        variables = set(self._variables)
        once = self.text(data.part(0), in_choice=least != most)
        if self._variables != variables:
            raise Unconvertible(tag.offset, "what is repeated gives a variable a value")
        times = [" ".join([once] * number) for number in range(least, most + 1)]
        return times[0] if least == most else f"{{{'|'.join(times)}}}"

    def _set(self, tag: _Tag, in_choice: bool) -> str:
        if in_choice:
            raise Unconvertible(tag.offset, "an option gives a variable a value")
        name, _, shown = (tag.before or "").partition(",")
        name = _variable(name, tag)
        if name in self._variables:
            raise Unconvertible(tag.offset, f"{name} is given a value twice in this entry")
        value = self.text(tag.data, in_choice=True)
        self._variables.add(name)
        mark = "=!" if tag.name == "setvar" else "="
        again = "" if shown.strip().lower() == "false" else f"${{{name}}}"
        return f"${{{name}{mark}{value}}}{again}"

    def _get(self, tag: _Tag) -> str:
        name = _variable(tag.data.text.strip() or tag.before or "", tag)
        if name not in self._variables:
            message = f"{name} gets its value outside this entry, which a campaign does not have"
            raise Unconvertible(tag.offset, message)
        return f"${{{name}}}"


def _closing(text: str, start: int) -> int:
    """The offset of the `>` that closes the `<` at `start`; 0 if none does."""
    depth = 0
    for at in range(start, len(text)):
        depth += {"<": 1, ">": -1}.get(text[at], 0)
        if depth == 0:
            return at
    return 0


def _outside(text: str, character: str) -> int:
    """The offset of the first such character outside inner tags; -1 if there is none."""
    depth = 0
    for at, each in enumerate(text):
        if depth == 0 and each == character:
            return at
        depth += {"<": 1, ">": -1}.get(each, 0)
    return -1


def _tag(inside: Piece) -> _Tag:
    """The parts of a tag."""
    colon = _outside(inside.text, ":")
    prefix = inside.text if colon < 0 else inside.text[:colon]
    data = (
        Piece("", inside.offset)
        if colon < 0
        else Piece(inside.text[colon + 1 :], inside.offset + colon + 1)
    )
    bracket = _outside(prefix, "[")
    before = prefix[bracket + 1 : -1] if prefix.endswith("]") and bracket >= 0 else None
    name = prefix if before is None else prefix[:bracket]
    return _Tag(name.lower(), before, data, inside.offset - 1)


def _split(data: Piece) -> list[Piece]:
    """The options of `<random:...>`: between `||` if there is one, else `|`, else commas."""
    depth, found = 0, {"||": 0, "|": 0}
    marks: list[int] = []
    for at, each in enumerate(data.text):
        depth += {"<": 1, ">": -1}.get(each, 0)
        if depth == 0 and each in "|,":
            marks.append(at)
            found["||"] += data.text.startswith("||", at)
            found["|"] += each == "|"
    separator = next((each for each, number in found.items() if number), ",")
    options, start = [], 0
    for at in marks:
        if at >= start and data.text.startswith(separator, at):
            options.append(data.part(start, at))
            start = at + len(separator)
    return [*options, data.part(start)]


def _quantity(tag: _Tag) -> tuple[int, int, str]:
    """How many are drawn, at least and at most, and what joins them."""
    if tag.before is None:
        return 1, 1, " "
    numbers = tag.before.strip().removesuffix(",")
    found = _INTEGERS.fullmatch(numbers)
    least = int(found[1]) if found else -1
    most = int(found[2]) if found and found[2] else least
    if not 0 <= least <= most or most == 0:
        raise Unconvertible(tag.offset, f"[{tag.before}] is not a number or a range such as [1-3]")
    return least, most, ", " if tag.before.strip().endswith(",") else " "


def _numbers(option: Piece) -> str | None:
    """A range of numbers as a choice between them; None if the option is no range.

    SwarmUI rounds a number from the range, so with decimals the ends are half as frequent.
    """
    found = _NUMBERS.fullmatch(option.text)
    if found is None:
        return None
    low, high = (Decimal(each) for each in found.groups())
    places = max(len(each.partition(".")[2]) for each in found.groups())
    count = int((high - low).scaleb(places)) + 1
    if not 1 <= count <= MAX_NUMBERS:
        raise Unconvertible(option.offset, f"{option.text} is not a range of up to {MAX_NUMBERS}")
    step = Decimal(1).scaleb(-places)
    texts = [str(low.quantize(step) + number * step) for number in range(count)]
    if places and count > 1:
        texts[0], texts[-1] = f"0.5::{texts[0]}", f"0.5::{texts[-1]}"
    return texts[0] if count == 1 else f"{{{'|'.join(texts)}}}"


def _variable(name: str, tag: _Tag) -> str:
    name = name.strip()
    if not re.fullmatch(r"[\w -]+", name):
        raise Unconvertible(tag.offset, f"<{tag.name}> needs a name of letters and digits")
    return name
