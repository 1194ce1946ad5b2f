"""Prediction targets of a denoiser, and how to recover a clean sample from its output.

With `x_t = alpha * x0 + sigma * noise`, the four usual targets carry the same information; they
differ in how errors are weighted and where they are well conditioned. Their names are those of
diffusers' schedulers.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

PredictionType = Literal["epsilon", "v_prediction", "sample", "flow_prediction"]
PREDICTION_TYPES: tuple[PredictionType, ...] = get_args(PredictionType)


def target(kind: PredictionType, x0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The output that the network should give.

    Args:
        kind: the prediction type.
        x0, noise: (B, C, h, w).
        alpha, sigma: (B, 1, 1, 1).

    References: eps, Ho et al. 2020 eq. 14; v, Salimans & Ho 2022 section 4;
        flow, Liu et al. 2023 eq. 1 (the velocity from data to noise).
    """
    match kind:
        case "epsilon":
            return noise
        case "v_prediction":
            return alpha * noise - sigma * x0
        case "flow_prediction":
            return noise - x0
        case "sample":
            return x0


def to_x0(
    kind: PredictionType, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor
) -> Tensor:
    """Recover x0 from a network output, with x_t = alpha * x0 + sigma * noise.

    Args:
        kind: the prediction type of `output`.
        output, x_t: (B, C, h, w); x_t is the network's input.
        alpha, sigma: (B, 1, 1, 1).

    References: eps, Ho et al. 2020 eq. 15; v, Salimans & Ho 2022 app. D.
    """
    match kind:
        case "epsilon":
            return (x_t - sigma * output) / alpha
        case "v_prediction":
            return (alpha * x_t - sigma * output) / (alpha**2 + sigma**2)
        case "flow_prediction":
            return (x_t - sigma * output) / (alpha + sigma)
        case "sample":
            return output


def to_noise(
    kind: PredictionType, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor
) -> Tensor:
    """Recover the noise from a network output; arguments and references as `to_x0`."""
    match kind:
        case "epsilon":
            return output
        case "v_prediction":
            return (sigma * x_t + alpha * output) / (alpha**2 + sigma**2)
        case "flow_prediction":
            return (x_t + alpha * output) / (alpha + sigma)
        case "sample":
            return (x_t - alpha * output) / sigma


def convert(
    kind: PredictionType,
    wanted: PredictionType,
    output: Tensor,
    x_t: Tensor,
    alpha: Tensor,
    sigma: Tensor,
) -> Tensor:
    """Convert an output to the prediction type `wanted`; other arguments as `to_x0`."""
    x0 = to_x0(kind, output, x_t, alpha, sigma)
    noise = to_noise(kind, output, x_t, alpha, sigma)
    return target(wanted, x0, noise, alpha, sigma)


def error_scales(kind: PredictionType, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """The errors in x0 and in the noise that a unit error of the output causes.

    They are the absolute derivatives of `to_x0` and `to_noise` with respect to the output. Their
    ratio is sigma / alpha for every prediction type. A scale is infinite where the output carries
    no information about x0 or the noise.

    Args:
        kind: the prediction type.
        alpha, sigma: of equal shape; both results have that shape too.
    """
    match kind:
        case "epsilon":
            return sigma / alpha, torch.ones_like(alpha)
        case "v_prediction":
            return sigma / (alpha**2 + sigma**2), alpha / (alpha**2 + sigma**2)
        case "flow_prediction":
            return sigma / (alpha + sigma), alpha / (alpha + sigma)
        case "sample":
            return torch.ones_like(sigma), alpha / sigma
