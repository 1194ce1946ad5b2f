"""Turns a graph of ComfyUI into the settings of nightpress.

Reference: ComfyUI, nodes.py and comfy_extras/nodes_custom_sampler.py, nodes_flux.py,
nodes_clip_sdxl.py, nodes_model_advanced.py; comfy/samplers.py (`KSampler.set_steps`).
"""

import math
import re
from pathlib import PurePosixPath
from typing import Any

from nightpress.pipelines.image_files.importing.comfyui_graph import Graph, Node
from nightpress.pipelines.image_files.importing.comfyui_prompts import read_prompts
from nightpress.pipelines.image_files.importing.comfyui_stages import (
    DECODERS,
    ENCODERS,
    Stage,
    Stages,
    chain,
    find_stages,
    image_ends,
)
from nightpress.pipelines.image_files.importing.made_image import (
    MadeImage,
    UnreadableImage,
    UsedLora,
    file_stem,
    steps_at_full_strength,
)

FLOW_NODES = frozenset(
    {"ModelSamplingFlux", "ModelSamplingSD3", "ModelSamplingAuraFlow", "FluxGuidance"}
    | {"CLIPTextEncodeFlux", "CLIPTextEncodeSD3", "EmptySD3LatentImage", "EmptyFlux2LatentImage"}
)
"""Nodes that only graphs of flow-matching models have."""

FILE_INPUTS = ("ckpt_name", "unet_name", "model_name")
"""Inputs of loaders with the file of a model."""

MODEL_INPUTS = ("model", "base_model", "basic_pipe", "MODEL")

KNOWN_SAMPLERS = frozenset(
    {"KSampler", "KSamplerAdvanced", "SamplerCustom", "SamplerCustomAdvanced"}
)

HARMLESS = frozenset({"VAEDecode", "VAEDecodeTiled", "SaveImage", "PreviewImage", "LoadImage"})


def made_by_comfyui(source: str, text: str) -> MadeImage:
    """How an image was made, by its graph in the API format.

    Args:
        source: URL of its file.
        text: the JSON of the graph.

    Raises:
        UnreadableImage: it is no graph, or no sampler in it makes an image.
    """
    graph = Graph.parse(text)
    made = MadeImage(source, "ComfyUI", reads_weights=True)
    reader = _Reader(graph, made)
    end = _end(graph, made)
    reader.read(find_stages(graph, end))
    if "prompt" not in made.settings:
        why = "; ".join(each.detail for each in made.notes if each.what == "prompt")
        raise UnreadableImage(f"its graph has no prompt that can be read{why and f': {why}'}")
    return made


def _end(graph: Graph, made: MadeImage) -> Node:
    """The node that saved the image: by its file's name, else the first by its sampler."""
    ends = image_ends(graph)
    if not ends:
        raise UnreadableImage("its graph saves no image")
    name = PurePosixPath(made.source).name
    named = [node for node in ends if _prefix(node) and name.startswith(_prefix(node))]
    saved = [node for node in ends if node.kind != "PreviewImage"]
    candidates = named or saved or ends
    if len(candidates) > 1:
        others = ", ".join(map(str, candidates[1:]))
        made.differs("output", f"{candidates[0]} is taken; the graph has others: {others}")
    return candidates[0]


def _prefix(node: Node) -> str:
    prefix = node.inputs.get("filename_prefix")
    return re.split(r"[\\/]", prefix)[-1] if isinstance(prefix, str) and "%" not in prefix else ""


