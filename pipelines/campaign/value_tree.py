"""Lists and mappings in YAML and JSON text, each value with the place where it is written.

A plain value of YAML is the text that is written, whatever YAML would make of it: `no`, `1990` and
`007` are texts. Repeated keys are refused.
"""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import yaml

from nightpress.diffusion_core.errors import one_line

MAX_DEPTH = 50
"""The deepest nesting of lists and mappings."""


class Place(NamedTuple):
    """Where something begins in a file: line and character, both counted from 1."""

    line: int
    character: int


class Text(NamedTuple):
    """A text, as it is written in YAML; in JSON a string, a number, or a word such as `true`."""

    text: str
    place: Place
    is_quoted: bool


class Items(NamedTuple):
    """A list."""

    values: "list[Value]"
    place: Place


class Mapping(NamedTuple):
    """A mapping; keys are in the order of the file."""

    values: "dict[str, tuple[Text, Value]]"
    place: Place


Value = Text | Items | Mapping


class BadTree(ValueError):
    """A text that is not valid, or says what lists cannot hold."""

    def __init__(self, place: Place | None, message: str) -> None:
        self.place = place
        self.message = message
        super().__init__(message)


class _Event(NamedTuple):
    """What begins or ends at a place: `[`, `{`, `.` for the end of either, or `"` for a text."""

    kind: str
    place: Place
    text: str = ""
    is_quoted: bool = True


def parse_yaml(text: str) -> Value | None:
    """The value in a YAML text; None if it holds none.

    Raises:
        BadTree: the text is not valid YAML, has a tag or two documents, or repeats a key.
    """
    try:
        return _built(_yaml_events(text))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = None if mark is None else Place(mark.line + 1, mark.column + 1)
        reason = one_line(ValueError(error.problem or error.context))
        raise BadTree(place, f"not valid YAML: {reason}") from error
    except yaml.reader.ReaderError as error:
        raise BadTree(None, f"not valid YAML: {one_line(ValueError(error.reason))}") from error


def parse_json(text: str) -> Value | None:
    """The value in a JSON text.

    Raises:
        BadTree: the text is not valid JSON, or repeats a key.
    """
    try:
        json.loads(text, parse_int=str, parse_float=str)
    except json.JSONDecodeError as error:
        raise BadTree(Place(error.lineno, error.colno), f"not valid JSON: {error.msg}") from error
    except RecursionError as error:
        raise BadTree(None, _too_deep()) from error
    return _built(_json_events(text))


def _too_deep() -> str:
    return f"lists and mappings are nested more than {MAX_DEPTH} deep"


def _yaml_events(text: str) -> Iterator[_Event]:
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    num_documents = 0
    events: Iterator[Any] = yaml.parse(text, Loader=loader)
    for event in events:
        place = Place(event.start_mark.line + 1, event.start_mark.column + 1)
        if (tag := getattr(event, "tag", None)) not in (None, "!"):
            raise BadTree(place, f"the tag {tag} is not allowed here; write plain text")
        match event:
            case yaml.DocumentStartEvent():
                num_documents += 1
                if num_documents > 1:
                    raise BadTree(place, "a second document begins here; only one is allowed")
            case yaml.ScalarEvent():
                yield _Event('"', place, event.value, bool(event.style))
            case yaml.SequenceStartEvent():
                yield _Event("[", place)
            case yaml.MappingStartEvent():
                yield _Event("{", place)
            case yaml.SequenceEndEvent() | yaml.MappingEndEvent():
                yield _Event(".", place)
            case yaml.AliasEvent():
                raise BadTree(
                    place, f"the alias *{event.anchor} is not allowed; write the list out"
                )


_scan_string: Callable[[str, int], tuple[str, int]] = json.decoder.scanstring  # type: ignore[attr-defined]
"""Reads a string behind its opening quote; returns it and the position behind its end."""

_TOKEN = re.compile(r"[\s,:]*+(?:([\[\]{}\"])|([^\s,:\[\]{}\"]+))")


def _json_events(text: str) -> Iterator[_Event]:
    """The events of valid JSON."""
    at, line, line_start = 0, 1, 0
    while match := _TOKEN.match(text, at):
        start = match.start(1) if match[1] else match.start(2)
        passed = text.count("\n", at, start)
        if passed:
            line, line_start = line + passed, text.rfind("\n", at, start) + 1
        place = Place(line, start - line_start + 1)
        at = match.end()
        if match[2]:
            yield _Event('"', place, match[2], is_quoted=False)
        elif match[1] == '"':
            value, at = _scan_string(text, at)
            yield _Event('"', place, value)
        else:
            yield _Event("." if match[1] in "]}" else match[1], place)


def _built(events: Iterator[_Event]) -> Value | None:
    """The value that events describe, without recursion, as a file may be nested without end."""
    root: Value | None = None
    above: list[Items | Mapping] = []
    keys: list[Text | None] = []
    for event in events:
        if event.kind == ".":
            above.pop()
            keys.pop()
            continue
        value = _value(event)
        if not above:
            root = value
        elif isinstance(above[-1], Items):
            above[-1].values.append(value)
        elif keys[-1] is None:
            keys[-1] = _key(value, above[-1])
            continue
        else:
            above[-1].values[keys[-1].text] = (keys[-1], value)
            keys[-1] = None
        if not isinstance(value, Text):
            if len(above) == MAX_DEPTH:
                raise BadTree(event.place, _too_deep())
            above.append(value)
            keys.append(None)
    return root


def _value(event: _Event) -> Value:
    match event.kind:
        case "[":
            return Items([], event.place)
        case "{":
            return Mapping({}, event.place)
    return Text(event.text, event.place, event.is_quoted)


def _key(value: Value, mapping: Mapping) -> Text:
    if not isinstance(value, Text):
        raise BadTree(value.place, "a key must be text, not a list or a mapping")
    if value.text in mapping.values:
        first = mapping.values[value.text][0].place.line
        since = "" if first == value.place.line else f", first on line {first}"
        raise BadTree(value.place, f"the key {value.text!r} is given twice{since}")
    if value.text == "<<" and not value.is_quoted:
        raise BadTree(value.place, "merge keys (<<) are not allowed; write the lists out")
    return value
