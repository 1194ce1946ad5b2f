"""The moving average of weights that is shipped."""

from collections.abc import Iterable

import torch
from torch import nn


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
