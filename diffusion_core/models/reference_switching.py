"""Loading IP-Adapters into a pipeline, and which of them are active for a batch.

An adapter replaces the attention processors of the denoiser, and diffusers' own way to turn it off,
a scale of 0, is not the model without it in every family. So the processors are exchanged between
batches: with no adapter active the denoiser has the very processors that it was loaded with.
"""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from nightpress.diffusion_core import patching
from nightpress.diffusion_core.errors import ModelError, as_model_error
from nightpress.diffusion_core.models import networks
from nightpress.diffusion_core.models.adapter_files import ReferenceFiles
from nightpress.diffusion_core.models.pipeline_folder import PipelineFolder
from nightpress.diffusion_core.models.references import (
    IMAGE_ENCODER,
    ReferenceSpec,
    encoder_weights,
)

SWITCH = "switch between IP-Adapters"

_NONE: Mapping[str, Any] = MappingProxyType({})


class References:
    """The IP-Adapters of one pipeline; the sampler sets before each batch which are active.

    Read against diffusers 0.42.1. Relies on a denoiser's `attn_processors`, `set_attn_processor`
    and `encoder_hid_proj`, and on the lists `to_k_ip`, `to_v_ip` and `scale` of the processors.

    Args:
        network: the denoiser, with all adapters loaded; None if there are none.
        names: the adapters, in the order in which they were loaded.
        plain: the processors without adapters, by their names.
    """

    def __init__(
        self, network: Any = None, names: Sequence[str] = (), plain: Mapping[str, Any] = _NONE
    ) -> None:
        self._network, self.names = network, tuple(names)
        self._sets: dict[tuple[str, ...], dict[str, Any]] = {(): dict(plain)}
        self._projections: dict[str, Any] = {}
        self._active: tuple[str, ...] | None = None
        if self.names:
            projection = patching.require(network, "encoder_hid_proj", SWITCH)
            layers = patching.require(projection, "image_projection_layers", SWITCH)
            self._multiple = type(projection)
            self._projections = dict(zip(self.names, layers, strict=True))
            network.encoder_hid_proj = None  # its own attention is not the denoiser's
            self._sets[self.names] = dict(network.attn_processors)
            self.use(())

    def takes_hidden_states(self, name: str) -> bool:
        """Whether an adapter takes the hidden states of the image encoder, not its embedding."""
        from diffusers.models.embeddings import ImageProjection

        return not isinstance(self._projections[name], ImageProjection)

    def use(self, names: Sequence[str], scales: Sequence[float] = ()) -> None:
        """Activate these adapters with these scales, and no others.

        Args:
            names: some of `self.names`, in their order.
            scales: one for each.

        Raises:
            ValueError: there is no such adapter, or not one scale for each.
        """
        wanted = tuple(names)
        if unknown := [name for name in wanted if name not in self.names]:
            known = ", ".join(self.names) or "none"
            raise ValueError(f"reference {unknown[0]!r}: the model's IP-Adapters are: {known}")
        if len(scales) != len(wanted):
            raise ValueError(f"{len(scales)} scales for {len(wanted)} IP-Adapters")
        if not self.names:
            return
        processors = self._processors(wanted)
        if wanted != self._active:
            self._active = None  # a switch that fails leaves the network in an unknown state
            self._network.encoder_hid_proj = None
            self._set_config(encoder_hid_dim_type="ip_image_proj" if wanted else None)
            self._network.set_attn_processor(dict(processors))
            if wanted:
                self._network.encoder_hid_proj = self._multiple(
                    [self._projections[name] for name in wanted]
                )
            self._active = wanted
        for processor in processors.values():
            if hasattr(processor, "to_k_ip"):
                processor.scale = list(scales)

    def _set_config(self, **values: Any) -> None:
        """Change the denoiser's configuration for good.

        diffusers sets an attribute of it, which the next `register_to_config` of anything forgets:
        then the processors take the last words of a prompt for a picture.
        """
        patching.require(self._network, "register_to_config", SWITCH)(**values)

    def _processors(self, names: tuple[str, ...]) -> dict[str, Any]:
        """The processors with only these adapters; their weights are shared."""
        if names not in self._sets:
            places = [self.names.index(name) for name in names]
            self._sets[names] = {
                key: _with_only(processor, places)
                for key, processor in self._sets[self.names].items()
            }
        return self._sets[names]


def _with_only(processor: Any, places: Sequence[int]) -> Any:
    """A view of a processor with some of its adapters; one without adapters as it is."""
    from torch import nn

    if not hasattr(processor, "to_k_ip"):
        return processor
    view = copy.copy(processor)
    children = {
        name: nn.ModuleList(layers[place] for place in places)
        for name, layers in processor.named_children()
    }
    view.__dict__["_modules"] = {**patching.require(processor, "_modules", SWITCH), **children}
    return view


def load_references(
    pipeline: Any,
    references: Sequence[tuple[ReferenceSpec, ReferenceFiles]],
    model: PipelineFolder,
) -> References:
    """Load IP-Adapters and their image encoder into a pipeline, none of them active.

    Args:
        pipeline: a diffusers pipeline, on its device.
        references: the adapters, checked by `references.check_references`.
        model: the folder of the pipeline.

    Raises:
        ModelError: an adapter or the encoder does not fit or is damaged.
    """
    if not references:
        return References()
    network = getattr(pipeline, "unet", None) or pipeline.transformer
    if getattr(network, "encoder_hid_proj", None) is not None:
        raise ModelError(f"{model.path}: its denoiser projects its inputs, so it takes no adapter")
    names = [spec.label for spec, _ in references]
    plain = dict(patching.require(network, "attn_processors", SWITCH))
    if references[0][1].image_encoder is not None:
        _load_encoder(pipeline, references[0][1].image_encoder)
    failure = f"IP-Adapters {', '.join(names)} do not fit {type(pipeline).__name__} {model.path}"
    with as_model_error(failure):
        pipeline.load_ip_adapter(
            [str(files.weights.parent) for _, files in references],
            subfolder="",
            weight_name=[files.weights.name for _, files in references],
            local_files_only=True,
            low_cpu_mem_usage=False,  # the other way leaves out what does not fit
        )
        network.encoder_hid_proj.to(device=network.device, dtype=network.dtype)
    networks.require_finite_weights(network, failure)
    return References(network, names, plain)


def _load_encoder(pipeline: Any, folder: Path) -> None:
    """Put an image encoder into a pipeline, of the type of its other weights."""
    from transformers import CLIPVisionModelWithProjection

    encoder = networks.load_network(
        CLIPVisionModelWithProjection, folder, encoder_weights(folder), dtype=pipeline.dtype
    )
    networks.require_finite_weights(encoder, f"{folder}: {IMAGE_ENCODER}")
    pipeline.register_modules(image_encoder=encoder.to(pipeline.device).eval())
