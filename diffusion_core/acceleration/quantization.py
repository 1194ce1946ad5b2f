"""A denoiser's matrix products in 8 bits, with torchao.

Owns which layers are quantised and with which settings. `diffusion_core.acceleration.apply` checks
whether a model and its precision are suitable.
"""

from typing import Any

import torch
from torch import nn

from nightpress.diffusion_core.errors import SettingsError

TOKEN_LAYERS = (
    "attn",
    "attention",
    "self_attention",
    "cross_attention",
    "ff",
    "feed_forward",
    "img_mlp",
    "txt_mlp",
    "proj_mlp",
    "proj_out",
)
"""diffusers' names for attention, for feed-forward networks, and for what follows both in FLUX."""


def require_quantization(name: str, device: str) -> None:
    """Check that a device of this machine supports a quantisation.

    Args:
        name: one of `diffusion_core.acceleration.spec.Quantization`.
        device: torch's name of the device that samples.

    Raises:
        SettingsError: torchao is not installed, or the quantisation needs another device.
    """
    try:
        import torchao  # noqa: F401 - only to see whether it is installed
    except ImportError as error:
        raise SettingsError(
            f"{name} needs torchao; install it with: pip install 'nightpress[quantization]'"
        ) from error
    if name.startswith("float8") and not _has_float8(device):
        raise SettingsError(
            f"{name} needs a GPU of compute capability 8.9 or higher; the int8 settings do not"
        )


def _has_float8(device: str) -> bool:
    on_gpu = device != "cpu" and torch.cuda.is_available()
    return on_gpu and torch.cuda.get_device_capability(device) >= (8, 9)


def quantize(denoiser: nn.Module, name: str) -> None:
    """Quantise a network in place, as `require_quantization` allows.

    Every row has a scale of its own: with one for a batch, an image would depend on the others.
    """
    from torchao import quantization

    camel = "".join(word.capitalize() for word in name.split("_"))
    settings: dict[str, Any] = {"set_inductor_config": False}  # it would change the whole process
    if name.startswith("float8_dynamic"):
        settings["granularity"] = quantization.PerRow()
    config = getattr(quantization, f"{camel}Config")(**settings)
    quantization.quantize_(denoiser, config, LAYER_FILTERS.get(name))


def takes_tokens(module: nn.Module, name: str) -> bool:
    """Whether a layer multiplies the many tokens of an image, by its name in the denoiser.

    Other layers get one row of numbers for each image, such as its timestep, and a batch has few
    images: CUDA's 8-bit integer product needs more than 16 rows. In a network with other layer
    names, fewer layers are quantised.
    """
    parts = name.split(".")
    return isinstance(module, nn.Linear) and any(part.startswith(TOKEN_LAYERS) for part in parts)


LAYER_FILTERS = {"int8_dynamic_activation_int8_weight": takes_tokens}
"""Quantisation -> which layers it can be applied to; all matrix products if it is not here."""
