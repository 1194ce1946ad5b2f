"""One step of an optimizer, and the moving average of weights that is shipped."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


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


def optimizer_step(loss: Tensor, optimizer: torch.optim.Optimizer, max_norm: float = 1.0) -> float:
    """Backpropagate, clip the gradient's norm, step; returns the loss.

    Raises:
        FloatingPointError: the loss is not finite; the weights are untouched.
    """
    value = loss.item()
    if value != value or value in (float("inf"), float("-inf")):
        raise FloatingPointError(f"loss is {value}; nothing was updated")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    nn.utils.clip_grad_norm_(parameters, max_norm)
    optimizer.step()
    return value
