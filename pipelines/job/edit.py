"""A few values of a job file changed, and the rest of it left as its author wrote it.

Owns the edit of the text, and the proof that the file then says what was meant and nothing else.
Which values change, and why, others know.
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from yaml.nodes import CollectionNode, MappingNode, Node, ScalarNode

from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.job.reader import JobLoader, read_yaml
from nightpress.pipelines.job.spec import RunSpec

INDENT = "  "


class CannotEdit(Exception):
    """The text is written in a way that is better left to its author."""


class Edit(NamedTuple):
    """A span of the text, and what stands there instead."""

    start: int
    end: int
    text: str


def rewrite_model(path: Path, before: RunSpec, after: RunSpec, values: Mapping[str, Any]) -> bool:
    """Give the `model` of a job file some values, in one step.

    What was written is read again before it takes the file's place: it must be the job that is
    wanted. So whoever changed the file meanwhile loses nothing.

    Args:
        path: of the file, which said `before` and is to say `after`.
        values: under the keys of `model`.

    Returns:
        False where the file was left alone: its text cannot be changed without risk, or it is no
        longer the job that it was.

    Raises:
        SpecError: it cannot be read or written.
    """
    name = path.name.removesuffix(path.suffix)
    target = path.resolve()
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        data = target.read_bytes()
        if _job(target, name) != before:
            return False
        partial.write_bytes(edited(data.decode("utf-8"), "model", values).encode("utf-8"))
        if _job(partial, name) != after or target.read_bytes() != data:
            return False
        shutil.copymode(target, partial)
        os.replace(partial, target)
    except (CannotEdit, UnicodeDecodeError):
        return False
    except OSError as error:
        raise SpecError(f"{path}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return True


def _job(path: Path, name: str) -> RunSpec | None:
    """The job in a file; None where it is none."""
    try:
        return RunSpec.from_dict({"name": name} | read_yaml(path), where=str(path))
    except SpecError:
        return None


def edited(text: str, section: str, values: Mapping[str, Any]) -> str:
    """A job file's text whose section has these values under these keys, all else as it stands.

    A section that is a mere string is the `source` of one. Values are written on one line, as
    `{interval: 3}`.

    Raises:
        CannotEdit: the text is no mapping, or what would change is not written plainly.
    """
    newline = "\r\n" if "\r\n" in text else "\n"
    whole = text if text.endswith("\n") else text + newline
    try:
        root = yaml.compose(whole, Loader=JobLoader)
    except yaml.YAMLError as error:
        raise CannotEdit(str(error)) from error
    if not isinstance(root, MappingNode) or not root.value:
        raise CannotEdit("no mapping of keys")
    for start, end, new in sorted(_Editor(whole, newline).section(root, section, values))[::-1]:
        whole = whole[:start] + new + whole[end:]
    return whole


class _Editor:
    """Finds the spans of a text that change."""

    def __init__(self, text: str, newline: str) -> None:
        self._text, self._newline = text, newline

    def section(self, root: MappingNode, name: str, values: Mapping[str, Any]) -> Iterator[Edit]:
        """The section gets these values."""
        entry = _entry(root, name)
        if entry is None:
            yield from self._add(root, {name: dict(values)}, spread=True)
            return
        key, node = entry
        _require_here(key, node)
        if isinstance(node, MappingNode):
            yield from self._update(node, values)
        else:
            yield from self._unfold(root, key, node, values)

    def _unfold(
        self, root: MappingNode, key: Node, source: Node, values: Mapping[str, Any]
    ) -> Iterator[Edit]:
        """`model: builtin` becomes a mapping; a comment behind it stays where it is."""
        span = _plain(source)
        between = self._text[key.end_mark.index : span.start]
        if root.flow_style:
            inside = on_one_line(dict(values)).removeprefix("{")
            yield Edit(*span[:2], f"{{source: {self._text[slice(*span[:2])]}, {inside}")
            return
        if "#" in between:
            raise CannotEdit("a comment stands between key and value")
        indent = " " * key.start_mark.column + INDENT
        yield Edit(key.end_mark.index, span.start, f":{self._newline}{indent}source: ")
        yield self._lines(span.end, indent, values)

    def _update(self, mapping: MappingNode, values: Mapping[str, Any]) -> Iterator[Edit]:
        """Some keys of a mapping get these values, and the others keep theirs."""
        for name, value in values.items():
            entry = _entry(mapping, name)
            if entry is not None:
                yield from self._replace(*entry, value)
        new = {name: value for name, value in values.items() if _entry(mapping, name) is None}
        if new:
            yield from self._add(mapping, new)

    def _replace(self, key: Node, node: Node, value: Any) -> Iterator[Edit]:
        _require_here(key, node)
        if isinstance(node, MappingNode) and not node.flow_style and isinstance(value, Mapping):
            yield from self._become(key, node, value)
            return
        span = _plain(node)
        if "#" in self._text[span.start : span.end]:
            raise CannotEdit("what would be replaced holds a comment")
        yield span._replace(text=on_one_line(value))

    def _become(self, key: Node, mapping: MappingNode, values: Mapping[str, Any]) -> Iterator[Edit]:
        """The lines of a mapping say these values and no others; comments of their own stay."""
        for old_key, old in mapping.value:
            if old_key.value not in values:
                start = self._text.rfind("\n", 0, old_key.start_mark.index) + 1
                yield Edit(start, self._line_end(_content_end(old)), "")
        if values:
            yield from self._update(mapping, values)
        else:
            colon = self._text.index(":", key.end_mark.index) + 1
            yield Edit(colon, colon, " {}")

    def _add(
        self, mapping: MappingNode, values: Mapping[str, Any], spread: bool = False
    ) -> Iterator[Edit]:
        """New keys behind those that are there; of a new section each on a line of its own."""
        if mapping.flow_style:
            end = _content_end(mapping.value[-1][1]) if mapping.value else None
            place = mapping.end_mark.index - 1 if end is None else end
            inside = on_one_line(dict(values))[1:-1]
            yield Edit(place, place, inside if end is None else f", {inside}")
            return
        first_key, _ = mapping.value[0]
        indent = " " * first_key.start_mark.column
        if not spread:
            yield self._lines(_content_end(mapping.value[-1][1]), indent, values)
            return
        for name, inner in values.items():
            head = f"{indent}{name}:{self._newline}"
            lines = self._lines(len(self._text), indent + INDENT, inner)
            yield lines._replace(text=head + lines.text)

    def _lines(self, after: int, indent: str, values: Mapping[str, Any]) -> Edit:
        """A line for each value, below the line that a place is on."""
        place = self._line_end(after)
        lines = (f"{indent}{name}: {on_one_line(value)}" for name, value in values.items())
        return Edit(place, place, "".join(line + self._newline for line in lines))

    def _line_end(self, place: int) -> int:
        """Where the line of a place ends, its end included; every text here ends with one."""
        return self._text.find("\n", place) + 1 or len(self._text)


def _entry(mapping: MappingNode, name: str) -> tuple[Node, Node] | None:
    """Key and value; of a key that stands there twice the last, as a reader takes it."""
    found = [
        (key, value)
        for key, value in mapping.value
        if isinstance(key, ScalarNode) and key.value == name
    ]
    return found[-1] if found else None


def _require_here(key: Node, node: Node) -> None:
    """A value stands behind its key, and not where it got the name by which it is meant here."""
    if node.start_mark.index < key.end_mark.index:
        raise CannotEdit("it is an alias of what stands elsewhere")


def _plain(node: Node) -> Edit:
    """The span of a value that stands on one line, or in brackets."""
    in_lines = isinstance(node, ScalarNode) and node.start_mark.line != node.end_mark.line
    if in_lines or getattr(node, "flow_style", None) is False:
        raise CannotEdit("what would be replaced has lines of its own")
    return Edit(node.start_mark.index, node.end_mark.index, "")


def _content_end(node: Node) -> int:
    """Where a value ends, without the blank lines and comments that pyyaml counts to a block."""
    if isinstance(node, CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _content_end(last[1] if isinstance(node, MappingNode) else last)
    return int(node.end_mark.index)


def on_one_line(value: Any) -> str:
    """A value as YAML on one line."""
    text = yaml.safe_dump([value], default_flow_style=True, sort_keys=False, width=1_000_000)
    return text.strip()[1:-1]
