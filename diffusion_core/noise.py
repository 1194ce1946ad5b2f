"""The forward process: how a clean sample is mixed with noise at a given time.

Every process here is `x_t = alpha_t * x0 + sigma_t * noise`. The variance-preserving ones keep
alpha^2 + sigma^2 = 1 and come from a beta schedule over T discrete steps; flow matching moves on a
straight line with alpha + sigma = 1 and a time in [0, 1].

This module owns the coefficients only: not what a network predicts (`prediction`), not how to walk
back (`schedulers`), and no random numbers: noise is always an argument.
"""

from dataclasses import dataclass
from math import cos, pi
from typing import Literal

import torch
from torch import Tensor

BetaSchedule = Literal["linear", "scaled_linear", "squaredcos_cap_v2"]
"""Names as diffusers' schedulers spell them."""


def linear_betas(num_steps: int, beta_start: float = 1e-4, beta_end: float = 0.02) -> Tensor:
    """(T,) betas rising in a straight line; Ho et al. 2020, section 4."""
    return torch.linspace(beta_start, beta_end, num_steps, dtype=torch.float64)


def scaled_linear_betas(
    num_steps: int, beta_start: float = 0.00085, beta_end: float = 0.012
) -> Tensor:
    """(T,) betas whose square roots rise in a straight line; Rombach et al. 2022, released code."""
    return torch.linspace(beta_start**0.5, beta_end**0.5, num_steps, dtype=torch.float64) ** 2


def cosine_betas(num_steps: int, max_beta: float = 0.999) -> Tensor:
    """(T,) betas of a cosine-squared alpha_bar; Nichol & Dhariwal 2021, eq. 17."""

    def alpha_bar(t: float) -> float:
        return cos((t + 0.008) / 1.008 * pi / 2) ** 2

    ratios = [alpha_bar((i + 1) / num_steps) / alpha_bar(i / num_steps) for i in range(num_steps)]
    return torch.tensor([min(1 - ratio, max_beta) for ratio in ratios], dtype=torch.float64)


def alpha_bar(betas: Tensor) -> Tensor:
    """(T,) signal variance left after each step, prod(1 - beta); Ho et al. 2020, eq. 4."""
    return torch.cumprod(1 - betas, dim=0)


def rescale_to_zero_terminal_snr(betas: Tensor) -> Tensor:
    """(T,) betas shifted so that the last step is pure noise; Lin et al. 2024, algorithm 1."""
    root = alpha_bar(betas).sqrt()
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    bars = root**2
    return 1 - torch.cat([bars[:1], bars[1:] / bars[:-1]])


@dataclass(frozen=True)
class NoiseSchedule:
    """A variance-preserving process of T steps, as a trainer and a scheduler must agree on it."""

    num_steps: int = 1000
    kind: BetaSchedule = "scaled_linear"
    beta_start: float = 0.00085
    beta_end: float = 0.012
    zero_terminal_snr: bool = False

    def betas(self) -> Tensor:
        """(T,) float64."""
        match self.kind:
            case "linear":
                betas = linear_betas(self.num_steps, self.beta_start, self.beta_end)
            case "scaled_linear":
                betas = scaled_linear_betas(self.num_steps, self.beta_start, self.beta_end)
            case "squaredcos_cap_v2":
                betas = cosine_betas(self.num_steps)
        return rescale_to_zero_terminal_snr(betas) if self.zero_terminal_snr else betas

    def alpha_sigma(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients at `timesteps` (B,), integers in [0, T): two (B, 1, 1, 1) float32."""
        bars = alpha_bar(self.betas()).to(timesteps.device)[timesteps]
        return alpha_t(bars), sigma_t(bars)


def alpha_t(alpha_bar_t: Tensor) -> Tensor:
    """(B, 1, 1, 1) scale of the signal, sqrt(alpha_bar); Ho et al. 2020, eq. 4."""
    return alpha_bar_t.sqrt().float().view(-1, 1, 1, 1)


def sigma_t(alpha_bar_t: Tensor) -> Tensor:
    """(B, 1, 1, 1) scale of the noise, sqrt(1 - alpha_bar); Ho et al. 2020, eq. 4."""
    return (1 - alpha_bar_t).sqrt().float().view(-1, 1, 1, 1)


def flow_alpha_sigma(t: Tensor) -> tuple[Tensor, Tensor]:
    """Coefficients 1 - t and t of the straight path at `t` (B,) in [0, 1]: two (B, 1, 1, 1).

    Liu et al. 2023, eq. 1; Esser et al. 2024, eq. 13 (t = 1 is noise).
    """
    t = t.float().view(-1, 1, 1, 1)
    return 1 - t, t


def add_noise(x0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """x_t of shape (B, C, h, w) from x0 and noise of that shape; Ho et al. 2020, eq. 4."""
    return alpha * x0 + sigma * noise


def snr(alpha: Tensor, sigma: Tensor) -> Tensor:
    """Signal-to-noise ratio alpha^2 / sigma^2; Kingma et al. 2021, eq. 2."""
    return (alpha / sigma) ** 2
