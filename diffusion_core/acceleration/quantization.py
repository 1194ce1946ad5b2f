"""A denoiser's matrix products in 8 bits, by torchao.

Owns which layers are quantised and with which settings. Knows no pipeline; whether a model and its
precision suit is `diffusion_core.acceleration.apply`'s to see.
"""

from typing import Any

import torch
from torch import nn

from nightpress.diffusion_core.errors import SettingsError

OF_TOKENS = (
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
"""What diffusers calls attention, feed-forward networks, and what lies behind both in FLUX."""


def require(name: str) -> None:
    """See that this machine can quantise in a way.

    Args:
        name: as `diffusion_core.acceleration.spec.Quantization` has it.

    Raises:
        SettingsError: torchao is not installed, or the way needs another device.
    """
    try:
        import torchao  # noqa: F401 - to see whether it is there
    except ImportError as error:
        raise SettingsError(
            f"{name} needs torchao; pip install 'nightpress[quantization]'"
        ) from error
    if name.startswith("float8") and not _has_float8():
        raise SettingsError(f"{name} needs a GPU of compute capability 8.9; int8_... do without")


def _has_float8() -> bool:
    return torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 9)


def quantize(denoiser: nn.Module, name: str) -> None:
    """Quantise a network in place, in a way that `require` has let pass.

    Scales are each row's own: what is shared by a batch would make its images companions.
    """
    from torchao import quantization

    camel = "".join(word.capitalize() for word in name.split("_"))
    settings: dict[str, Any] = {"set_inductor_config": False}  # those would be of the whole process
    if name.startswith("float8_dynamic"):
        settings["granularity"] = quantization.PerRow()
    config = getattr(quantization, f"{camel}Config")(**settings)
    quantization.quantize_(denoiser, config, LAYERS.get(name))


def takes_tokens(module: nn.Module, name: str) -> bool:
    """Whether a layer is a matrix product of an image's many tokens, by its name in the denoiser.

    Others get one row of numbers an image, such as its time, and few images make few rows: CUDA's
    product of 8-bit integers takes more than 16. A network that calls its layers otherwise has
    fewer of them quantised.
    """
    parts = name.split(".")
    return isinstance(module, nn.Linear) and any(part.startswith(OF_TOKENS) for part in parts)


LAYERS = {"int8_dynamic_activation_int8_weight": takes_tokens}
"""Where not all matrix products can be."""
