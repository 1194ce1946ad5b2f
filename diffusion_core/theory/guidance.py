"""Classifier-free guidance: give the prompt more weight than the network does by itself.

Holds the combination of the conditional and the unconditional output, and the dropping of prompts
in training that makes the unconditional output possible.
"""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor


def guide(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Extrapolate from the unconditional to the conditional output; Ho & Salimans 2022, eq. 6.

    Their (1 + w) * conditional - w * unconditional, with `scale` = 1 + w as in diffusers: 1 gives
    the conditional output, 0 the unconditional one. It is valid for every prediction type, because
    at a given x_t all of them are linear functions of each other.

    Args:
        conditional, unconditional: (B, C, h, w), network outputs with and without the prompt.
        scale: `guidance_scale`.
    """
    return unconditional + scale * (conditional - unconditional)


def rescale(guided: Tensor, conditional: Tensor, guidance_rescale: float) -> Tensor:
    """Move the guided output's contrast towards the conditional one's; Lin et al. 2024, sec. 3.4.

    Guidance raises the standard deviation of an output, which overexposes images.

    Args:
        guided, conditional: (B, C, h, w).
        guidance_rescale: their phi; 0 changes nothing, 1 restores the contrast completely.
    """
    ratio = _contrast(conditional) / _contrast(guided)
    return guided * (guidance_rescale * ratio + 1 - guidance_rescale)


def _contrast(output: Tensor) -> Tensor:
    """Standard deviation of each image's output, (B, 1, 1, 1)."""
    return output.std(dim=(1, 2, 3), keepdim=True)


def drop_text(prompts: Sequence[str], probability: float, generator: Generator) -> list[str]:
    """Replace each prompt by the empty one with `probability`; Ho & Salimans 2022, algorithm 1.

    This way one network learns both the conditional and the unconditional output.
    """
    dropped = torch.rand(len(prompts), generator=generator) < probability
    return ["" if drop else text for text, drop in zip(prompts, dropped.tolist(), strict=True)]
