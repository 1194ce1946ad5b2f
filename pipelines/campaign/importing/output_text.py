"""Writes text in the template language of campaigns, with what is only text escaped."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["converted", "kept as text", "not converted"]


class Unconvertible(ValueError):
    """What has no counterpart in a campaign, at an offset of the entry's text."""

    def __init__(self, offset: int, message: str) -> None:
        self.offset = offset
        self.message = message
        super().__init__(message)


@dataclass(frozen=True)
class Note:
    """What is said about a part of an entry."""

    kind: Kind
    offset: int
    message: str


@dataclass(frozen=True)
class Resolved:
    """What a reference becomes."""

    pattern: str
    """The name or pattern as a campaign has it."""
    names: tuple[str, ...]
    """The lists that it means."""
    message: str | None = None
    """What was changed, for the person; None if it is the very name of a list."""


Resolve = Callable[[str], Resolved]
"""Finds the lists that a reference means; raises LookupError, in words, where there is none."""


@dataclass
class Converted:
    """An entry in the language of campaigns, and what is said about it."""

    text: str = ""
    comments: list[str] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    uses: set[str] = field(default_factory=set)
    """Names of the lists that it refers to."""
    axes: set[str] = field(default_factory=set)
    """Names that the campaign must give values."""


PLAIN = re.compile(r"[^{}|$%#\n<>_\\:/]*")
"""Matches a whole text that is the same in SwarmUI, sd-dynamic-prompts and campaigns."""

_BACKSLASH = re.compile(r"\\(?=[{}|$_#:<@~!%\\]|\Z)")
_DOLLAR = re.compile(r"\$(?=[{$]|\Z)")
_UNDERSCORES = re.compile(r"_(?=_)|(?<=_)_|\A_|_\Z")
_BREAK = re.compile(r"[ \t]*\n[ \t\n]*")
_ESCAPE = re.compile(r"\\(?:(\$\{)|.)")
_MARK = re.compile(r"\A[@~!%#]")
_ANGLE = re.compile(r"<(?=(?:random|wildcard|wc)(?:\[|:))")
_COLONS = re.compile(r":(?=:)")


def escaped(text: str, in_choice: bool = False) -> str:
    r"""Text that the template language reads as this very text: `{` becomes `\{`.

    Args:
        text: without line breaks. It may stand next to anything else.
        in_choice: whether `|` would end it.
    """
    text = _BACKSLASH.sub(r"\\\\", text)
    text = re.sub(r"[{}|]" if in_choice else r"[{}]", r"\\\g<0>", text)
    for special in (_DOLLAR, _UNDERSCORES, _COLONS, _ANGLE, *([_MARK] if in_choice else [])):
        text = special.sub(r"\\\g<0>", text)
    return text


def whole_entry(text: str) -> str:
    r"""The text of a whole entry, on one line.

    A `#` at its beginning is no comment. A dollar before a choice would make it a variable, or with
    a backslash text; `{$}` is a choice of one.
    """
    text = _BREAK.sub(" ", text).strip()
    text = _ESCAPE.sub(lambda found: "{$}{" if found[1] else found[0], text)
    return f"\\{text}" if text.startswith("#") else text


def list_reference(converted: Converted, resolve: Resolve, name: str, offset: int) -> str:
    """`__name__` for a list, noting what was changed about the name.

    Raises:
        Unconvertible: there is no such list.
    """
    try:
        found = resolve(name)
    except LookupError as error:
        raise Unconvertible(offset, str(error.args[0])) from error
    if found.message is not None:
        converted.notes.append(Note("converted", offset, found.message))
    converted.uses.update(found.names)
    return f"__{found.pattern}__"


def several(least: int, most: int | None, separator: str) -> str:
    """What a choice of several begins with: `2$$`, `1-3$$ and $$`; most is None for all."""
    bounds = f"{least}" if least == most else f"{least}-{'' if most is None else most}"
    return f"{bounds}$$" if separator == ", " else f"{bounds}$${separator}$$"
