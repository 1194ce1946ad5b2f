"""The prompts of a ComfyUI graph, and what else conditions a sampler."""

from nightpress.pipelines.image_files.importing.comfyui_graph import Graph, Link, Node
from nightpress.pipelines.image_files.importing.comfyui_stages import chain
from nightpress.pipelines.image_files.importing.made_image import MadeImage

CONDITIONING_INPUTS = (
    "conditioning",
    "conditioning_1",
    "conditioning_to",
    "conditioning1",
    "positive",
)

TEXTS = ("text", "text_g", "text_l", "t5xxl", "clip_l", "clip_g", "prompt")
"""Inputs of encoders with a text; the first that is there counts, the others must equal it."""


def read_prompts(graph: Graph, sampler: Node, made: MadeImage) -> None:
    """Take the prompts that condition a sampler, and note what else does."""
    guider = graph.source(sampler, "guider")
    holder = guider[0] if guider else sampler
    start = graph.source(holder, "positive", "conditioning")
    prompt = _text(graph, start, made, "prompt")
    if prompt is not None:
        made.settings["prompt"] = prompt
    negative = _text(graph, graph.source(holder, "negative"), made, "negative_prompt")
    if negative and negative.strip():
        made.settings["negative_prompt"] = negative


def _text(
    graph: Graph, start: tuple[Node, Link] | None, made: MadeImage, column: str
) -> str | None:
    """The text that a conditioning comes from; None if there is none."""
    own = "positive" if column == "prompt" else "negative"
    for node, _ in chain(graph, start, *CONDITIONING_INPUTS):
        names = [name for name in TEXTS if name in node.inputs]
        if isinstance(node.inputs.get(own), str):  # a loader that encodes both prompts itself
            names = [own]
        if names:
            _clip_skip(graph, node, made)
            _guidance(graph, node, made)
            return _of_encoder(graph, node, names, made, column)
        if node.kind == "ConditioningZeroOut":
            return ""
        if node.kind == "FluxGuidance":
            _guidance(graph, node, made)
        elif node.kind != "ReferenceLatent" or column == "prompt":
            _note(graph, node, made)
    return None


def _of_encoder(
    graph: Graph, node: Node, names: list[str], made: MadeImage, column: str
) -> str | None:
    texts = {name: graph.text(node, name) for name in names}
    if all(text is None for text in texts.values()):
        made.leave_out(column, f"{node} gets it from a node that is not known")
        return None
    first = next(text for text in texts.values() if text)
    for name, text in texts.items():
        if text and text != first:
            made.leave_out(f"{column} of another encoder", f"{name}: {text}")
    return first


def _guidance(graph: Graph, node: Node, made: MadeImage) -> None:
    """The guidance that distilled models get as an input, beside which cfg is 1."""
    guidance = graph.number(node, "guidance")
    if guidance is None:
        return
    cfg = made.settings.get("guidance_scale", 1.0)
    if cfg not in (1.0, guidance):
        made.leave_out("cfg", f"{cfg:g}, beside a distilled guidance")
    made.settings["guidance_scale"] = guidance


def _clip_skip(graph: Graph, node: Node, made: MadeImage) -> None:
    for each, _ in chain(graph, graph.source(node, "clip"), "clip"):
        layer = graph.whole(each, "stop_at_clip_layer")
        if layer is not None and layer < -1:
            made.clip_skip = -layer


def _note(graph: Graph, node: Node, made: MadeImage) -> None:
    """Note what conditions beside the text, once for both prompts."""
    detail = str(node)
    if net := graph.source(node, "control_net"):
        name = graph.text(net[0], "control_net_name") or net[0]
        strength = graph.number(node, "strength")
        detail = f"{name}, strength {'unknown' if strength is None else f'{strength:g}'}: {node}"
    what = "ControlNet" if net else "conditioning"
    if all(each.detail != detail for each in made.notes):
        made.leave_out(what, detail)
