"""Change a few values in a job file and leave the rest as its author wrote it.

After an edit the file is parsed again, to prove that it now says exactly what was intended.
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from yaml.nodes import CollectionNode, MappingNode, Node, ScalarNode

from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.job.night import ANY_NIGHT
from nightpress.pipelines.job.reader import read_yaml
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.job.yaml_text import JobLoader

INDENT = "  "


class CannotEdit(Exception):
    """The text is written in a way that cannot be edited safely."""


class Edit(NamedTuple):
    """A span of the text and its replacement."""

    start: int
    end: int
    text: str


def rewrite_model(path: Path, before: RunSpec, after: RunSpec, values: Mapping[str, Any]) -> bool:
    """Set some keys of `model` in a job file, replacing the file in one step.

    The new file is parsed before it replaces the old one and must be exactly the job `after`. A
    change that someone else made to the file in the meantime is not lost.

    Args:
        path: the job file.
        before: the job that the file holds now, on `ANY_NIGHT`.
        after: the job that it should hold.
        values: the new values by their keys under `model`.

    Returns:
        False if the file was left alone, because its text cannot be edited safely or it no longer
        holds the job `before`.

    Raises:
        SpecError: the file cannot be read or written.
    """
    name = path.name.removesuffix(path.suffix)
    target = path.resolve()
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        data = target.read_bytes()
        if _job(target, name) != before:
            return False
        partial.write_bytes(edit_section(data.decode("utf-8"), "model", values).encode("utf-8"))
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
    """The job in a file, on `ANY_NIGHT`; None if the file is not a valid job."""
    try:
        values = {"name": name} | read_yaml(path)
        return RunSpec.from_dict(values, where=str(path), night=ANY_NIGHT)
    except SpecError:
        return None


def edit_section(text: str, section: str, values: Mapping[str, Any]) -> str:
    """Set some keys of one section in a job file's text, leaving everything else unchanged.

    A section given as a plain string becomes a mapping with the string as its `source`. Values are
    written on one line, such as `{interval: 3}`.

    Raises:
        CannotEdit: the text is not a mapping, or the part to change is not written plainly.
    """
    newline = "\r\n" if "\r\n" in text else "\n"
    whole = text if text.endswith("\n") else text + newline
    try:
        root = yaml.compose(whole, Loader=JobLoader)
    except yaml.YAMLError as error:
        raise CannotEdit(str(error)) from error
    if not isinstance(root, MappingNode) or not root.value:
        raise CannotEdit("not a mapping of keys")
    for start, end, new in sorted(_Editor(whole, newline).section(root, section, values))[::-1]:
        whole = whole[:start] + new + whole[end:]
    return whole


class _Editor:
    """Finds the spans of a text to replace."""

    def __init__(self, text: str, newline: str) -> None:
        self._text, self._newline = text, newline

    def section(self, root: MappingNode, name: str, values: Mapping[str, Any]) -> Iterator[Edit]:
        """Set these values in the section, adding the section if it is missing."""
        entry = _entry(root, name)
        if entry is None:
            yield from self._append(root, {name: dict(values)}, own_lines=True)
            return
        key, node = entry
        _refuse_alias(key, node)
        if isinstance(node, MappingNode):
            yield from self._update(node, values)
        else:
            yield from self._expand_string(root, key, node, values)

    def _expand_string(
        self, root: MappingNode, key: Node, source: Node, values: Mapping[str, Any]
    ) -> Iterator[Edit]:
        """Turn `model: builtin` into a mapping; a comment after it stays in place."""
        span = _value_span(source)
        between = self._text[key.end_mark.index : span.start]
        if root.flow_style:
            inside = on_one_line(dict(values)).removeprefix("{")
            yield Edit(*span[:2], f"{{source: {self._text[slice(*span[:2])]}, {inside}")
            return
        if "#" in between:
            raise CannotEdit("there is a comment between key and value")
        indent = " " * key.start_mark.column + INDENT
        yield Edit(key.end_mark.index, span.start, f":{self._newline}{indent}source: ")
        yield self._lines_below(span.end, indent, values)

    def _update(self, mapping: MappingNode, values: Mapping[str, Any]) -> Iterator[Edit]:
        """Set some keys of a mapping; other keys keep their values."""
        for name, value in values.items():
            entry = _entry(mapping, name)
            if entry is not None:
                yield from self._replace(*entry, value)
        new = {name: value for name, value in values.items() if _entry(mapping, name) is None}
        if new:
            yield from self._append(mapping, new)

    def _replace(self, key: Node, node: Node, value: Any) -> Iterator[Edit]:
        _refuse_alias(key, node)
        if isinstance(node, MappingNode) and not node.flow_style and isinstance(value, Mapping):
            yield from self._set_all_keys(key, node, value)
            return
        span = _value_span(node)
        if "#" in self._text[span.start : span.end]:
            raise CannotEdit("the value to replace contains a comment")
        yield span._replace(text=on_one_line(value))

    def _set_all_keys(
        self, key: Node, mapping: MappingNode, values: Mapping[str, Any]
    ) -> Iterator[Edit]:
        """Make a block mapping hold exactly these values; comments on their own lines stay."""
        for old_key, old in mapping.value:
            if old_key.value not in values:
                start = self._text.rfind("\n", 0, old_key.start_mark.index) + 1
                yield Edit(start, self._line_end(_content_end(old)), "")
        if values:
            yield from self._update(mapping, values)
        else:
            colon = self._text.index(":", key.end_mark.index) + 1
            yield Edit(colon, colon, " {}")

    def _append(
        self, mapping: MappingNode, values: Mapping[str, Any], own_lines: bool = False
    ) -> Iterator[Edit]:
        """Append new keys to a mapping; with `own_lines`, each key of a new section gets a line."""
        if mapping.flow_style:
            end = _content_end(mapping.value[-1][1]) if mapping.value else None
            position = mapping.end_mark.index - 1 if end is None else end
            inside = on_one_line(dict(values))[1:-1]
            yield Edit(position, position, inside if end is None else f", {inside}")
            return
        first_key, _ = mapping.value[0]
        indent = " " * first_key.start_mark.column
        if not own_lines:
            yield self._lines_below(_content_end(mapping.value[-1][1]), indent, values)
            return
        for name, inner in values.items():
            head = f"{indent}{name}:{self._newline}"
            lines = self._lines_below(len(self._text), indent + INDENT, inner)
            yield lines._replace(text=head + lines.text)

    def _lines_below(self, after: int, indent: str, values: Mapping[str, Any]) -> Edit:
        """One line for each value, inserted after the line that holds the position `after`."""
        position = self._line_end(after)
        lines = (f"{indent}{name}: {on_one_line(value)}" for name, value in values.items())
        return Edit(position, position, "".join(line + self._newline for line in lines))

    def _line_end(self, position: int) -> int:
        """The end of the line at a position, including its newline."""
        return self._text.find("\n", position) + 1 or len(self._text)


def _entry(mapping: MappingNode, name: str) -> tuple[Node, Node] | None:
    """A key and its value; None if the mapping has no such key."""
    entries = (
        (key, value)
        for key, value in mapping.value
        if isinstance(key, ScalarNode) and key.value == name
    )
    return next(entries, None)


def _refuse_alias(key: Node, node: Node) -> None:
    """Refuse a value that is written elsewhere and only referred to by an alias here."""
    if node.start_mark.index < key.end_mark.index:
        raise CannotEdit("the value is an alias of one written elsewhere")


def _value_span(node: Node) -> Edit:
    """The span of a value written on one line or in brackets."""
    in_lines = isinstance(node, ScalarNode) and node.start_mark.line != node.end_mark.line
    if in_lines or getattr(node, "flow_style", None) is False:
        raise CannotEdit("the value to replace is not all on its key's line")
    return Edit(node.start_mark.index, node.end_mark.index, "")


def _content_end(node: Node) -> int:
    """The end of a value, without the blank lines and comments that pyyaml includes in a block."""
    if isinstance(node, CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _content_end(last[1] if isinstance(node, MappingNode) else last)
    return int(node.end_mark.index)


def on_one_line(value: Any) -> str:
    """Format a value as YAML on one line."""
    text = yaml.safe_dump([value], default_flow_style=True, sort_keys=False, width=1_000_000)
    return text.strip()[1:-1]
