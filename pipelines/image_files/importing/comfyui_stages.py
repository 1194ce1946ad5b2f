"""The samplers of a ComfyUI graph that made an image, from the first to the last."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from nightpress.pipelines.image_files.importing.comfyui_graph import Graph, Link, Node
from nightpress.pipelines.image_files.importing.made_image import UnreadableImage

PIXEL_INPUTS = ("images", "image", "pixels", "samples")
LATENT_INPUTS = ("samples", "latent", "latent_image", "samples1", "samples_to")
"""Inputs through which a node gets what it changes."""

DECODERS = frozenset({"VAEDecode", "VAEDecodeTiled"})
ENCODERS = frozenset({"VAEEncode", "VAEEncodeTiled"})

_SAMPLER_INPUTS = {"sampler_name", "steps", "cfg", "positive"}


@dataclass(frozen=True)
class Stage:
    """One sampling."""

    node: Node
    changes: list[Node] = field(default_factory=list)
    """What changes its result before it is used, such as upscalers, from the first on."""


@dataclass(frozen=True)
class Stages:
    """How an image came to be."""

    stages: list[Stage]
    """From the first sampling to the last."""
    start: Node
    """What gives the first sampling its latents: an empty latent, or a picture that is loaded."""
    start_changes: list[Node]
    """What changes a picture before the first sampling."""


def find_stages(graph: Graph, end: Node) -> Stages:
    """The samplers that made what a node saves.

    Raises:
        UnreadableImage: none did.
    """
    stages: list[Stage] = []
    changes: list[Node] = []
    node = end
    while True:
        found = graph.source(node, *_wanted(node))
        if found is None:
            if not stages:
                raise UnreadableImage(f"no sampler leads to {end}")
            changes = changes if node in changes else [*changes, node]
            return Stages(stages[::-1], changes[-1], changes[-2::-1])
        node, _ = found
        if is_sampler(node):
            stages.append(Stage(node, changes[::-1]))
            changes = []
        else:
            changes.append(node)


def image_ends(graph: Graph) -> list[Node]:
    """The nodes that save or show images."""
    return [node for node in graph.ends if graph.source(node, *PIXEL_INPUTS[:2])]


def is_sampler(node: Node) -> bool:
    """Whether a node samples from latents; one that mends images, such as a detailer, does not."""
    if node.kind in ("SamplerCustom", "SamplerCustomAdvanced"):
        return True
    has_all = node.inputs.keys() >= _SAMPLER_INPUTS
    return has_all and "latent_image" in node.inputs and "image" not in node.inputs


def _wanted(node: Node) -> tuple[str, ...]:
    if is_sampler(node):
        return ("latent_image",)
    if node.kind in DECODERS:
        return ("samples",)
    return ("pixels", "image", "images", *LATENT_INPUTS)


def chain(graph: Graph, link: tuple[Node, Link] | None, *names: str) -> Iterator[tuple[Node, Link]]:
    """The nodes that a link leads to, one behind the other by the first of some inputs.

    The input that an output stands for comes first: output 1 of a node with inputs `positive` and
    `negative` is the negative one.
    """
    while link is not None:
        node, via = link
        yield node, via
        pair = ("positive", "negative")
        first = (pair[via.output],) if via.output < 2 and set(pair) <= node.inputs.keys() else ()
        link = graph.source(node, *first, *names)
