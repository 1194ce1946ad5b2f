"""Classifier-free guidance: how a prompt is given more weight than the network gives it.

Owns the mixing of two answers, and the dropping of prompts in training that makes the second answer
possible. Knows nothing of networks, schedules or loops.
"""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor


def guide(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """The answer pushed away from the unconditional one; Ho & Salimans 2022, eq. 6.

    Their (1 + w) * conditional - w * unconditional, with `scale` = 1 + w as diffusers counts: 1 is
    the conditional answer, 0 the unconditional. It holds for every prediction type, since at a
    given x_t all of them are linear in each other.

    Args:
        conditional, unconditional: (B, C, h, w), the network's answers with and without the prompt.
        scale: `guidance_scale`.
    """
    return unconditional + scale * (conditional - unconditional)


def rescale(guided: Tensor, conditional: Tensor, guidance_rescale: float) -> Tensor:
    """The guided answer with some of the conditional one's contrast; Lin et al. 2024, section 3.4.

    Guidance raises the standard deviation of an answer, which overexposes pictures.

    Args:
        guided, conditional: (B, C, h, w).
        guidance_rescale: their phi; 0 changes nothing, 1 gives all of the contrast back.
    """
    ratio = _contrast(conditional) / _contrast(guided)
    return guided * (guidance_rescale * ratio + 1 - guidance_rescale)


def _contrast(answer: Tensor) -> Tensor:
    """Standard deviation of each image's answer, (B, 1, 1, 1)."""
    return answer.std(dim=(1, 2, 3), keepdim=True)


def drop_text(prompts: Sequence[str], probability: float, generator: Generator) -> list[str]:
    """Empty each prompt with `probability`; Ho & Salimans 2022, algorithm 1.

    One network so learns the conditional and the unconditional answer, which guidance needs.
    """
    dropped = torch.rand(len(prompts), generator=generator) < probability
    return ["" if gone else text for text, gone in zip(prompts, dropped.tolist(), strict=True)]
