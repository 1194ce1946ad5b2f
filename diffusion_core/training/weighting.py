"""Loss weights over time, and the density of training times.

Draws no random numbers: the densities map uniform numbers, which the caller provides, to times.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from nightpress.diffusion_core.theory.noise import NoiseProcess, shifted
from nightpress.diffusion_core.theory.prediction import PredictionType, error_scales


def min_snr_weight(kind: PredictionType, alpha: Tensor, sigma: Tensor, gamma: float) -> Tensor:
    """The weight of a squared error that turns it into an x0 loss weighted by min(SNR, gamma).

    Hang et al. 2023, eq. 8, restated for every `kind` and every process. SNR times an x0 error is
    the error of the noise, so the weight is min(noise error, gamma * x0 error) for a unit error of
    the output. In this form it is finite at both ends of the path.

    Args:
        kind: the prediction type.
        alpha, sigma: of equal shape; the weight has that shape too.
        gamma: the largest weight of an x0 error; 5 in the paper.
    """
    x0_scale, noise_scale = error_scales(kind, alpha, sigma)
    return torch.minimum(noise_scale.square(), gamma * x0_scale.square())


TimeDensity = Literal["uniform", "logit_normal", "snr"]


@dataclass(frozen=True)
class TimeSampling:
    """The density of the times that a denoiser is trained at.

    - `uniform`: all fractions of the way from data to noise equally; Ho et al. 2020, algorithm 1;
    - `logit_normal`: logit(fraction) ~ N(mean, std^2), favours the middle; Esser et al. 2024,
      eq. 19;
    - `snr`: ln(sigma / alpha) = -ln(SNR) / 2 ~ N(mean, std^2), independent of the schedule; Karras
      et al. 2022, table 1, with mean -1.2 and std 1.2.
    """

    density: TimeDensity = "uniform"
    mean: float = 0.0
    std: float = 1.0
    shift: float = 1.0
    """Above 1, moves the fractions of the first two densities towards noise; Esser et al. 2024,
    eq. 23."""


def times_from_uniform(
    uniform: Tensor, process: NoiseProcess, sampling: TimeSampling | None = None
) -> Tensor:
    """(B,) timesteps of the process, from uniform numbers (B,) in [0, 1).

    The mapping is monotonic, so numbers from equal strata give times from strata of equal weight.
    """
    sampling = sampling or TimeSampling()
    match sampling.density:
        case "uniform":
            return process.timesteps_at(shifted(uniform, sampling.shift))
        case "logit_normal":
            fractions = torch.sigmoid(_normal(uniform, sampling))
            return process.timesteps_at(shifted(fractions, sampling.shift))
        case "snr":
            return process.timesteps_of(_normal(uniform, sampling))


def _normal(uniform: Tensor, sampling: TimeSampling) -> Tensor:
    """Normal numbers from uniform ones, by the inverse distribution function."""
    standard: Tensor = torch.special.ndtri(uniform.double())
    return sampling.mean + sampling.std * standard
