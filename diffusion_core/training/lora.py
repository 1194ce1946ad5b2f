"""Train a LoRA: a small adapter on the denoiser of any model that can be sampled.

Chooses the layers to adapt and adds the adapter; the loss is that of `frozen_base`.

Read against diffusers 0.42.1 and peft 0.21.2. Relies on `add_adapter` and `peft_config` of a
denoiser, and on `save_lora_weights` of a pipeline and the names of its arguments. A pipeline
without them is refused.
"""

import inspect
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nightpress.diffusion_core.errors import SettingsError, UnsupportedModel, one_line
from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.models.lora_files import require_peft
from nightpress.diffusion_core.training.frozen_base import FrozenBaseTraining
from nightpress.diffusion_core.training.weighting import TimeSampling

ATTENTION = ("to_k", "to_q", "to_v", "to_out.0")
"""Names of the projections in diffusers' attention layers."""

MIN_ATTENTION_SHARE = 0.05
"""If attention holds a smaller share of a denoiser's weights, its other layers are adapted too."""


@dataclass(frozen=True)
class LoraSettings:
    """Settings of an adapter and its loss, named as in peft and diffusers' training scripts."""

    rank: int = 8
    lora_alpha: float | None = None
    """The adapter's output is scaled by alpha / rank; None means alpha = rank."""
    lora_dropout: float = 0.0
    target_modules: tuple[str, ...] = ()
    """Suffixes of layer names; if empty, `default_targets` chooses the layers."""
    snr_gamma: float | None = None
    time_sampling: TimeSampling = field(default_factory=TimeSampling)
    guidance_scale: float = 1.0
    """Input of denoisers that take the guidance scale, such as FLUX."""
    seed: int = 0
    """Seed of the adapter's initial weights."""


def default_targets(denoiser: nn.Module) -> list[str]:
    """The layers to adapt by default.

    These are the attention projections if they hold at least `MIN_ATTENTION_SHARE` of the weights;
    otherwise every linear and convolutional layer, by its full name.
    """
    weights = {
        name: layer.weight.numel()
        for name, layer in denoiser.named_modules()
        if isinstance(layer, (nn.Linear, nn.Conv2d))
    }
    attention = sum(num for name, num in weights.items() if name.endswith(ATTENTION))
    total = sum(parameter.numel() for parameter in denoiser.parameters())
    return list(ATTENTION) if attention >= MIN_ATTENTION_SHARE * total else sorted(weights)


class LoraTraining(FrozenBaseTraining):
    """A denoiser with frozen weights and a trainable adapter.

    Put the module in evaluation mode before sampling with the pipeline of `model`; otherwise
    `lora_dropout` is active.

    Args:
        model: changed in place; its denoiser carries the adapter from now on.
        settings: of the adapter and the loss.
        height, width: of the images, in pixels; all images have one size.

    Raises:
        UnsupportedModel: the pipeline's class cannot save LoRAs, or calls its denoiser in a way
            that training cannot reproduce.
        SettingsError: the model does not support the size, or has no such layers.
        ModelError: peft is not installed.
    """

    def __init__(self, model: LoadedModel, settings: LoraSettings, height: int, width: int) -> None:
        require_peft()
        super().__init__(
            model,
            _denoiser_of(model),
            height,
            width,
            snr_gamma=settings.snr_gamma,
            time_sampling=settings.time_sampling,
            guidance_scale=settings.guidance_scale,
        )
        _add_adapter(self.denoiser, settings)

    def save(self, folder: Path) -> None:
        """Write `pytorch_lora_weights.safetensors`, as diffusers' `load_lora_weights` reads it."""
        from peft.utils import get_peft_model_state_dict

        denoiser: Any = self.denoiser
        layers = get_peft_model_state_dict(denoiser, adapter_name="default")
        arguments = {
            f"{self._part}_lora_layers": {k: v.detach().cpu() for k, v in layers.items()},
            f"{self._part}_lora_adapter_metadata": denoiser.peft_config["default"].to_dict(),
        }
        takes = inspect.signature(self._owner.save_lora_weights).parameters
        self._owner.save_lora_weights(folder, **{k: v for k, v in arguments.items() if k in takes})


def _denoiser_of(model: LoadedModel) -> str:
    """The pipeline's name for its denoiser."""
    owner = type(model.pipeline)
    if not hasattr(owner, "save_lora_weights"):
        raise UnsupportedModel(f"{owner.__name__} cannot be trained: it cannot save LoRAs")
    for part in ("unet", "transformer"):
        denoiser = getattr(model.pipeline, part, None)
        if denoiser is not None and hasattr(denoiser, "add_adapter"):
            if getattr(denoiser, "peft_config", None):
                raise SettingsError(
                    "model.loras: a LoRA can only be trained on a model without one"
                )
            return part
    raise UnsupportedModel(f"{owner.__name__} cannot be trained: it has no unet or transformer")


def _add_adapter(denoiser: Any, settings: LoraSettings) -> None:
    """Freeze the network and add a float32 adapter; its second matrix starts at zero."""
    from peft import LoraConfig

    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.lora_alpha or settings.rank,
        lora_dropout=settings.lora_dropout,
        target_modules=list(settings.target_modules) or default_targets(denoiser),
        init_lora_weights="gaussian",
    )
    denoiser.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):  # it would touch every GPU of the machine
        torch.manual_seed(settings.seed)
        try:
            denoiser.add_adapter(config)
        except ValueError as error:
            reason = one_line(error, 300)
            raise SettingsError(f"target_modules {settings.target_modules}: {reason}") from error
    for parameter in denoiser.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
