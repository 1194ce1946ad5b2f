"""What a network is trained for: the losses of the latent denoiser and of the autoencoder.

Knows no data set, no file and no loop: a loss is a function of what is handed to it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Generator, Tensor
from torch.nn import functional

from diffusion_core.noise import NoiseSchedule, add_noise, snr
from diffusion_core.prediction import PredictionType, target
from diffusion_core.training.weighting import min_snr_weight


class Denoiser(Protocol):
    """A network that answers for noisy latents (B, C, h, w), timesteps (B,) and text (B, n, d)."""

    def __call__(self, x_t: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
        """The prediction, (B, C, h, w)."""
        ...


@dataclass(frozen=True)
class Objective:
    """What a denoiser is trained for.

    `min_snr_gamma` None weighs the squared errors of all timesteps alike.
    """

    schedule: NoiseSchedule = field(default_factory=NoiseSchedule)
    prediction_type: PredictionType = "v_prediction"
    min_snr_gamma: float | None = 5.0


def drop_text(prompts: Sequence[str], probability: float, generator: Generator) -> list[str]:
    """Empty each prompt with `probability`; Ho & Salimans 2022, algorithm 1.

    One network so learns the conditional and the unconditional score, which guidance needs.
    """
    dropped = torch.rand(len(prompts), generator=generator) < probability
    return ["" if gone else text for text, gone in zip(prompts, dropped.tolist(), strict=True)]


def denoising_loss(
    denoiser: Denoiser,
    objective: Objective,
    x0: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    text: Tensor,
) -> Tensor:
    """Weighted squared error of the prediction, a scalar; Ho et al. 2020, eq. 14.

    Args:
        denoiser: the network.
        objective: schedule, target and weighting.
        x0, noise: (B, C, h, w) latents of unit variance, and normal noise.
        timesteps: (B,) integers in [0, T).
        text: (B, n, d) text embeddings.
    """
    alpha, sigma = objective.schedule.alpha_sigma(timesteps)
    x_t = add_noise(x0, noise, alpha, sigma)
    output = denoiser(x_t, timesteps, text)
    wanted = target(objective.prediction_type, x0, noise, alpha, sigma)
    errors = (output.float() - wanted).square().mean(dim=(1, 2, 3))
    if objective.min_snr_gamma is None:
        return errors.mean()
    ratio = snr(alpha, sigma).flatten()
    weights = min_snr_weight(objective.prediction_type, ratio, objective.min_snr_gamma)
    return (weights * errors).mean()


@dataclass(frozen=True)
class AutoencoderObjective:
    """How the terms of the autoencoder's loss are weighed."""

    gradient_weight: float = 1.0
    kl_weight: float = 1e-4


def image_gradients(images: Tensor) -> tuple[Tensor, Tensor]:
    """Differences of neighbouring pixels: (B, C, H, W - 1) across and (B, C, H - 1, W) down."""
    return images.diff(dim=-1), images.diff(dim=-2)


def gradient_difference(output: Tensor, wanted: Tensor) -> Tensor:
    """Mean absolute difference of image gradients, which keeps edges; Mathieu et al. 2016, eq. 6.

    Both (B, C, H, W).
    """
    pairs = zip(image_gradients(output), image_gradients(wanted), strict=True)
    return sum((functional.l1_loss(a, b) for a, b in pairs), start=output.new_zeros(()))


def kl_to_standard_normal(mean: Tensor, logvar: Tensor) -> Tensor:
    """Mean over elements of KL(N(mean, exp(logvar)) || N(0, 1)); Kingma & Welling 2014, app. B."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()


def autoencoder_loss(
    objective: AutoencoderObjective, images: Tensor, output: Tensor, mean: Tensor, logvar: Tensor
) -> Tensor:
    """Reconstruction, edges and a light pull of the latents to N(0, 1); a scalar.

    Args:
        objective: the weights.
        images, output: (B, 3, H, W) in [-1, 1].
        mean, logvar: (B, C, h, w), the posterior's.
    References: Rombach et al. 2022, eq. 25 with edges in the place of the critic.
    """
    reconstruction = functional.l1_loss(output, images)
    edges = objective.gradient_weight * gradient_difference(output, images)
    return reconstruction + edges + objective.kl_weight * kl_to_standard_normal(mean, logvar)