class _Reader:
    """Reads the samplers of one graph."""

    def __init__(self, graph: Graph, made: MadeImage) -> None:
        self.graph, self.made = graph, made
        made.is_flow = any(node.kind in FLOW_NODES for node in graph.nodes.values())

    def read(self, stages: Stages) -> None:
        """Read everything that leads to the image."""
        first, *later = stages.stages
        self._model(first.node)
        self._sampling(first.node)
        read_prompts(self.graph, first.node, self.made)
        self._start(stages)
        for before, stage in zip(stages.stages, later, strict=False):
            self._pass(before, stage)
        for node in stages.stages[-1].changes:
            if node.kind not in HARMLESS:
                self.made.leave_out("change of the image", f"{node}, after the last sampler")

    def _sampling(self, node: Node) -> None:
        settings, seed = self.made.settings, _seed(self.graph, node)
        if seed is None:
            self.made.leave_out("seed", f"{node} has none that can be read")
        else:
            self.made.set_seed(seed)
        steps, cfg = _steps(self.graph, node), self.graph.number(_guider(self.graph, node), "cfg")
        if steps is not None:
            settings["num_inference_steps"] = steps
        if cfg is not None:
            settings["guidance_scale"] = cfg
        sampler, schedule = _sampler(self.graph, node)
        if sampler is None:
            self.made.leave_out("sampler", f"{node} has none that can be read")
        else:
            self.made.set_sampler(sampler, schedule)
        if node.kind not in KNOWN_SAMPLERS:
            self.made.differs("node", f"{node} is read as a KSampler")

    def _model(self, sampler: Node) -> None:
        start = self.graph.source(_guider(self.graph, sampler), *MODEL_INPUTS)
        for node, _ in chain(self.graph, start, *MODEL_INPUTS):
            named = [name for name in FILE_INPUTS if name in node.inputs]
            if named:
                file = self.graph.text(node, named[0])
                self.made.model = file and file.replace("\\", "/")
                return
            if "lora_name" in node.inputs:
                self._lora(node)
            elif stack := [each for each in node.inputs.values() if _is_stacked(each)]:
                self._stacked(stack)
            else:
                self.made.leave_out("change of the model", node)
        self.made.leave_out("model", "no loader of a model leads to the sampler")

    def _lora(self, node: Node) -> None:
        name = self.graph.text(node, "lora_name")
        scale = self.graph.number(node, "strength_model")
        if name is None or scale is None:
            self.made.leave_out("LoRA", f"{node} has no name or strength that can be read")
            return
        on_text = self.graph.number(node, "strength_clip")
        if on_text is not None and on_text != scale:
            self.made.differs("LoRA", f"{name}: {on_text:g} on the text encoder, too, is {scale:g}")
        if scale:
            self.made.loras.insert(0, UsedLora(file_stem(name), scale))

    def _stacked(self, stack: list[dict[str, Any]]) -> None:
        """The LoRAs of a node that holds several, each with its switch."""
        used = [each for each in stack if each.get("on") and each.get("strength")]
        loras = [UsedLora(file_stem(each["lora"]), float(each["strength"])) for each in used]
        self.made.loras = [*loras, *self.made.loras]

    def _start(self, stages: Stages) -> None:
        """What the first sampling begins with: an empty latent, or a picture."""
        start, settings = stages.start, self.made.settings
        denoise = _denoise(self.graph, stages.stages[0].node)
        picture = self.graph.text(start, "image") if start.kind.startswith("LoadImage") else None
        if picture is not None:
            self._picture(picture, denoise)
            changes = [each for each in stages.start_changes if each.kind not in ENCODERS]
            for node in changes:
                self.made.leave_out("change of the picture", node)
            return
        width, height = _size(self.graph, start)
        if width and height:
            settings |= {"width": width, "height": height}
        else:
            self.made.leave_out("size", f"{start} has none that can be read")
        if (number := self.graph.whole(start, "batch_size") or 1) > 1:
            detail = f"the image is one of {number} of one seed, of which the row makes the first"
            self.made.differs("batch", detail)
        if denoise < 1:
            self.made.leave_out("denoise", f"{denoise:g} of an empty latent")

    def _picture(self, picture: str, denoise: float) -> None:
        name = re.sub(r" \[(input|output|temp)\]$", "", picture)
        self.made.settings |= {"init_image": name.replace("\\", "/"), "strength": denoise}
        steps = self.made.settings.get("num_inference_steps")
        if steps and 0 < denoise <= 1:  # ComfyUI takes all of them
            self.made.settings["num_inference_steps"] = steps_at_full_strength(steps, denoise)

    def _pass(self, before: Stage, stage: Stage) -> None:
        """A second sampling of what the one before it has made."""
        graph, node = self.graph, stage.node
        scale = self._scale(before.changes)
        steps, denoise = _steps(graph, node), _denoise(graph, node)
        if scale is None or steps is None or not 0 < denoise <= 1:
            self.made.leave_out("second sampler", f"{node} cannot be read as a pass")
        elif math.isclose(scale, 1):
            self.made.leave_out("second sampler", f"{node}, at the same size")
        else:
            taken = steps if _start_step(graph, node) is None else round(steps * denoise)
            self.made.add_pass(scale, denoise, max(1, taken))
            if _sampler(graph, node) != _sampler(graph, before.node):
                self.made.differs("second sampler", f"{node} has another sampler than the first")
            own, first = (graph.number(_guider(graph, each), "cfg") for each in (node, before.node))
            if own != first:
                self.made.differs("second sampler", f"{node} has another cfg than the first: {own}")

    def _scale(self, changes: list[Node]) -> float | None:
        """How much larger the image becomes between two samplers; None if that is unknown."""
        width = float(self.made.settings.get("width", 0))
        for each in self.made.passes:
            width *= each.scale
        scale = 1.0
        for node in changes:
            by = self.graph.number(node, "scale_by")
            to = self.graph.number(node, "width")
            if by is not None:
                scale *= by
            elif to and width:
                scale = to / width
            elif "upscale_model" in node.inputs:
                factor = re.search(r"(\d)x|x(\d)", self._upscaler(node), re.I)
                if factor is None:
                    return None
                scale *= int(factor[1] or factor[2])
            elif node.kind not in ENCODERS | DECODERS:
                self.made.leave_out("change between samplers", node)
                continue
            if node.kind not in ENCODERS | DECODERS:
                self.made.differs("upscaler", f"{node} is taken as Lanczos")
        return scale

    def _upscaler(self, node: Node) -> str:
        found = self.graph.source(node, "upscale_model")
        return (self.graph.text(found[0], "model_name") or "") if found else ""


