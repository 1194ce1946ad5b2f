"""Muon: momentum whose matrices are made orthogonal, and AdamW for what is no matrix.

References: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; the
scale of an update and its decoupled weight decay, Liu et al. 2025 (Moonlight), section 2.2.
`torch.optim.Muon` takes only two-dimensional weights; here a convolution's kernel counts as the
matrix (channels out, channels in * height * width), and one optimizer holds the whole network.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn

MOMENTUM = 0.95
NUM_ITERATIONS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic iteration; chosen for steepness at 0, so singular values end near 1, not at it."""
MATCHING_SCALE = 0.2
"""Brings the size of an update to that of AdamW, whose learning rates so keep their meaning."""
NO_MATRICES = ("conv_in", "conv_out", "embedding.weight", "embeddings")
"""Parts of names of weights at the rim of a network, which AdamW takes whatever their shape."""


def uses_muon(name: str, parameter: Tensor) -> bool:
    """Whether Muon takes a weight: a hidden layer's matrix or convolution kernel."""
    return parameter.ndim >= 2 and not any(part in name for part in NO_MATRICES)


def zeropower_via_newtonschulz5(matrix: Tensor) -> Tensor:
    """The nearest matrix to (m, n) with all singular values about 1, in bfloat16.

    Newton-Schulz iteration X <- aX + b(XX')X + c(XX')^2 X; Jordan et al. 2024.
    """
    a, b, c = COEFFICIENTS
    x = matrix.bfloat16()
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (x.norm() + 1e-7)
    for _ in range(NUM_ITERATIONS):
        square = x @ x.T
        x = torch.addmm(x, torch.addmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


def shared_turns(matrices: Sequence[Tensor]) -> list[Tensor]:
    """`zeropower_via_newtonschulz5` of each; workers of one training turn a share each and exchange them.

    All workers must bring the same matrices. What comes out does not depend on their number.
    """
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return [zeropower_via_newtonschulz5(matrix) for matrix in matrices]
    rank, owners = distributed.get_rank(), even_owners(matrices, distributed.get_world_size())
    sizes = [matrix.numel() for matrix in matrices]
    turned = torch.zeros(sum(sizes), dtype=torch.bfloat16, device=matrices[0].device)
    places = torch.split(turned, sizes)
    for matrix, owner, place in zip(matrices, owners, places, strict=True):
        if owner == rank:
            place.copy_(zeropower_via_newtonschulz5(matrix).flatten())
    distributed.all_reduce(turned)  # every place has one owner, and the others bring zeros
    return [place.view(matrix.shape) for place, matrix in zip(places, matrices, strict=True)]


def even_owners(matrices: Sequence[Tensor], num_workers: int) -> list[int]:
    """Which worker turns which matrix: the costliest first, each to whoever has least to do."""
    costs = [min(matrix.shape) * matrix.numel() for matrix in matrices]
    loads, owners = [0] * num_workers, [0] * len(matrices)
    for place in sorted(range(len(matrices)), key=lambda i: -costs[i]):
        owners[place] = loads.index(min(loads))
        loads[owners[place]] += costs[place]
    return owners


class Muon(torch.optim.Optimizer):
    """Muon for the matrices among `parameters`, AdamW at half their learning rate for the rest.

    Args:
        parameters: by name, which decides who is no matrix.
        lr: of an update whose elements have root mean square 0.2 in Muon's part.
        betas: of AdamW's part.
        weight_decay: of the matrices; the rest does not decay.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.01,
        eps: float = 1e-8,
    ) -> None:
        matrices = [p for name, p in parameters.items() if uses_muon(name, p)]
        rest = [p for name, p in parameters.items() if not uses_muon(name, p)]
        groups: list[dict[str, Any]] = [
            {"params": matrices, "matrices": True, "weight_decay": weight_decay},
            {"params": rest, "matrices": False, "weight_decay": 0.0, "lr_scale": 0.5},
        ]
        super().__init__(
            [group for group in groups if group["params"]],
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
            },
        )

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update; parameters without a gradient stay."""
        for group in self.param_groups:
            moving = [p for p in group["params"] if p.grad is not None]
            if group["matrices"]:
                self._turn(moving, group)
            else:
                for parameter in moving:
                    self._adam(parameter, group)

    def _turn(self, parameters: Sequence[nn.Parameter], group: Mapping[str, Any]) -> None:
        directions = [self._direction(parameter) for parameter in parameters]
        for parameter, update in zip(parameters, shared_turns(directions), strict=True):
            scale = MATCHING_SCALE * max(update.shape) ** 0.5
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            turned = update.view(parameter.shape).to(parameter.dtype)
            parameter.add_(turned, alpha=-group["lr"] * scale)

    def _direction(self, parameter: nn.Parameter) -> Tensor:
        """(m, n): the gradient with Nesterov momentum."""
        gradient = _gradient(parameter)
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        state["momentum_buffer"].lerp_(gradient, 1 - MOMENTUM)
        return gradient.lerp(state["momentum_buffer"], MOMENTUM).flatten(1)

    def _adam(self, parameter: nn.Parameter, group: Mapping[str, Any]) -> None:
        """Loshchilov & Hutter 2019, algorithm 2."""
        gradient = _gradient(parameter)
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        state["step"] = state["step"].cpu() + 1  # a checkpoint may have put it on the accelerator
        beta1, beta2 = group["betas"]
        state["exp_avg"].lerp_(gradient, 1 - beta1)
        state["exp_avg_sq"].lerp_(gradient.square(), 1 - beta2)
        step = float(state["step"])
        mean = state["exp_avg"] / (1 - beta1**step)
        spread = (state["exp_avg_sq"] / (1 - beta2**step)).sqrt() + group["eps"]
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.addcdiv_(mean, spread, value=-group["lr"])


def _gradient(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        raise ValueError("a parameter without a gradient has no update")
    return parameter.grad
