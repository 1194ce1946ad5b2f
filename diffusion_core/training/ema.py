"""The exponential moving average of the weights, which is the trained model."""

from collections.abc import Iterable

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Ema:
    """The exponential moving average of a model's weights, whose decay warms up.

    decay_k = min(decay, (1 + k) / (10 + k)) after k updates, so that a young average quickly
    forgets the random initial weights. Tarvainen & Valpola 2017, eq. 1.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float = 0.999) -> None:
        self.decay = decay
        self.num_updates = 0
        self.shadow = [parameter.detach().clone() for parameter in parameters]

    @torch.no_grad()
    def update(self, parameters: Iterable[nn.Parameter]) -> None:
        """Move the average one step towards `parameters`, which come in the order of `__init__`."""
        self.num_updates += 1
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        update = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        update(self.shadow, [parameter.detach() for parameter in parameters], self.num_updates)

    @torch.no_grad()
    def copy_to(self, parameters: Iterable[nn.Parameter]) -> None:
        """Overwrite `parameters` with the average."""
        for parameter, average in zip(parameters, self.shadow, strict=True):
            parameter.copy_(average)
