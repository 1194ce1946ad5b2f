"""How errors of different times are weighed, and at which times a batch is trained.

Owns loss weightings and timestep sampling. Knows no network and no schedule: signal-to-noise ratios
and random generators are arguments.
"""

import torch
from torch import Generator, Tensor

from diffusion_core.prediction import PredictionType


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
