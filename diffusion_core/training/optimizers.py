"""The optimizer and its learning-rate schedule.

The rate is a function of the step alone, so a resumed run needs no state for it, and the length of
a run may be decided late.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import cos, pi
from typing import Literal

import torch
from torch import nn

from nightpress.diffusion_core.training.muon import Muon


@dataclass(frozen=True)
class Optimization:
    """Optimizer settings under the names of diffusers' training scripts."""

    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 1e-4
    lr_scheduler: Literal["constant_with_warmup", "cosine", "warmup_stable_decay"] = (
        "constant_with_warmup"
    )
    lr_warmup_steps: int = 0
    lr_decay_steps: int = 0
    max_train_steps: int = 1000
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-2


def learning_rate(settings: Optimization, step: int) -> float:
    """The learning rate of a step, counted from 0.

    References: cosine, Loshchilov & Hutter 2017, eq. 5; warmup_stable_decay, Hu et al. 2024, eq. 1
        with a linear decay.
    """
    warmup, total = settings.lr_warmup_steps, settings.max_train_steps
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    match settings.lr_scheduler:
        case "cosine":
            share = (step - warmup) / max(1, total - warmup)
            factor = (1 + cos(pi * min(1.0, share))) / 2
        case "warmup_stable_decay":
            factor = min(1.0, (total - step) / max(1, settings.lr_decay_steps))
        case "constant_with_warmup":
            factor = 1.0
    return settings.learning_rate * factor


def set_learning_rate(optimizer: torch.optim.Optimizer, settings: Optimization, step: int) -> None:
    """Set the rate of a step, counted from 0, in all groups of an optimizer.

    A group with an `lr_scale` gets that share of it, as AdamW's weights do in Muon.
    """
    rate = learning_rate(settings, step)
    for group in optimizer.param_groups:
        group["lr"] = group.get("lr_scale", 1.0) * rate


def new_optimizer(
    settings: Optimization, parameters: Mapping[str, nn.Parameter]
) -> torch.optim.Optimizer:
    """A fresh optimizer for these parameters."""
    if settings.optimizer == "muon":
        return Muon(parameters, settings.learning_rate, settings.betas, settings.weight_decay)
    return torch.optim.AdamW(
        parameters.values(),
        lr=settings.learning_rate,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
        fused=True,
    )
