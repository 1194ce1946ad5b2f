"""Scaling between the latents of an autoencoder and those that a denoiser works on.

A diffusers autoencoder names the scaling in its configuration: a mean and a standard deviation for
each channel, or one shift, or neither; and a factor.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def scale_latents(latents: "Tensor", config: Mapping[str, Any]) -> "Tensor":
    """Scale latents (B, C, ...) of an autoencoder to about unit variance, for a denoiser.

    Args:
        latents: as the encoder gives them.
        config: the autoencoder's configuration.
    """
    if statistics := _channel_statistics(latents, config):
        mean, std = statistics
        return (latents - mean) / std * _factor(config)
    return (latents - _shift(config)) * _factor(config)


def unscale_latents(latents: "Tensor", config: Mapping[str, Any]) -> "Tensor":
    """The inverse of `scale_latents`, for the decoder; computed as diffusers' pipelines do."""
    if statistics := _channel_statistics(latents, config):
        mean, std = statistics
        return latents * std / _factor(config) + mean
    return latents / _factor(config) + _shift(config)


def _channel_statistics(
    latents: "Tensor", config: Mapping[str, Any]
) -> tuple["Tensor", "Tensor"] | None:
    """Mean and standard deviation of each channel, (1, C, 1, ...)."""
    values = config.get("latents_mean"), config.get("latents_std")
    if None in values:
        return None
    shape = (1, -1, *[1] * (latents.ndim - 2))
    mean, std = (latents.new_tensor(value).view(shape) for value in values)
    return mean, std


def _factor(config: Mapping[str, Any]) -> float:
    return float(config.get("scaling_factor") or 1.0)


def _shift(config: Mapping[str, Any]) -> float:
    return float(config.get("shift_factor") or 0.0)
