"""How errors of different times are weighed, and at which times a batch is trained.

Owns loss weightings and the densities of training times. Knows no network. No random numbers are
drawn in private: densities map uniform numbers, which the caller brings, to times.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from nightpress.diffusion_core.theory.noise import NoiseProcess, shifted
from nightpress.diffusion_core.theory.prediction import PredictionType, error_scales


def min_snr_weight(kind: PredictionType, alpha: Tensor, sigma: Tensor, gamma: float) -> Tensor:
    """Weight of a squared error that makes it an x0 loss weighed min(SNR, gamma).

    Hang et al. 2023, eq. 8, restated for every `kind` and every process. SNR times an x0 error is
    the error of the noise, so the weight is min(noise error, gamma * x0 error) for a unit error of
    the answer; written so, it is finite at both ends of the path.

    Args:
        kind: what the network predicts.
        alpha, sigma: of any one shape, which the weight has too.
        gamma: the largest weight of an x0 error; 5 in the paper.
    """
    x0_scale, noise_scale = error_scales(kind, alpha, sigma)
    return torch.minimum(noise_scale.square(), gamma * x0_scale.square())


TimeDensity = Literal["uniform", "logit_normal", "snr"]


@dataclass(frozen=True)
class TimeSampling:
    """At which times a denoiser is trained.

    - `uniform`: all fractions of the way from data to noise alike; Ho et al. 2020, algorithm 1;
    - `logit_normal`: logit(fraction) ~ N(mean, std^2), the middle; Esser et al. 2024, eq. 19;
    - `snr`: ln(sigma / alpha) = -ln(SNR) / 2 ~ N(mean, std^2), whatever the schedule says of when
      that is; Karras et al. 2022, table 1, with mean -1.2 and std 1.2.
    """

    density: TimeDensity = "uniform"
    mean: float = 0.0
    std: float = 1.0
    shift: float = 1.0
    """Above 1, fractions of the first two move towards noise; Esser et al. 2024, eq. 23."""


def times_from_uniform(
    uniform: Tensor, process: NoiseProcess, sampling: TimeSampling | None = None
) -> Tensor:
    """(B,) timesteps of the process, from uniform numbers (B,) in [0, 1).

    The map only rises, so numbers from equal strata give times from strata of equal weight.
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
    """Normal numbers from uniform ones, by the inverse of the distribution function."""
    standard: Tensor = torch.special.ndtri(uniform.double())
    return sampling.mean + sampling.std * standard
