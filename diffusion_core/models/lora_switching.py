"""Which of the LoRAs in a pipeline work just now: those of every image, and one that a row names.

Owns the switching from one row's LoRA to another's. The networks that encode prompts are switched
apart from the rest, as a prompt may be encoded long before its image is denoised. How LoRAs get
into a pipeline `diffusion_core.models.lora_files` knows. Importing this loads no framework.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from nightpress.diffusion_core.errors import SettingsError

ENCODER = "text_encoder"
"""What diffusers calls the networks that encode prompts; a second one has a number behind."""


@dataclass(frozen=True)
class Adapter:
    """A LoRA that is in a pipeline."""

    name: str
    """Under which peft has it."""
    scale: float


_NONE: Mapping[str, Adapter] = MappingProxyType({})


class RowLoras:
    """The LoRAs of one pipeline; whoever samples with it says before each batch which work.

    Where none does, the layers are passed by, so an image has the bits of a model without any.

    Args:
        pipeline: of diffusers, with all of them loaded; None where it has none.
        always: those of every image, in this order.
        of_rows: by the names that rows give them.
    """

    def __init__(
        self,
        pipeline: Any = None,
        always: Sequence[Adapter] = (),
        of_rows: Mapping[str, Adapter] = _NONE,
    ) -> None:
        self._of_rows = dict(of_rows)
        self.num_always = len(always)
        adapters = [*always, *of_rows.values()]
        components = dict(pipeline.components) if adapters else {}
        held = {name: _held(part, adapters) for name, part in components.items()}
        self._parts = {name: components[name] for name, names in held.items() if names}
        self._held = {name: held[name] for name in self._parts}
        self._always = tuple(always)
        self._working: dict[str, tuple[Adapter, ...]] = {}
        self.denoise_with(None)
        self.encode_with(None)

    def require(self, lora: str | None) -> None:
        """Raise SettingsError unless rows may name this one."""
        if lora is not None and lora not in self._of_rows:
            known = ", ".join(self._of_rows) or "none"
            raise SettingsError(f"this model has no LoRA {lora!r} for rows; it has: {known}")

    def denoise_with(self, lora: str | None, scale: float | None = None) -> None:
        """Have a row's LoRA, or none, work in all networks but those that encode prompts.

        Args:
            lora: its name, or None.
            scale: None for its own.
        """
        self._use([name for name in self._parts if not name.startswith(ENCODER)], lora, scale)

    def encode_with(self, lora: str | None, scale: float | None = None) -> None:
        """The same in the networks that encode prompts."""
        self._use([name for name in self._parts if name.startswith(ENCODER)], lora, scale)

    def in_encoders(self, lora: str | None, scale: float | None) -> tuple[str, float] | None:
        """What of a row's LoRA decides its prompt's embedding: None where it has no say in it."""
        if lora is None:
            return None
        own = self._own(lora, scale)
        encoders = (self._held[name] for name in self._parts if name.startswith(ENCODER))
        return (lora, own.scale) if any(own.name in held for held in encoders) else None

    def _use(self, parts: Sequence[str], lora: str | None, scale: float | None) -> None:
        own = () if lora is None else (self._own(lora, scale),)
        for part in parts:
            wanted = tuple(a for a in (*self._always, *own) if a.name in self._held[part])
            if self._working.get(part) != wanted:
                self._working.pop(part, None)  # nobody knows what a switch that fails has left
                switch(self._parts[part], wanted)
                self._working[part] = wanted

    def _own(self, lora: str, scale: float | None) -> Adapter:
        adapter = self._of_rows[lora]
        return adapter if scale is None else replace(adapter, scale=scale)


def switch(network: Any, adapters: Sequence[Adapter]) -> None:
    """Have these adapters work in a network, in this order and no others."""
    from diffusers.utils import set_adapter_layers, set_weights_and_activate_adapters

    if adapters:
        names, scales = [each.name for each in adapters], [each.scale for each in adapters]
        set_weights_and_activate_adapters(network, names, scales)
    set_adapter_layers(network, enabled=bool(adapters))


def num_layers_with(adapter: str, component: Any) -> int:
    """In how many layers of a pipeline's component an adapter is."""
    return sum(adapter in names for names in _adapters_of_layers(component))


def _held(component: Any, adapters: Sequence[Adapter]) -> frozenset[str]:
    """Which of the adapters are in a component."""
    names = frozenset().union(*_adapters_of_layers(component))
    return names & {each.name for each in adapters}


def _adapters_of_layers(component: Any) -> Iterator[frozenset[str]]:
    from peft.tuners.tuners_utils import BaseTunerLayer
    from torch import nn

    if not isinstance(component, nn.Module):
        return
    for layer in component.modules():
        if isinstance(layer, BaseTunerLayer):
            yield frozenset().union(
                *(getattr(layer, each, ()) for each in layer.adapter_layer_names)
            )
