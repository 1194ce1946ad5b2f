"""The forward process: how a clean sample is mixed with noise at a given time.

Every process here is `x_t = alpha_t * x0 + sigma_t * noise`. The variance-preserving ones keep
alpha^2 + sigma^2 = 1 and come from a beta schedule over T discrete steps (`NoiseSchedule`); flow
matching follows a straight line with alpha + sigma = 1 in continuous time (`FlowPath`). Both have
the same three methods, so that training works with either:

- `alpha_sigma(timesteps)`: the coefficients at timesteps;
- `timesteps_at(fractions)`: the timesteps at fractions of the way from data to noise;
- `timesteps_of(log_ratio)`: the timesteps at which ln(sigma / alpha) has these values.

A timestep is always the network's timestep input, in [0, T], as diffusers' schedulers count it.

Noise is always an argument; this module draws no random numbers. `prediction` defines what a
network predicts, and the schedulers of `sampling` reverse the process.
"""

from dataclasses import dataclass
from functools import cached_property
from math import pi
from typing import Any, Literal

import torch
from torch import Tensor

BetaSchedule = Literal["linear", "scaled_linear", "squaredcos_cap_v2"]
"""Beta schedules under the names of diffusers' schedulers."""


def linear_betas(num_steps: int, beta_start: float = 1e-4, beta_end: float = 0.02) -> Tensor:
    """(T,) betas that rise linearly; Ho et al. 2020, section 4."""
    return torch.linspace(beta_start, beta_end, num_steps, dtype=torch.float64)


def scaled_linear_betas(
    num_steps: int, beta_start: float = 0.00085, beta_end: float = 0.012
) -> Tensor:
    """(T,) betas whose square roots rise linearly; Rombach et al. 2022, released code."""
    return torch.linspace(beta_start**0.5, beta_end**0.5, num_steps, dtype=torch.float64) ** 2


def cosine_betas(num_steps: int, max_beta: float = 0.999) -> Tensor:
    """(T,) betas of a cosine-squared alpha_bar; Nichol & Dhariwal 2021, eq. 17."""
    t = torch.linspace(0, 1, num_steps + 1, dtype=torch.float64)
    bars = torch.cos((t + 0.008) / 1.008 * pi / 2) ** 2
    return (1 - bars[1:] / bars[:-1]).clamp(max=max_beta)


def alpha_bar(betas: Tensor) -> Tensor:
    """(T,) remaining signal variance after each step, prod(1 - beta); Ho et al. 2020, eq. 4."""
    return torch.cumprod(1 - betas, dim=0)


def rescale_to_zero_terminal_snr(betas: Tensor) -> Tensor:
    """(T,) betas shifted so that the last step is pure noise; Lin et al. 2024, algorithm 1."""
    root = alpha_bar(betas).sqrt()
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    bars = root**2
    return 1 - torch.cat([bars[:1], bars[1:] / bars[:-1]])


@dataclass(frozen=True)
class NoiseSchedule:
    """A variance-preserving process of T steps; training and sampling must use the same one."""

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

    @cached_property
    def _bars(self) -> Tensor:
        return alpha_bar(self.betas())

    def alpha_sigma(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients at `timesteps` (B,), integers in [0, T): two (B, 1, 1, 1) float32."""
        bars = self._bars.to(timesteps.device)[timesteps]
        return alpha_t(bars), sigma_t(bars)

    def timesteps_at(self, fractions: Tensor) -> Tensor:
        """(B,) integers in [0, T) at `fractions` (B,) in [0, 1]."""
        return (fractions * self.num_steps).long().clamp(max=self.num_steps - 1)

    def timesteps_of(self, log_ratio: Tensor) -> Tensor:
        """(B,) integers in [0, T) whose ln(sigma / alpha) is nearest to `log_ratio` (B,)."""
        bars = self._bars.to(log_ratio.device)
        ratios = ((1 - bars).log() - bars.log()) / 2
        return torch.bucketize(log_ratio.double(), (ratios[:-1] + ratios[1:]) / 2, right=True)

    def scheduler_config(self) -> dict[str, Any]:
        """These settings as arguments of diffusers' schedulers."""
        return {
            "num_train_timesteps": self.num_steps,
            "beta_schedule": self.kind,
            "beta_start": self.beta_start,
            "beta_end": self.beta_end,
            "rescale_betas_zero_snr": self.zero_terminal_snr,
        }


def alpha_t(alpha_bar_t: Tensor) -> Tensor:
    """(B, 1, 1, 1) signal scale, sqrt(alpha_bar); Ho et al. 2020, eq. 4."""
    return alpha_bar_t.sqrt().float().view(-1, 1, 1, 1)


def sigma_t(alpha_bar_t: Tensor) -> Tensor:
    """(B, 1, 1, 1) noise scale, sqrt(1 - alpha_bar); Ho et al. 2020, eq. 4."""
    return (1 - alpha_bar_t).sqrt().float().view(-1, 1, 1, 1)


@dataclass(frozen=True)
class FlowPath:
    """The straight path of flow matching; the network's timestep input is T * t, t in [0, 1].

    A `shift` above 1 moves training and sampling towards noise, which large images need.
    """

    num_steps: int = 1000
    shift: float = 1.0

    def alpha_sigma(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients at `timesteps` (B,), real numbers in [0, T]: two (B, 1, 1, 1) float32."""
        return flow_alpha_sigma(timesteps.float() / self.num_steps)

    def timesteps_at(self, fractions: Tensor) -> Tensor:
        """(B,) float32 in [0, T] at `fractions` (B,) in [0, 1], shifted."""
        return shifted(fractions.float(), self.shift) * self.num_steps

    def timesteps_of(self, log_ratio: Tensor) -> Tensor:
        """(B,) float32 in [0, T] whose ln(sigma / alpha) = ln(t / (1 - t)) is `log_ratio` (B,)."""
        return torch.sigmoid(log_ratio.float()) * self.num_steps

    def scheduler_config(self) -> dict[str, Any]:
        """These settings as arguments of diffusers' `FlowMatchEulerDiscreteScheduler`."""
        return {"num_train_timesteps": self.num_steps, "shift": self.shift}


def flow_alpha_sigma(t: Tensor) -> tuple[Tensor, Tensor]:
    """Coefficients 1 - t and t of the straight path at `t` (B,) in [0, 1]: two (B, 1, 1, 1).

    t = 1 is noise; Liu et al. 2023, eq. 1; Esser et al. 2024, eq. 13.
    """
    t = t.float().view(-1, 1, 1, 1)
    return 1 - t, t


def shifted(t: Tensor, shift: float) -> Tensor:
    """Shift times towards noise, s t / (1 + (s - 1) t); Esser et al. 2024, eq. 23."""
    return shift * t / (1 + (shift - 1) * t)


NoiseProcess = NoiseSchedule | FlowPath
"""A process that a denoiser can be trained on."""


def add_noise(x0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """x_t, (B, C, h, w), from x0 and noise of the same shape; Ho et al. 2020, eq. 4."""
    return alpha * x0 + sigma * noise


def snr(alpha: Tensor, sigma: Tensor) -> Tensor:
    """Signal-to-noise ratio alpha^2 / sigma^2; Kingma et al. 2021, eq. 2."""
    return (alpha / sigma) ** 2
