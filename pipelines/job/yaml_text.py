"""Read YAML text as plain values, without guessing.

What YAML 1.1 and YAML 1.2 read differently, such as `0123`, `1:30` or `no`, is an error, as is a
key that is given twice. Keys are text, exactly as written.
"""

import math
import re
from typing import Any

import yaml
from yaml.nodes import Node, ScalarNode, SequenceNode

from nightpress.diffusion_core.errors import one_line
from nightpress.pipelines.job.characters import not_text

MAX_VALUES = 100_000
"""The most values of one text, counting what aliases repeat: they can grow exponentially."""

MAX_DEPTH = 50
"""The deepest nesting of lists and mappings."""

TAG = "tag:yaml.org,2002:"
TEXT, MERGE, AMBIGUOUS = f"{TAG}str", f"{TAG}merge", f"{TAG}ambiguous"

INTEGER = r"[-+]?(?:0|[1-9][0-9]*)|0x[0-9a-fA-F]+"
FLOAT = r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+)"
OTHER_NUMBERS = (
    r"[-+]?0[0-9]+",  # octal in YAML 1.1, decimal in YAML 1.2
    r"[-+]?0o[0-7_]+",
    r"[-+]?0b[01_]+",
    r"[-+]0x[0-9a-fA-F_]+|0x[0-9a-fA-F_]+",
    r"[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?(?:[eE][-+]?[0-9_]+)?",  # underscores are a YAML 1.1 habit
    r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?",  # base 60
)
SWITCHES = r"yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF"
BY_PATTERN = {
    f"{TAG}null": r"~|null|Null|NULL|",
    f"{TAG}bool": r"true|True|TRUE|false|False|FALSE",
    f"{TAG}int": INTEGER,
    f"{TAG}float": rf"{FLOAT}|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
    MERGE: r"<<",
    AMBIGUOUS: "|".join((*OTHER_NUMBERS, SWITCHES)),
}
"""What a plain value is, in this order; anything else is text."""


class NotPlain(ValueError):
    """A text that is not YAML, or that YAML readers understand differently; names the line."""


class JobLoader(yaml.SafeLoader):
    """YAML 1.2's plain values; composes nodes, from which `parsed` makes the values."""


JobLoader.yaml_implicit_resolvers = {
    None: [(tag, re.compile(rf"(?:{pattern})$")) for tag, pattern in BY_PATTERN.items()]
}


def parsed(text: str) -> Any:
    """The values in a YAML text: None, booleans, finite numbers, text, lists and mappings.

    Raises:
        NotPlain: the text is not valid, or ambiguous; the message begins with the line.
    """
    try:
        node = yaml.compose(text, Loader=JobLoader)
        return None if node is None else _Builder().value(node)
    except yaml.MarkedYAMLError as error:
        raise NotPlain(_explained(error)) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise NotPlain(
            f"line {line}: the character U+{ord(text[error.position]):04X} is not allowed"
        ) from error
    except RecursionError as error:
        raise NotPlain("lists and mappings are nested too deeply") from error


def _explained(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    line = "" if mark is None else f"line {mark.line + 1}: "
    if "single document" in str(error.context):
        return f"{line}a second document begins here; only one is allowed"
    return f"{line}not valid YAML: {one_line(ValueError(error.problem or error.context))}"


class _Builder:
    """Makes values of nodes, counting them."""

    def __init__(self) -> None:
        self._num_values = 0
        self._open: list[Node] = []

    def value(self, node: Node) -> Any:
        """The value of a node and of all below it."""
        self._num_values += 1
        if self._num_values > MAX_VALUES:
            raise _at(node, f"more than {MAX_VALUES:,} values, counting what aliases repeat")
        if isinstance(node, ScalarNode):
            return _scalar(node)
        if any(node is each for each in self._open):
            raise _at(node, "an alias refers to the value that it is part of")
        if len(self._open) == MAX_DEPTH:
            raise _at(node, f"lists and mappings are nested more than {MAX_DEPTH} deep")
        self._open.append(node)
        made = self._sequence(node) if isinstance(node, SequenceNode) else self._mapping(node)
        self._open.pop()
        return made

    def _sequence(self, node: SequenceNode) -> list[Any]:
        _refuse_tag(node, "seq")
        return [self.value(each) for each in node.value]

    def _mapping(self, node: Node) -> dict[str, Any]:
        _refuse_tag(node, "map")
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            key = _key(key_node)
            if key in lines:
                raise _at(key_node, f"the key {key!r} is given twice{_since(lines[key], key_node)}")
            lines[key] = key_node.start_mark.line + 1
            if key_node.tag == MERGE:
                for each in self._merged(value_node):
                    merged = each | merged
            else:
                own[key] = self.value(value_node)
        return merged | own

    def _merged(self, node: Node) -> list[dict[str, Any]]:
        """The mappings that `<<` adds keys from, the most important first."""
        value = self.value(node)
        mappings = value if isinstance(value, list) else [value]
        if not all(isinstance(each, dict) for each in mappings):
            raise _at(node, "the value of << must be a mapping, or a list of mappings")
        return mappings


def _since(line: int, node: Node) -> str:
    return "" if line == node.start_mark.line + 1 else f", first on line {line}"


def _key(node: Node) -> str:
    """A key as it is written, so that `1`, `01` and `no` are three texts."""
    if not isinstance(node, ScalarNode):
        raise _at(node, "a key must be text, not a list or a mapping")
    if node.tag not in (*BY_PATTERN, TEXT):
        raise _at(node, _about_tag(node))
    return _text(node)


def _scalar(node: ScalarNode) -> Any:
    text = node.value
    match node.tag.removeprefix(TAG):
        case "str" | "merge":
            return _text(node)
        case "null" if not text or _is_plain(node):
            return None
        case "bool" if _is_plain(node):
            return text.lower() == "true"
        case "int" if _is_plain(node):
            return _integer(node)
        case "float" if _is_plain(node):
            return _finite(node)
        case "ambiguous":
            instead = "true or false" if re.fullmatch(SWITCHES, text) else "a plain decimal number"
            raise _at(
                node,
                f"{text} means different things to different readers of YAML; write {instead}, or "
                f"'{text}' in quotes if it is a text",
            )
    raise _at(node, _about_tag(node))


def _text(node: ScalarNode) -> str:
    text = str(node.value)
    wrong = not_text(text)
    if wrong is not None:
        raise _at(node, f"it has {wrong}, which is not text")
    return text


def _is_plain(node: ScalarNode) -> bool:
    """Whether a value's type comes from its own form, not from a tag such as `!!int`."""
    return re.fullmatch(BY_PATTERN[node.tag], node.value) is not None and not node.style


def _integer(node: ScalarNode) -> int:
    try:
        return int(node.value, 16 if "x" in node.value else 10)
    except ValueError as error:  # Python limits the number of digits
        raise _at(node, f"the number has too many digits ({len(node.value):,})") from error


def _finite(node: ScalarNode) -> float:
    if re.search(r"inf|nan", node.value, re.IGNORECASE):
        raise _at(node, f"{node.value} is not a finite number")
    number = float(node.value)
    if not math.isfinite(number):
        raise _at(node, f"{node.value} is too large for a number")
    return number


def _refuse_tag(node: Node, expected: str) -> None:
    if node.tag != TAG + expected:
        raise _at(node, _about_tag(node))


def _about_tag(node: Node) -> str:
    return f"the tag {node.tag.replace(TAG, '!!')} is not allowed here; write plain values"


def _at(node: Node, problem: str) -> NotPlain:
    return NotPlain(f"line {node.start_mark.line + 1}: {problem}")
