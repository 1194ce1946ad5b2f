"""What happens in one training step: losses, their weights, and the average that is shipped.

Owns the objective of the latent denoiser and of the autoencoder, prompt dropout, and the moving
average of weights. Knows no data set, no file and no loop: the caller brings batches, optimizers
and random generators, so a step is a function of what is handed to it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from diffusion_core.noise import NoiseSchedule, add_noise, snr
from diffusion_core.prediction import PredictionType, target


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


def min_snr_weight(kind: PredictionType, ratio: Tensor, gamma: float) -> Tensor:
    """Loss weight min(SNR, gamma) of an x0 loss, restated for `kind`; Hang et al. 2023, eq. 8.

    An x0 error is an eps error times 1/SNR and a v error times 1/(SNR + 1), hence the divisors.
    On a straight path an x0 error is a flow error times sigma^2, and sigma = 1 / (1 + SNR^0.5).
    """
    clipped = ratio.clamp(max=gamma)
    match kind:
        case "epsilon":
            return clipped / ratio
        case "v_prediction":
            return clipped / (ratio + 1)
        case "flow_prediction":
            return clipped / (1 + ratio.sqrt()) ** 2
        case "sample":
            return clipped


def sample_timesteps(
    num: int, num_steps: int, generator: Generator, device: torch.device | str = "cpu"
) -> Tensor:
    """(num,) uniform timesteps, one from each of `num` equal strata; Kingma et al. 2021, app. I.

    Strata lower the variance of a batch's loss at no cost; their order is random.
    """
    offsets = torch.rand(num, generator=generator)
    strata = (torch.arange(num) + offsets) / num
    order = torch.randperm(num, generator=generator)
    return (strata[order] * num_steps).long().clamp(max=num_steps - 1).to(device)


def logit_normal_times(
    num: int, generator: Generator, mean: float = 0.0, std: float = 1.0
) -> Tensor:
    """(num,) flow-matching times in (0, 1), mostly in the middle; Esser et al. 2024, eq. 19."""
    return torch.sigmoid(torch.randn(num, generator=generator) * std + mean)


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


class Ema:
    """The exponential moving average of a model's weights, with a warm-up of its decay.

    decay_k = min(decay, (1 + k) / (10 + k)) after k updates: a young average forgets its random
    beginnings. Tarvainen & Valpola 2017, eq. 1.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float = 0.999) -> None:
        self.decay = decay
        self.num_updates = 0
        self.shadow = [parameter.detach().clone() for parameter in parameters]

    @torch.no_grad()
    def update(self, parameters: Iterable[nn.Parameter]) -> None:
        """Move the average a step towards `parameters`, in the order given at the start."""
        self.num_updates += 1
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        torch._foreach_lerp_(self.shadow, [p.detach() for p in parameters], 1 - decay)

    @torch.no_grad()
    def copy_to(self, parameters: Iterable[nn.Parameter]) -> None:
        """Overwrite `parameters` with the average."""
        for parameter, average in zip(parameters, self.shadow, strict=True):
            parameter.copy_(average)


def optimizer_step(loss: Tensor, optimizer: torch.optim.Optimizer, max_norm: float = 1.0) -> float:
    """Backpropagate, clip the gradient's norm, step; returns the loss.

    Raises:
        FloatingPointError: the loss is not finite; the weights are untouched.
    """
    value = loss.item()
    if value != value or value in (float("inf"), float("-inf")):
        raise FloatingPointError(f"loss is {value}; nothing was updated")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    nn.utils.clip_grad_norm_(parameters, max_norm)
    optimizer.step()
    return value