def _is_stacked(value: object) -> bool:
    """Whether an input is one LoRA of rgthree's Power Lora Loader."""
    match value:
        case {"on": bool(), "lora": str(), "strength": int() | float()}:
            return True
        case _:
            return False


def _guider(graph: Graph, node: Node) -> Node:
    """The node that holds model, conditioning and cfg: the sampler, or its guider."""
    found = graph.source(node, "guider")
    return found[0] if found else node


def _seed(graph: Graph, node: Node) -> int | None:
    noise = graph.source(node, "noise")
    holder = noise[0] if noise else node
    seed = graph.whole(holder, "seed")
    return graph.whole(holder, "noise_seed") if seed is None else seed


def _sigmas(graph: Graph, node: Node) -> Node:
    found = graph.source(node, "sigmas")
    return found[0] if found else node


def _steps(graph: Graph, node: Node) -> int | None:
    steps = graph.whole(_sigmas(graph, node), "steps")
    return steps if steps and steps > 0 else None


def _size(graph: Graph, node: Node) -> tuple[int | None, int | None]:
    """Width and height of an empty latent, by any name that loaders have for them."""
    sides = (("width", "empty_latent_width"), ("height", "empty_latent_height"))
    width, height = (
        next((found for name in names if (found := graph.whole(node, name))), None)
        for names in sides
    )
    return width, height


def _start_step(graph: Graph, node: Node) -> int | None:
    return graph.whole(node, "start_at_step")


def _denoise(graph: Graph, node: Node) -> float:
    """The share of the noising process that a sampler goes through."""
    start, steps = _start_step(graph, node), _steps(graph, node)
    if start is not None and steps:
        return max(0.0, 1 - start / steps)
    found = graph.number(_sigmas(graph, node), "denoise")
    return 1.0 if found is None else found


def _sampler(graph: Graph, node: Node) -> tuple[str | None, str | None]:
    """Sampler and schedule, as ComfyUI calls them."""
    chosen, sigmas = graph.source(node, "sampler"), _sigmas(graph, node)
    sampler = graph.text(chosen[0] if chosen else node, "sampler_name")
    schedule = graph.text(sigmas, "scheduler")
    if schedule is None and sigmas is not node:
        schedule = sigmas.kind.removesuffix("Scheduler")
    return sampler, schedule
