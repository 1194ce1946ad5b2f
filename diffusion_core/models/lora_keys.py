"""Which tensors of a LoRA file have an effect on a pipeline, counted under the file's own names.

diffusers translates the layouts of LoRA files into its own, and drops without an error what it
does not know. Here the tensors are followed through that translation, and then into peft's layers.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from nightpress.diffusion_core import patching
from nightpress.diffusion_core.models import lora_layouts
from nightpress.diffusion_core.models.tensor_headers import listed
from nightpress.diffusion_core.models.traced_tensors import TracedTensor, sources_of

_SUFFIX = re.compile(
    r"[._](lora\d?|lokr|hada|alpha|diff|diff_b|dora_scale|rank)\b.*$|[._](lora|lokr|hada)_.*$"
)
"""Matches what follows the layer in the name of a tensor."""
_DOWN = re.compile(r"(lora_A|lora_down|[._]down)\b")
_UP = re.compile(r"(lora_B|lora_up|[._]up)\b")
_RANK = re.compile(r"(^|\.)(rank|network_dim)$")
"""Matches tensors that repeat what the shapes say."""

TRANSLATE = "follow the tensors of a LoRA into the model"


@dataclass
class Trace:
    """Where the tensors of a LoRA file went when diffusers translated them."""

    names: tuple[str, ...]
    """The names of all tensors in the file."""
    harmless: frozenset[str] = frozenset()
    """Those without which the LoRA has the same effect."""
    translated: dict[str, frozenset[str]] = field(default_factory=dict)
    """diffusers' name of each tensor -> the tensors of the file that it was made from."""
    read: set[str] = field(default_factory=set)
    """The tensors whose value was read, such as alphas."""

    @property
    def dropped(self) -> set[str]:
        """The tensors of the file that the translation left out."""
        used = self.read.union(*self.translated.values())
        return set(self.names) - used - self.harmless


def trace(translate: Callable[[dict[str, Any]], Any], tensors: Mapping[str, Any]) -> Trace:
    """Follow tensors through a translation.

    Args:
        translate: takes the tensors of a file by name, and returns a mapping, or a tuple that
            begins with one.
        tensors: the tensors of the file.
    """
    found = Trace(tuple(tensors), _harmless(tensors))
    traced: dict[str, Any] = {
        name: TracedTensor.of(value, frozenset({name}), found.read)
        for name, value in tensors.items()
    }
    result = translate(traced)
    translated = result[0] if isinstance(result, tuple) else result
    found.translated = {name: sources_of([value]) for name, value in translated.items()}
    return found


def read_tensors(file: Path) -> dict[str, Any]:
    """The tensors of a LoRA file by name.

    Raises:
        ValueError: it is a pickle that holds something else.
    """
    from safetensors.torch import load_file

    if file.suffix == ".safetensors":
        return dict(load_file(file))
    try:
        values = torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise ValueError(f"it holds more than tensors: {error}") from error
    if isinstance(values, list):
        return dict(lora_layouts.numbered(values))
    if not isinstance(values, Mapping):
        raise ValueError(f"it holds a {type(values).__name__}, not tensors")
    return {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}


def left_out(pipeline: Any, traced: Trace) -> set[str]:
    """The tensors of the file that belong to no component of a pipeline, or were dropped."""
    homeless = [
        sources
        for name, sources in traced.translated.items()
        if name.partition(".")[0] not in pipeline.components and not sources <= traced.read
    ]
    return (set().union(*homeless) - traced.harmless) | traced.dropped


def without_effect(pipeline: Any, adapter: str, traced: Trace) -> set[str]:
    """The tensors of the file that are not in the layers of an adapter, or without their partner.

    Args:
        pipeline: the pipeline into which diffusers loaded the LoRA.
        adapter: its name in peft.
        traced: the translation of its file.
    """
    idle: set[str] = set()
    by_component = _by_component(pipeline, traced)
    placed = {name: _placed(pipeline.components[name], adapter) for name in by_component if name}
    for component, names in by_component.items():
        for name, source in names.items():
            if name not in placed.get(component, ()):
                idle |= traced.translated[source]
        partners = _without_partner(placed.get(component, frozenset()), names)
        idle = idle.union(*(traced.translated[names[name]] for name in partners))
    return (idle - traced.harmless) | traced.dropped


