"""Converts entries of sd-dynamic-prompts' wildcards, whose language campaigns took over in part."""

import re

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
from nightpress.pipelines.campaign.list_files import NUMBER

SIGN = re.compile(
    r"\{[^{}]*\||\{\s*[~@!]?\s*[0-9-]+\$\$|__[\w~@*][^_\n]*__|\$\{\s*[\w-]+\s*[=:?}]", re.ASCII
)
"""Matches in text that was written for it."""

DEFAULT_WRAP = "__"

MAX_NESTING = 50

_OPENING = re.compile(
    r"\s*(?P<sampler>[~@!])?\s*(?:(?P<low>\d+)?(?P<dash>-)?(?P<high>\d+)?\$\$"
    r"(?:(?P<separator>[^${}\n]+)\$\$)?)?"
)
_WEIGHT = re.compile(rf"({NUMBER})\s*::\s*")
_VARIABLE = re.compile(r"\$\{\s*([A-Za-z_-][\w-]*)\s*(?:(\?=!?|=!?|:)\s*|\})", re.ASCII)
_TAG = re.compile(r"<(lora|lyco|hypernet):[^<>]*>", re.IGNORECASE)
_LAST_BREAK = re.compile(r"[ \t]*\n[ \t\n]*\Z")
_SEPARATOR = re.compile(r"[^{}|$\n]*|[\s,;/&+|-]*")
"""The separators that a campaign takes."""

_SAMPLERS = {
    "@": "@, one after the other, becomes a draw",
    "!": "!, every combination, becomes a draw",
}


def convert(text: str, resolve: Resolve, wrap: str = DEFAULT_WRAP) -> Converted:
    """Convert an entry.

    Args:
        text: the entry; it may have several lines.
        resolve: finds the lists that it refers to.
        wrap: what stands around the name of a list.

    Raises:
        Unconvertible: a part of it has no counterpart, or it cannot be understood.
    """
    converter = _Converter(text, resolve, wrap)
    converter.converted.text = whole_entry(converter.parts("", 0))
    return converter.converted


