"""A graph of ComfyUI in its API format: nodes by their ids, whose inputs are values or links.

Reference: ComfyUI, script_examples/basic_api_example.py; a link is `[id, output]`.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import Any

from nightpress.pipelines.image_files.importing.made_image import UnreadableImage, shortened

MAX_GRAPH_CHARS = 4_000_000
"""The longest graph that is parsed."""

EDITOR_FORMAT = (
    "its graph is in the format of ComfyUI's editor, which does not name the inputs; export it "
    "with 'Export (API)', or import an image that was made with it"
)

SCALARS = {
    str: ("text", "string", "value", "prompt", "Text", "STRING", "text_0"),
    float: ("value", "float", "number", "float_value", "Value"),
    int: ("value", "seed", "int", "number", "int_value", "noise_seed", "Value"),
}
"""Inputs from which nodes that hold a text or a number hand it on, by the kind that is wanted."""

PASSED_ON = ("", "any", "input", "anything", "source", "any_1", "any_01")
"""Inputs of nodes that hand on what they get, such as reroutes."""


@dataclass(frozen=True)
class Link:
    """An output of a node."""

    node: str
    output: int


@dataclass(frozen=True)
class Node:
    """A node of a graph."""

    id: str
    kind: str
    """Its class, such as `KSampler`."""
    inputs: Mapping[str, Any]

    def __str__(self) -> str:
        """`KSampler (node 3)`."""
        return f"{self.kind} (node {self.id})"


class Graph:
    """The nodes of a graph without circles."""

    def __init__(self, nodes: Mapping[str, Node]) -> None:
        self.nodes = nodes

    @classmethod
    def parse(cls, text: str) -> "Graph":
        """Parse the JSON of a graph.

        Raises:
            UnreadableImage: it is too long or broken, no graph, or has a circle of links.
        """
        if len(text) > MAX_GRAPH_CHARS:
            raise UnreadableImage(
                f"its graph has {len(text):,} characters; at most {MAX_GRAPH_CHARS:,} are read"
            )
        try:
            values = json.loads(text)
            json.dumps(values, ensure_ascii=False).encode()  # half of a character is no text
        except ValueError as error:
            raise UnreadableImage(f"its graph is broken JSON: {shortened(error)}") from error
        except RecursionError:
            raise UnreadableImage("its graph is broken JSON: it is nested too deeply") from None
        if isinstance(values, dict) and isinstance(values.get("nodes"), list):
            raise UnreadableImage(EDITOR_FORMAT)
        nodes = dict(_nodes(values)) if isinstance(values, dict) else {}
        if not nodes:
            raise UnreadableImage("its JSON is no graph of ComfyUI; nodes have a class_type")
        graph = cls(nodes)
        graph._refuse_circles()
        return graph

    @cached_property
    def ends(self) -> list[Node]:
        """The nodes that no other node uses, in the order of the graph."""
        used = {link.node for node in self.nodes.values() for link in self.links(node).values()}
        return [node for node in self.nodes.values() if node.id not in used]

    def links(self, node: Node) -> dict[str, Link]:
        """The inputs of a node that are links to other nodes."""
        found = ((name, self.as_link(value)) for name, value in node.inputs.items())
        return {name: link for name, link in found if link is not None}

    def as_link(self, value: object) -> Link | None:
        """An input as a link; None if it is a value, or leads nowhere."""
        match value:
            case [str() | int() as node, int() as output] if str(node) in self.nodes:
                return Link(str(node), output)
            case _:
                return None

    def source(self, node: Node, *names: str) -> tuple[Node, Link] | None:
        """The node that the first of some inputs leads to, behind reroutes, and the link to it."""
        for name in names:
            link = self.as_link(node.inputs.get(name))
            if link is not None:
                return self._behind_reroutes(link)
        return None

    def text(self, node: Node, name: str) -> str | None:
        """An input that is a text, or leads to a node that holds one; None if it is neither."""
        found = self._scalar(node, name, str)
        return found if isinstance(found, str) else None

    def number(self, node: Node, name: str) -> float | None:
        """An input that is a number, or leads to a node that holds one; None if it is neither."""
        found = self._scalar(node, name, float)
        is_number = isinstance(found, int | float) and abs(found) < 1e18  # which NaN is not
        return float(found) if is_number else None

    def whole(self, node: Node, name: str) -> int | None:
        """An input that is a whole number, or leads to one; None if it is neither."""
        found = self._scalar(node, name, int)
        is_whole = isinstance(found, int) or (isinstance(found, float) and found.is_integer())
        return int(found) if is_whole else None

    def _scalar(self, node: Node, name: str, kind: type) -> Any:
        value = node.inputs.get(name)
        while (link := self.as_link(value)) is not None:
            holder, _ = self._behind_reroutes(link)
            if kind is str and (joined := self._joined(holder)) is not None:
                return joined
            keys = (key for key in SCALARS[kind] if key in holder.inputs)
            value = holder.inputs.get(next(keys, ""))
        return None if isinstance(value, bool) else value

    def _joined(self, node: Node) -> str | None:
        """The text of a node that joins two, as ComfyUI's own does."""
        if node.kind != "StringConcatenate":
            return None
        parts = (self.text(node, "string_a") or "", self.text(node, "string_b") or "")
        return (self.text(node, "delimiter") or "").join(parts)

    def _behind_reroutes(self, link: Link) -> tuple[Node, Link]:
        while True:
            node = self.nodes[link.node]
            links = self.links(node)
            is_reroute = "reroute" in node.kind.lower() or set(links) & set(PASSED_ON)
            if not is_reroute or len(node.inputs) != 1 or not links:
                return node, link
            link = next(iter(links.values()))

    def _refuse_circles(self) -> None:
        uses = {
            node.id: {link.node for link in self.links(node).values()}
            for node in self.nodes.values()
        }
        try:
            TopologicalSorter(uses).prepare()
        except CycleError as error:
            circle = " -> ".join(str(node) for node in reversed(error.args[1]))
            raise UnreadableImage(f"its graph has a circle: {shortened(circle)}") from None


def _nodes(values: Mapping[str, Any]) -> Iterator[tuple[str, Node]]:
    for name, value in values.items():
        kind = value.get("class_type") if isinstance(value, dict) else None
        inputs = value.get("inputs") if isinstance(value, dict) else None
        if isinstance(kind, str) and isinstance(inputs, dict):
            yield name, Node(name, kind, inputs)
