"""Train an autoencoder: pixels to latents and back.

Holds the loss of one step, and the whitening that gives the trained network latents of unit
variance.
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
    """One training step of an `AutoencoderKL`, as a module that returns its loss."""

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
        """The loss terms of a batch; `loss` is the one to minimise.

        Args:
            images: (B, 3, H, W) in [-1, 1].
            noise: (B, C, h, w), standard normal; samples the posterior.
            blur: (B,) in [0, 1): the share of `latent_noise` that is added to each image's latents.
                A decoder trained on inexact latents tolerates the errors of a denoiser.
        """
        posterior = self.autoencoder.encode(images).latent_dist
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        latent_std = mean.detach().flatten(1).std(dim=1)
        noise_std = (self.latent_noise * blur * latent_std).view(-1, 1, 1, 1)
        std = (logvar.exp() + noise_std.square()).sqrt()
        output = self.autoencoder.decode(mean + std * noise).sample
        return autoencoder_terms(self.objective, images, output.float(), mean, logvar)


def downsampling_factor(autoencoder: "AutoencoderKL") -> int:
    """The downsampling factor: pixels per latent position, along each side."""
    return int(2 ** (len(autoencoder.config.block_out_channels) - 1))


def require_multiple(key: str, size: int, multiple: int) -> None:
    """Check that a size can be divided by the networks' downsampling factor.

    Raises:
        SettingsError: it cannot; the message names the job's key.
    """
    if size % multiple:
        raise SettingsError(f"{key} {size}: must be a multiple of {multiple}")


def require_whitening(autoencoder: "AutoencoderKL") -> None:
    """Check before training that `whiten_latents` will be able to change the network.

    Raises:
        SettingsError: it has no 1 x 1 convolutions around its latents.
    """
    if autoencoder.quant_conv is None or autoencoder.post_quant_conv is None:
        raise SettingsError(
            "model.autoencoder: use_quant_conv and use_post_quant_conv must be true, because these "
            "convolutions whiten the latents"
        )


def require_plain_scaling(autoencoder: "AutoencoderKL") -> None:
    """Check that the pipelines of new denoisers will decode the latents correctly.

    Raises:
        SettingsError: the configuration shifts latents or scales each channel, which these
            pipelines ignore.
    """
    for key in ("shift_factor", "latents_mean", "latents_std"):
        if autoencoder.config.get(key):
            raise SettingsError(
                f"model.autoencoder: its configuration has {key}, which the pipelines of this "
                "recipe ignore; only scaling_factor is allowed"
            )


def latent_size(autoencoder: "AutoencoderKL", height: int, width: int) -> tuple[int, int, int]:
    """(C, h, w) of the latents of images of this size."""
    factor = downsampling_factor(autoencoder)
    return autoencoder.config.latent_channels, height // factor, width // factor


@torch.no_grad()
def encode(autoencoder: "AutoencoderKL", images: Tensor) -> Tensor:
    """Encode images (B, 3, H, W) in [-1, 1] to the latents (B, C, h, w) that a denoiser sees.

    These are the posterior's means, shifted and scaled as the configuration says.
    """
    mean: Tensor = autoencoder.encode(images).latent_dist.mean
    return scale_latents(mean, autoencoder.config)


@torch.no_grad()
def decode(autoencoder: "AutoencoderKL", latents: Tensor) -> Tensor:
    """Decode latents (B, C, h, w), as `encode` makes them, to images in about [-1, 1]."""
    pixels: Tensor = autoencoder.decode(unscale_latents(latents, autoencoder.config)).sample
    return pixels


def latent_statistics(batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, (C,), of latents in (B, C, h, w) batches."""
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

    Images decoded from encoded latents stay the same. Pipelines that apply only a scalar
    `scaling_factor`, which becomes 1, get whitened latents.

    Args:
        mean, std: (C,), of the posterior's means before the change.

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
    """Write a folder that `AutoencoderKL.from_pretrained` loads, as safetensors in float32."""
    autoencoder.save_pretrained(folder, safe_serialization=True)
