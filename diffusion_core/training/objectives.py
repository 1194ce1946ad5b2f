"""The losses of the latent denoiser and of the autoencoder, as functions of their arguments."""

from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor
from torch.nn import functional

from nightpress.diffusion_core.errors import SettingsError
from nightpress.diffusion_core.theory.noise import FlowPath, NoiseProcess, NoiseSchedule, add_noise
from nightpress.diffusion_core.theory.prediction import PredictionType, target
from nightpress.diffusion_core.training.weighting import (
    TimeSampling,
    min_snr_weight,
    times_from_uniform,
)


class Denoiser(Protocol):
    """A network of noisy latents (B, C, h, w), timesteps (B,) and text embeddings (B, n, d)."""

    def __call__(self, x_t: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
        """The prediction, (B, C, h, w)."""
        ...


@dataclass(frozen=True)
class Objective:
    """The training objective of a denoiser: its process, prediction target and training times.

    With `min_snr_gamma` None, the squared errors of all times have equal weight.

    Raises:
        SettingsError: `epsilon` on a process that ends in pure noise, where a correct prediction
            carries no information about the image.
    """

    schedule: NoiseProcess = field(default_factory=NoiseSchedule)
    prediction_type: PredictionType = "v_prediction"
    min_snr_gamma: float | None = 5.0
    time_sampling: TimeSampling = field(default_factory=TimeSampling)

    def __post_init__(self) -> None:
        pure = isinstance(self.schedule, FlowPath) or self.schedule.zero_terminal_snr
        if pure and self.prediction_type == "epsilon":
            raise SettingsError(
                "prediction_type 'epsilon': this process ends in pure noise, where the predicted "
                "noise does not determine an image; use v_prediction, flow_prediction or sample"
            )

    def timesteps(self, uniform: Tensor) -> Tensor:
        """(B,) timesteps to train at, from uniform numbers (B,) in [0, 1)."""
        return times_from_uniform(uniform, self.schedule, self.time_sampling)

    def weights(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Weights of the squared errors at these coefficients, in their shape."""
        if self.min_snr_gamma is None:
            return alpha.new_ones(alpha.shape)
        return min_snr_weight(self.prediction_type, alpha, sigma, self.min_snr_gamma)


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
        objective: process, target and weighting.
        x0, noise: (B, C, h, w) latents of unit variance, and normal noise.
        timesteps: (B,), as the objective's process counts them.
        text: (B, n, d) text embeddings.
    """
    alpha, sigma = objective.schedule.alpha_sigma(timesteps)
    x_t = add_noise(x0, noise, alpha, sigma)
    output = denoiser(x_t, timesteps, text)
    wanted = target(objective.prediction_type, x0, noise, alpha, sigma)
    errors = (output.float() - wanted).square()
    return (objective.weights(alpha, sigma) * errors).mean()


@dataclass(frozen=True)
class AutoencoderObjective:
    """Weights of the terms of the autoencoder's loss."""

    gradient_weight: float = 1.0
    kl_weight: float = 1e-4


def image_gradients(images: Tensor) -> tuple[Tensor, Tensor]:
    """Differences of neighbouring pixels: (B, C, H, W - 1) across and (B, C, H - 1, W) down."""
    return images.diff(dim=-1), images.diff(dim=-2)


def gradient_difference(output: Tensor, wanted: Tensor) -> Tensor:
    """Mean absolute difference of image gradients, which keeps edges sharp.

    Mathieu et al. 2016, eq. 6.

    Args:
        output, wanted: (B, C, H, W).
    """
    pairs = zip(image_gradients(output), image_gradients(wanted), strict=True)
    return sum((functional.l1_loss(a, b) for a, b in pairs), start=output.new_zeros(()))


def kl_to_standard_normal(mean: Tensor, logvar: Tensor) -> Tensor:
    """Mean over elements of KL(N(mean, exp(logvar)) || N(0, 1)); Kingma & Welling 2014, app. B."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()


def autoencoder_terms(
    objective: AutoencoderObjective, images: Tensor, output: Tensor, mean: Tensor, logvar: Tensor
) -> dict[str, Tensor]:
    """The terms `reconstruction`, `gradient` (edges) and `kl`, and their weighted sum `loss`.

    Args:
        objective: the weights.
        images, output: (B, 3, H, W) in [-1, 1].
        mean, logvar: (B, C, h, w), of the posterior.

    References: Rombach et al. 2022, eq. 25, with the edge term instead of the critic.
    """
    reconstruction = functional.l1_loss(output, images)
    edges = gradient_difference(output, images)
    kl = kl_to_standard_normal(mean, logvar)
    loss = reconstruction + objective.gradient_weight * edges + objective.kl_weight * kl
    return {"loss": loss, "reconstruction": reconstruction, "gradient": edges, "kl": kl}
