"""Which of the LoRAs in a pipeline are active: those of every image, and one that a row names.

The networks that encode prompts are switched separately, as a prompt may be encoded long before
its image is denoised. `lora_files` puts the LoRAs into the pipeline. Importing this loads no
framework.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any
from weakref import WeakKeyDictionary

from nightpress.diffusion_core import patching
from nightpress.diffusion_core.errors import SettingsError

ENCODER = "text_encoder"
"""What diffusers calls the networks that encode prompts; further ones end in a number."""

SWITCH = "switch between LoRAs"


LAYER_STATE = ("_active_adapter", "_disable_adapters")
"""What says in a layer of peft which of its adapters act."""

_LAYERS: WeakKeyDictionary[Any, Sequence[Any]] = WeakKeyDictionary()
"""Network -> its layers that hold adapters."""


@dataclass(frozen=True)
class Adapter:
    """A LoRA that is in a pipeline."""

    name: str
    """Its name in peft."""
    scale: float


_NONE: Mapping[str, Adapter] = MappingProxyType({})


class RowLoras:
    """The LoRAs of one pipeline; the sampler sets before each batch which of them are active.

    If none is active, the adapter layers are bypassed, so an image has the bits of a model without
    LoRAs.

    Args:
        pipeline: the diffusers pipeline, with all of them loaded; None if there are none.
        always: the adapters of every image, in this order.
        by_label: the adapters that rows may name, by their labels.
    """

    def __init__(
        self,
        pipeline: Any = None,
        always: Sequence[Adapter] = (),
        by_label: Mapping[str, Adapter] = _NONE,
    ) -> None:
        self._by_label = dict(by_label)
        self.num_always = len(always)
        adapters = [*always, *by_label.values()]
        components = dict(pipeline.components) if adapters else {}
        held = {name: _adapters_in(part, adapters) for name, part in components.items()}
        self._networks = {name: components[name] for name, adapters in held.items() if adapters}
        self._held = {name: held[name] for name in self._networks}
        for network in self._networks.values():
            _LAYERS.pop(network, None)  # it may have got further adapters
        self._always = tuple(always)
        self._active: dict[str, tuple[Adapter, ...]] = {}
        self.use_for_denoising(None)
        self.use_for_encoding(None)

    def require(self, lora: str | None) -> None:
        """Check that rows may name this LoRA.

        Raises:
            SettingsError: they may not; the message lists those they may.
        """
        if lora is not None and lora not in self._by_label:
            known = ", ".join(self._by_label) or "none"
            raise SettingsError(f"lora {lora!r}: the model's row LoRAs are: {known}")

    def use_for_denoising(self, lora: str | None, scale: float | None = None) -> None:
        """Activate a row's LoRA, or none, in every network that does not encode prompts.

        Args:
            lora: its label, or None.
            scale: None for the LoRA's own.
        """
        self._use([name for name in self._networks if not name.startswith(ENCODER)], lora, scale)

    def use_for_encoding(self, lora: str | None, scale: float | None = None) -> None:
        """`use_for_denoising` for the networks that encode prompts."""
        self._use([name for name in self._networks if name.startswith(ENCODER)], lora, scale)

    def in_encoders(self, lora: str | None, scale: float | None) -> tuple[str, float] | None:
        """The row LoRA and scale that a prompt's embedding depends on, if any."""
        if lora is None:
            return None
        adapter = self._row_adapter(lora, scale)
        encoders = (self._held[name] for name in self._networks if name.startswith(ENCODER))
        return (lora, adapter.scale) if any(adapter.name in held for held in encoders) else None

    def _use(self, networks: Sequence[str], lora: str | None, scale: float | None) -> None:
        row_adapters = () if lora is None else (self._row_adapter(lora, scale),)
        for network in networks:
            wanted = tuple(
                a for a in (*self._always, *row_adapters) if a.name in self._held[network]
            )
            if self._active.get(network) != wanted:
                # A switch that fails leaves the network in an unknown state.
                self._active.pop(network, None)
                activate(self._networks[network], wanted)
                self._active[network] = wanted

    def _row_adapter(self, lora: str, scale: float | None) -> Adapter:
        adapter = self._by_label[lora]
        return adapter if scale is None else replace(adapter, scale=scale)


def activate(network: Any, adapters: Sequence[Adapter]) -> None:
    """Activate these adapters in a network, in this order, and no others.

    `set_adapters` of diffusers looks through all modules and switches the gradients of all weights
    as well: for SDXL that takes a tenth of a second, in which a GPU waits.

    Read against peft 0.21.2. Relies on `BaseTunerLayer.set_scale`, and on what `set_adapter` and
    `enable_adapters` change besides gradients: `_active_adapter` and `_disable_adapters`.
    """
    names = [each.name for each in adapters]
    for layer in _tuner_layers(network):
        for each in adapters:
            layer.set_scale(each.name, each.scale)
        # Not by setattr: a module looks for parameters and modules of that name first.
        if adapters:
            vars(layer)["_active_adapter"] = list(names)
        vars(layer)["_disable_adapters"] = not adapters


def _tuner_layers(network: Any) -> Sequence[Any]:
    """The layers of a network that hold adapters, found once; see `RowLoras`."""
    if network not in _LAYERS:
        tuner_layer = patching.require("peft.tuners.tuners_utils", "BaseTunerLayer", SWITCH)
        layers = [each for each in network.modules() if isinstance(each, tuner_layer)]
        for layer in layers:
            for name in (*LAYER_STATE, "set_scale"):
                patching.require(layer, name, SWITCH)
        _LAYERS[network] = layers
    return _LAYERS[network]


def num_layers_with(adapter: str, component: Any) -> int:
    """The number of layers of a pipeline's component that hold an adapter."""
    return sum(adapter in names for names in _adapters_of_layers(component))


def _adapters_in(component: Any, adapters: Sequence[Adapter]) -> frozenset[str]:
    """The names of those adapters that are in a component."""
    names = frozenset().union(*_adapters_of_layers(component))
    return names & {adapter.name for adapter in adapters}


def _adapters_of_layers(component: Any) -> Iterator[frozenset[str]]:
    """The names of the adapters in each layer of a component that has any.

    Read against peft 0.21.2. Relies on `BaseTunerLayer.adapter_layer_names`, the attributes that
    hold a layer's adapters by name.
    """
    from torch import nn

    if not isinstance(component, nn.Module):
        return
    tuner_layer = patching.require("peft.tuners.tuners_utils", "BaseTunerLayer", SWITCH)
    for layer in component.modules():
        if isinstance(layer, tuner_layer):
            attributes = patching.require(layer, "adapter_layer_names", SWITCH)
            yield frozenset().union(*(getattr(layer, name, ()) for name in attributes))
