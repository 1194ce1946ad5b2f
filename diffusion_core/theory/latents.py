"""Scaling of latents between an autoencoder and a denoiser, as diffusers configures it.

A denoiser is trained on latents of about unit variance. An autoencoder's configuration says how to
get there: with `latents_mean` and `latents_std` for each channel, or with `shift_factor`, and with
`scaling_factor`; each of them may be missing.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor


def normalize(config: Mapping[str, Any], latents: Tensor) -> Tensor:
    """The denoiser's latents, (B, C, ...), from those that the autoencoder encodes."""
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is not None and std is not None:
        latents = (latents - _per_channel(mean, latents)) / _per_channel(std, latents)
    shift = config.get("shift_factor") or 0.0
    return (latents - shift) * float(config.get("scaling_factor") or 1.0)


def denormalize(config: Mapping[str, Any], latents: Tensor) -> Tensor:
    """The latents that the autoencoder decodes, (B, C, ...), from those of the denoiser."""
    scaling = config.get("scaling_factor") or 1.0
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is None or std is None:
        return latents / scaling + (config.get("shift_factor") or 0.0)
    return latents * _per_channel(std, latents) / scaling + _per_channel(mean, latents)


def _per_channel(values: Sequence[float], latents: Tensor) -> Tensor:
    """One value per channel, shaped to broadcast over (B, C, ...)."""
    return latents.new_tensor(values).view(1, -1, *[1] * (latents.ndim - 2))
