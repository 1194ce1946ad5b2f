"""Training an autoencoder: pixels to latents and back.

Owns what one step computes, and how the trained network gets latents of unit variance. Knows no
data set, no optimizer and no loop.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from nightpress.diffusion_core.errors import SettingsError
from nightpress.diffusion_core.models.latent_scaling import scale_latents, unscale_latents
from nightpress.diffusion_core.training.objectives import AutoencoderObjective, autoencoder_terms

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


class AutoencoderTraining(nn.Module):
    """One step of an `AutoencoderKL`, as a module that returns its loss."""

    def __init__(
        self,
        autoencoder: "AutoencoderKL",
        objective: AutoencoderObjective,
        latent_noise: float = 0.0,
    ) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.objective = objective
        self.latent_noise = latent_noise

    def forward(self, images: Tensor, noise: Tensor, blur: Tensor) -> dict[str, Tensor]:
        """The loss terms of a batch, `loss` being what is minimised.

        Args:
            images: (B, 3, H, W) in [-1, 1].
            noise: (B, C, h, w), standard normal; samples the posterior.
            blur: (B,) in [0, 1): how much of `latent_noise` the latents of each picture receive. A
                decoder that has seen inexact latents forgives what a denoiser leaves over.
        """
        posterior = self.autoencoder.encode(images).latent_dist
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        own_spread = mean.detach().flatten(1).std(dim=1)
        spread = (self.latent_noise * blur * own_spread).view(-1, 1, 1, 1)
        std = (logvar.exp() + spread.square()).sqrt()
        output = self.autoencoder.decode(mean + std * noise).sample
        return autoencoder_terms(self.objective, images, output.float(), mean, logvar)


def pixels_of_a_latent(autoencoder: "AutoencoderKL") -> int:
    """How many pixels a side one place of the latents stands for."""
    return int(2 ** (len(autoencoder.config.block_out_channels) - 1))


def require_multiple(key: str, size: int, multiple: int) -> None:
    """Refuse a size that the networks cannot divide.

    Raises:
        SettingsError: naming the job's key.
    """
    if size % multiple:
        raise SettingsError(f"{key} {size}: must be a multiple of {multiple}")


def require_whitening(autoencoder: "AutoencoderKL") -> None:
    """Refuse to train what `whiten_latents` could not finish.

    Raises:
        SettingsError: the network has no 1 x 1 convolutions around its latents.
    """
    if autoencoder.quant_conv is None or autoencoder.post_quant_conv is None:
        raise SettingsError(
            "model.autoencoder: use_quant_conv and use_post_quant_conv must be true; the latents "
            "are whitened through them"
        )


def require_plain_scaling(autoencoder: "AutoencoderKL") -> None:
    """Refuse latents that the pipelines of new denoisers would decode without their shift.

    Raises:
        SettingsError: the configuration shifts latents, or scales them channel by channel.
    """
    for key in ("shift_factor", "latents_mean", "latents_std"):
        if autoencoder.config.get(key):
            raise SettingsError(
                f"model.autoencoder: its configuration has a {key}, which the pipelines of this "
                "recipe would not undo; only a scaling_factor is allowed"
            )


def latent_size(autoencoder: "AutoencoderKL", height: int, width: int) -> tuple[int, int, int]:
    """(C, h, w) of the latents of pictures of that size."""
    factor = pixels_of_a_latent(autoencoder)
    return autoencoder.config.latent_channels, height // factor, width // factor


@torch.no_grad()
def encode(autoencoder: "AutoencoderKL", images: Tensor) -> Tensor:
    """(B, C, h, w) latents as a denoiser sees them, of (B, 3, H, W) pictures in [-1, 1].

    The posterior's mean, shifted and scaled as the configuration says.
    """
    mean: Tensor = autoencoder.encode(images).latent_dist.mean
    return scale_latents(mean, autoencoder.config)


@torch.no_grad()
def decode(autoencoder: "AutoencoderKL", latents: Tensor) -> Tensor:
    """The inverse of `encode`, up to what the latents do not hold."""
    pixels: Tensor = autoencoder.decode(unscale_latents(latents, autoencoder.config)).sample
    return pixels


def latent_statistics(batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (C,) of latents that come as (B, C, h, w) batches."""
    num, total, squares = 0, torch.zeros(()), torch.zeros(())
    for batch in batches:
        values = batch.double()
        num += values.numel() // values.shape[1]
        total = total + values.sum(dim=(0, 2, 3))
        squares = squares + values.square().sum(dim=(0, 2, 3))
    mean = total / num
    return mean.float(), (squares / num - mean.square()).clamp(min=1e-12).sqrt().float()


@torch.no_grad()
def whiten_latents(autoencoder: "AutoencoderKL", mean: Tensor, std: Tensor) -> None:
    """Give latents zero mean and unit variance per channel by changing the two 1 x 1 convolutions.

    `mean` and `std` (C,) are those of the posterior's means as they are. What is decoded from
    encoded latents stays the same, and pipelines that know only a scalar `scaling_factor`, which
    becomes 1, get whitened latents.

    Raises:
        SettingsError: the network has no such convolutions.
    """
    require_whitening(autoencoder)
    quant, post = autoencoder.quant_conv, autoencoder.post_quant_conv
    channels = len(mean)
    quant.bias[:channels] -= mean
    quant.weight[:channels] /= std.view(-1, 1, 1, 1)
    quant.bias[:channels] /= std
    quant.bias[channels:] -= 2 * std.log()
    post.bias += (post.weight[:, :, 0, 0] * mean).sum(dim=1)
    post.weight *= std.view(1, -1, 1, 1)
    autoencoder.register_to_config(scaling_factor=1.0, shift_factor=None)


def save_autoencoder(autoencoder: "AutoencoderKL", folder: Path) -> None:
    """Write a folder that `AutoencoderKL.from_pretrained` loads; float32 safetensors."""
    autoencoder.save_pretrained(folder, safe_serialization=True)