class _Converter:
    """Reads one entry from its beginning to its end, writing it anew."""

    def __init__(self, text: str, resolve: Resolve, wrap: str) -> None:
        self.converted = Converted()
        self._text, self._at = text, 0
        self._resolve = resolve
        self._wrap = wrap
        path = rf"(?P<path>(?:(?!{re.escape(wrap)})[^(){{}}$#\n|])+)"
        mark = re.escape(wrap)
        self._list = re.compile(
            rf"{mark}(?P<sampler>[~@!]?){path}(?P<parameters>\s*\([^)]*\))?{mark}"
        )
        self._drawn_name = re.compile(rf"{mark}[~@!]?[\w/.*-]*(?:\{{|\$\{{)[^\n]*?{mark}")
        self._plain = re.compile(
            rf"(?:(?!{mark})(?:[^{{}}|$%#\n<]|\$(?![{{$])|%(?!\{{)|<(?!l|h)))+"
        )
        self._variables: set[str] = set()

    def parts(self, stops: str, depth: int) -> str:
        """What comes before one of `stops`, or before the end where there are none."""
        if depth > MAX_NESTING:
            raise Unconvertible(self._at, f"choices are nested more than {MAX_NESTING} deep")
        parts: list[str] = []
        while self._at < len(self._text) and self._text[self._at] not in stops:
            parts.append(self._part(depth))
        return "".join(parts)

    def _part(self, depth: int) -> str:
        text, start = self._text, self._at
        line_start = not text[text.rfind("\n", 0, start) + 1 : start].strip()
        if text[start] == "#" or (line_start and text.startswith("//", start)):
            return self._comment()
        if (tag := _TAG.match(text, start)) is not None:
            raise Unconvertible(start, f"{tag.group()} is no text; there is a column for {tag[1]}")
        if text.startswith(self._wrap, start):
            return self._list_or_text(depth)
        if text.startswith("${", start):
            return self._variable(depth)
        if text.startswith("%{", start):
            raise Unconvertible(start, "%{...$$...}, text around text, has no counterpart")
        if text[start] == "{":
            return self._choice(depth)
        return self._words(depth)

    def _words(self, depth: int) -> str:
        """Text up to anything that may be more than text."""
        found = self._plain.match(self._text, self._at)
        words = found.group() if found else self._text[self._at]
        self._at += len(words)
        return words if words == "\n" else escaped(words, in_choice=depth > 0)

    def _comment(self) -> str:
        end = self._text.find("\n", self._at)
        end = len(self._text) if end < 0 else end
        self.converted.comments.append(self._text[self._at : end].lstrip("#/ ").rstrip())
        self._say("converted", self._at, "what follows # or // is a comment")
        self._at = end
        return ""

    def _list_or_text(self, depth: int) -> str:
        start = self._at
        found = self._list.match(self._text, start)
        if self._drawn_name.match(self._text, start):
            raise Unconvertible(start, "the name of the list is itself drawn")
        if found is None:
            self._say("kept as text", start, f"{self._wrap} that refers to no list")
            self._at += len(self._wrap)
            return escaped(self._wrap, in_choice=depth > 0)
        self._at = found.end()
        if found["parameters"]:
            message = f"a list takes no parameters such as {found['parameters'].strip()}"
            raise Unconvertible(start, message)
        self._say_sampler(found["sampler"], start)
        return list_reference(self.converted, self._resolve, found["path"].strip(), start)

    def _choice(self, depth: int) -> str:
        start = self._at
        opening = _OPENING.match(self._text, start + 1)
        assert opening is not None  # noqa: S101 - all of it is optional
        has_bounds = opening["low"] is not None or opening["high"] is not None
        self._at = opening.end() if has_bounds or opening["sampler"] else start + 1
        if not has_bounds and "$$" in opening.group():
            raise Unconvertible(start, "$$ without a number before it")
        self._say_sampler(opening["sampler"] or "", start)
        options = [self._option(depth + 1)]
        while self._text[self._at : self._at + 1] == "|":
            self._at += 1
            options.append(self._option(depth + 1))
        if self._at >= len(self._text):
            raise Unconvertible(start, "{ opens a choice that is not closed")
        self._at += 1
        bounds = self._bounds(opening, options, start) if has_bounds else ""
        return f"{{{bounds}{'|'.join(options)}}}"

    def _option(self, depth: int) -> str:
        """One alternative, with its weight."""
        blanks = re.compile(r"\s*").match(self._text, self._at)
        self._at = blanks.end() if blanks else self._at
        weight = _WEIGHT.match(self._text, self._at)
        self._at = weight.end() if weight else self._at
        text = _LAST_BREAK.sub("", self.parts("|}", depth))
        return f"{weight[1]}::{text}" if weight else text

    def _bounds(self, opening: re.Match[str], options: list[str], start: int) -> str:
        """How many are drawn; never more than there are."""
        low, high = opening["low"], opening["high"]
        least = int(low or 1)
        most = None if high is None else int(high)
        if opening["dash"] is None:
            most = least
        separator = opening["separator"] or ", "
        if not _SEPARATOR.fullmatch(separator):
            raise Unconvertible(start, f"a separator cannot be {separator!r}")
        is_list = len(options) == 1 and options[0].startswith("__")
        if not is_list and max(least, most or 0) > len(options):
            self._say("converted", start, f"it asks for more than there are, {len(options)}")
            least, most = min(least, len(options)), min(most or len(options), len(options))
        if most is not None and least > most:
            raise Unconvertible(start, f"at least {least} and at most {most}")
        return several(least, most, separator)

    def _variable(self, depth: int) -> str:
        start = self._at
        found = _VARIABLE.match(self._text, start)
        if found is None:
            raise Unconvertible(start, "${ that names no variable; a name has letters, digits, _ -")
        name, mark = found.groups()
        self._at = found.end()
        if mark is None:
            return self._value_of(name, start)
        value = self.parts("}", depth + 1).rstrip()
        if self._at >= len(self._text):
            raise Unconvertible(start, f"${{{name} is not closed")
        self._at += 1
        if mark == ":":
            return self._default(name, value, start)
        if mark.startswith("?"):
            raise Unconvertible(start, "?= keeps a value from outside the entry; there is none")
        if name in self._variables:
            raise Unconvertible(start, f"${{{name}}} is given a value twice in this entry")
        self._variables.add(name)
        return f"${{{name}{mark}{value}}}"

    def _value_of(self, name: str, start: int) -> str:
        if name not in self._variables:
            self.converted.axes.add(name)
            self._say("converted", start, f"${{{name}}} becomes the axis {name} of the campaign")
        return f"${{{name}}}"

    def _default(self, name: str, value: str, start: int) -> str:
        if name in self._variables:
            return f"${{{name}}}"
        self._say("converted", start, f"${{{name}:...}} becomes its default")
        return value

    def _say_sampler(self, sampler: str, start: int) -> None:
        if sampler in _SAMPLERS:
            self._say("converted", start, _SAMPLERS[sampler])

    def _say(self, kind: Kind, offset: int, message: str) -> None:
        self.converted.notes.append(Note(kind, offset, message))
