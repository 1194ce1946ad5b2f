"""Where a value stands in a YAML text: its line, and the character in that line."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from nightpress.pipelines.errors import ManifestError, Problem
from nightpress.pipelines.job.yaml_text import JobLoader

Key = tuple[str | int, ...]
"""The keys and positions that lead to a value: `("rules", 0, "forbid")`."""


_COMMENT_LINE = re.compile(r"^[ \t]*#", re.MULTILINE)


@dataclass(frozen=True)
class Place:
    """A place in a text, counted from 1 as an editor shows it."""

    line: int
    character: int


class Places:
    """Finds the values of one YAML file.

    Args:
        url: of the file.
        text: its content, which is valid YAML.
    """

    def __init__(self, url: str, text: str) -> None:
        self.url = url
        self._text = text
        root = yaml.compose(text, Loader=JobLoader)
        self._keys: dict[Key, Node] = {}
        self._nodes: dict[Key, Node] = dict(self._walk((), root)) if root is not None else {}

    def problem(self, key: Key, message: str, offset: int | None = None) -> Problem:
        """A problem with the value of a key.

        Args:
            key: the value, or the nearest one above it that is there.
            message: what is wrong.
            offset: where in a text value; without it, the place where the value begins.
        """
        place = self.of(key, offset)
        name = ".".join(str(part) for part in key if isinstance(part, str)) or None
        return Problem(self.url, None, name, message, place.line, place.character)

    def error(self, key: Key, message: str, offset: int | None = None) -> ManifestError:
        """The error for `problem`."""
        return ManifestError([self.problem(key, message, offset)])

    def of(self, key: Key, offset: int | None = None) -> Place:
        """The place of a value, or of a character in it."""
        while key and key not in self._nodes:
            key = key[:-1]
        node = self._nodes.get(key)
        if node is None:
            return Place(1, 1)
        start = Place(node.start_mark.line + 1, node.start_mark.column + 1)
        if offset is None or not isinstance(node, ScalarNode):
            return start
        return self._inside(node, offset) or start

    def comment_in_joined_lines(self, key: Key) -> Place | None:
        """Where a line begins with `#` in a text whose lines YAML joins, as behind `>`."""
        node = self._nodes.get(key)
        if not isinstance(node, ScalarNode) or node.style not in (">", "'", '"'):
            return None
        first, last = node.start_mark.index + 1, node.end_mark.index
        if node.style == ">":
            first = self._text.find("\n", first) + 1
        elif node.start_mark.line == node.end_mark.line:
            return None
        found = _COMMENT_LINE.search(self._text[first:last])
        return None if found is None else self._at(first + found.end() - 1)

    def of_name(self, key: Key) -> Place:
        """The place of a mapping's key itself."""
        node = self._keys.get(key)
        if node is None:
            return self.of(key)
        return Place(node.start_mark.line + 1, node.start_mark.column + 1)

    def _inside(self, node: ScalarNode, offset: int) -> Place | None:
        """The place of a character of a text; None where YAML has rewritten the text."""
        first, end = node.start_mark.index, node.end_mark.index
        written = self._text[first:end]
        if node.style in ("'", '"') and written[1:-1] == node.value:
            return self._at(first + 1 + offset)
        if node.style is None and written.startswith(node.value):
            return self._at(first + offset)
        if node.style in ("|", ">"):
            return self._in_block(node, written, offset)
        return None

    def _in_block(self, node: ScalarNode, written: str, offset: int) -> Place | None:
        """The place in a block text: the line with the same content, after its indentation."""
        before = node.value[:offset]
        line_start = before.rfind("\n") + 1
        number = before.count("\n")
        lines = written.splitlines()[1:]
        content = node.value.split("\n")[number]
        if node.style == "|" and number < len(lines) and lines[number].endswith(content):
            indent = len(lines[number]) - len(content)
            return Place(node.start_mark.line + 2 + number, indent + offset - line_start + 1)
        return None

    def _at(self, index: int) -> Place:
        line_start = self._text.rfind("\n", 0, index) + 1
        return Place(self._text.count("\n", 0, index) + 1, index - line_start + 1)

    def _walk(self, key: Key, node: Node) -> Iterator[tuple[Key, Node]]:
        yield key, node
        if isinstance(node, MappingNode):
            for name, value in node.value:
                if isinstance(name, ScalarNode):
                    self._keys[(*key, name.value)] = name
                    yield from self._walk((*key, name.value), value)
        elif isinstance(node, SequenceNode):
            for number, value in enumerate(node.value):
                yield from self._walk((*key, number), value)