def describe_idle(idle: Iterable[str], names: Iterable[str]) -> str:
    """A clause that says how many of a file's layers and tensors have no effect, and which."""
    unused, everything = set(idle), list(names)
    layers = {_layer(name) for name in everything}
    whole = layers - {_layer(name) for name in unused}
    return (
        f"{len(whole)} of its {len(layers)} layers are in the model; {len(unused)} of its "
        f"{len(everything)} tensors would have no effect: {listed(unused)}"
    )


def _harmless(tensors: Mapping[str, Any]) -> frozenset[str]:
    """The tensors of a file without which the LoRA has the same effect.

    These are changes of zero, all of a layer whose second factor is zero, the alpha of a layer with
    the same rank, and tensors that repeat the rank. Trainers write all of them.
    """
    zero = {name for name, value in tensors.items() if not value.any()}
    ranks = {_layer(name): len(value) for name, value in tensors.items() if _DOWN.search(name)}
    idle_layers = {_layer(name) for name in zero if _UP.search(name)}
    return frozenset(
        name
        for name, value in tensors.items()
        if _RANK.search(name)
        or (".diff" in name and name in zero)
        or (".diff" not in name and _layer(name) in idle_layers)
        or (name.endswith(".alpha") and value.numel() == 1 and value == ranks.get(_layer(name)))
    )


def _layer(name: str) -> str:
    return _SUFFIX.sub("", name)


def _by_component(pipeline: Any, traced: Trace) -> dict[str, dict[str, str]]:
    """Component -> peft's name of each tensor in it -> its translated name; '' for no component.

    Alphas are left out: their values are read, and become part of the scale.
    """
    found: dict[str, dict[str, str]] = {}
    for name in traced.translated:
        component = name.partition(".")[0]
        component = component if component in pipeline.components else ""
        inner = name.removeprefix(f"{component}.") if component else name
        if not (inner.endswith(".alpha") and traced.translated[name] <= traced.read):
            found.setdefault(component, {})[inner] = name
    return {component: _in_peft_names(component, names) for component, names in found.items()}


def _in_peft_names(component: str, names: dict[str, str]) -> dict[str, str]:
    """Translate the keys as diffusers does when it hands them to peft.

    Read against diffusers 0.42.1. Relies on the three functions of `diffusers.utils` that its
    loaders call.
    """
    if component.startswith("text_encoder"):
        steps = ["convert_state_dict_to_diffusers", "convert_state_dict_to_peft"]
    elif component == "unet" and not any("lora_A" in name for name in names):
        steps = ["convert_unet_state_dict_to_peft"]
    else:
        steps = []
    try:
        for step in steps:
            names = patching.require("diffusers.utils", step, TRANSLATE)(dict(names))
    except ValueError:  # no layout that diffusers knows, so no tensor of it is placed
        return names
    return {_plain(name): source for name, source in names.items()}


def _placed(network: Any, adapter: str) -> frozenset[str]:
    """The tensors that an adapter has in a network, by peft's names, and those it overwrote."""
    from torch import nn

    if not isinstance(network, nn.Module):
        return frozenset()
    marked = re.compile(rf"\.{re.escape(adapter)}(?=\.|$)")
    own = {marked.sub("", name) for name, _ in network.named_parameters() if marked.search(name)}
    return frozenset({*map(_plain, own), *(vars(network).get("_transformer_norm_layers") or ())})


def _plain(name: str) -> str:
    """A name without what differs between versions of transformers and of peft."""
    name = name.removeprefix("text_model.")
    return f"{name}.weight" if name.endswith("lora_magnitude_vector") else name


def _without_partner(placed: Iterable[str], names: Mapping[str, str]) -> list[str]:
    """The tensors of layers to which peft had to add one: half a layer changes nothing."""
    added = {_layer(name) for name in placed if name not in names}
    return [name for name in names if _layer(name) in added]
