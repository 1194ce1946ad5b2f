"""Reads the entries of a wildcard folder as they are written, whatever the encoding."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from nightpress.pipelines.campaign.importing.output_text import Kind
from nightpress.pipelines.campaign.list_files import NUMBER
from nightpress.pipelines.campaign.lists import name_of
from nightpress.pipelines.campaign.value_tree import (
    BadTree,
    Items,
    Mapping,
    Place,
    Text,
    Value,
    parse_json,
    parse_yaml,
)
from nightpress.pipelines.errors import Problem
from nightpress.pipelines.job.characters import not_text
from nightpress.pipelines.job.text_bytes import BYTE_ORDER_MARK, OTHER_MARKS

Tool = Literal["swarmui", "dynamic-prompts"]

TOOL_NAMES: dict[Tool, str] = {"swarmui": "SwarmUI", "dynamic-prompts": "sd-dynamic-prompts"}

_WEIGHT = re.compile(rf"({NUMBER})\s*::\s*")


@dataclass(frozen=True)
class Finding:
    """What is said about a place of the folder."""

    kind: Kind
    problem: Problem

    @classmethod
    def at(cls, kind: Kind, file: str, place: Place | None, message: str) -> "Finding":
        """The finding at a place of a file, or about the whole of it."""
        return cls(kind, Problem(file, None, None, message, *(place or ())))


class Entry(NamedTuple):
    """An entry as it is written."""

    text: str
    weight: str | None
    place: Place
    is_exact: bool
    """Whether the text stands in the file just like this, so that characters can be counted."""

    def place_of(self, offset: int) -> Place:
        """The place of a character of the text, or where the entry begins."""
        if not self.is_exact:
            return self.place
        return Place(self.place.line, self.place.character + offset)


class Comment(NamedTuple):
    """A line that is a comment, without its `#`."""

    text: str


@dataclass
class SourceList:
    """A list as it is written."""

    name: str
    file: str
    items: list[Entry | Comment] = field(default_factory=list)

    @property
    def entries(self) -> Iterator[Entry]:
        """The items that are no comments."""
        return (item for item in self.items if isinstance(item, Entry))


@dataclass
class SourceFile:
    """The lists of a file, and what is said about reading it."""

    url: str
    lists: list[SourceList] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def say(self, kind: Kind, message: str, place: Place | None = None) -> None:
        """Note something about the file."""
        self.findings.append(Finding.at(kind, self.url, place, message))


def read_source(url: str, path: str, data: bytes) -> SourceFile:
    """Read a file.

    Args:
        url: where it is.
        path: below the folder; gives the names of its lists.
        data: its bytes, in any common encoding.
    """
    file = SourceFile(url)
    text = _decoded(file, data)
    if text is None:
        return file
    if path.lower().endswith(".txt"):
        found = SourceList(name_of(path, ()), url)
        file.lists.append(found)
        _read_lines(file, found, text)
        return file
    try:
        tree = parse_json(text) if path.lower().endswith(".json") else parse_yaml(text)
        _read_tree(file, path, tree, (), text.split("\n"))
    except BadTree as error:
        file.lists.clear()
        file.say("not converted", error.message, error.place)
    return file


def _decoded(file: SourceFile, data: bytes) -> str | None:
    """The text with LF line ends; None if no encoding fits."""
    text: str | None = None
    for mark, encoding in OTHER_MARKS.items():
        if text is None and data.startswith(mark):
            text = _attempt(data, encoding)
            file.say("converted", f"it was {encoding}; the list is UTF-8")
    if text is None and data.startswith(BYTE_ORDER_MARK):
        file.say("converted", "its byte order mark is left out")
    text = _attempt(data, "utf-8-sig") if text is None else text
    if text is None and b"\0" not in data and (text := _attempt(data, "cp1252")) is not None:
        file.say("converted", "it was read as Windows-1252; the list is UTF-8")
    if text is None:
        file.say("not converted", "it is text in neither UTF-8, UTF-16 nor Windows-1252")
        return None
    if "\r" in text:
        lone = text.count("\r") - text.count("\r\n")
        file.say("converted", f"lines ended in {'CR' if lone else 'CRLF'}; in the list, in LF")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _attempt(data: bytes, encoding: str) -> str | None:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        return None


def _read_lines(file: SourceFile, found: SourceList, text: str) -> None:
    for number, line in enumerate(text.split("\n"), start=1):
        stripped = line.strip()
        if not stripped:
            continue
        if stripped[0] == "#":
            found.items.append(Comment(stripped.lstrip("# ")))
            continue
        place = Place(number, len(line) - len(line.lstrip()) + 1)
        entry = _entry(file, stripped, place, is_exact=True)
        if entry is not None:
            found.items.append(entry)
            if entry.weight is not None:
                message = f"{entry.weight}:: is read as a weight, which a .txt did not have"
                file.say("converted", message, place)


def _entry(file: SourceFile, text: str, place: Place, is_exact: bool) -> Entry | None:
    if (wrong := not_text(text)) is not None:
        file.say("not converted", f"an entry has {wrong}, which is not text", place)
        return None
    weight = _WEIGHT.match(text)
    if weight is None:
        return Entry(text, None, place, is_exact)
    inside = Place(place.line, place.character + weight.end()) if is_exact else place
    return Entry(text[weight.end() :], weight[1], inside, is_exact)


def _read_tree(
    file: SourceFile, path: str, value: Value | None, keys: tuple[str, ...], lines: list[str]
) -> None:
    match value:
        case None:
            file.say("converted", "it has no lists")
        case Mapping() if not value.values:
            file.say("converted", f"{'/'.join(keys) or 'it'} holds no list", value.place)
        case Mapping():
            for key, inner in value.values.values():
                _read_tree(file, path, inner, (*keys, key.text.strip()), lines)
        case Text() if not keys:
            file.say("not converted", "it holds neither a list nor names of lists", value.place)
        case Text() | Items():
            items = value.values if isinstance(value, Items) else [value]
            found = SourceList(name_of(path, keys), file.url)
            file.lists.append(found)
            read = (_entry_of(file, item, lines) for item in items)
            found.items.extend(entry for entry in read if entry is not None)


def _entry_of(file: SourceFile, value: Value, lines: list[str]) -> Entry | None:
    """An entry of a structured file: a text, or a text with its weight as a mapping."""
    if isinstance(value, Mapping):
        return _weighted_entry(file, value, lines)
    if isinstance(value, Items):
        file.say("not converted", "a list stands in a list", value.place)
        return None
    text = value.text.strip()
    if not text:
        return None
    line = lines[value.place.line - 1][value.place.character - 1 :]
    quote = len(line) - len(line.lstrip("\"'")) if value.is_quoted else 0
    is_exact = line[min(quote, 1) :].startswith(text)
    place = Place(value.place.line, value.place.character + min(quote, 1) * is_exact)
    return _entry(file, text, place, is_exact)


def _weighted_entry(file: SourceFile, value: Mapping, lines: list[str]) -> Entry | None:
    given = {key: inner for key, (_, inner) in value.values.items()}
    text, weight = given.get("text", given.get("content")), given.get("weight")
    known = given.keys() <= {"text", "content", "weight"} and isinstance(text, Text)
    if not known or not (weight is None or isinstance(weight, Text)):
        message = (
            "an entry is a mapping of other keys than text and weight; text with ': ' in it needs "
            "quotes"
        )
        file.say("not converted", message, value.place)
        return None
    entry = _entry_of(file, text, lines) if isinstance(text, Text) else None
    if entry is None or weight is None:
        return entry
    if not re.fullmatch(NUMBER, weight.text):
        message = f"the weight {weight.text!r} is not a decimal number such as 2 or 0.5"
        file.say("not converted", message, weight.place)
        return None
    return entry._replace(weight=weight.text)
