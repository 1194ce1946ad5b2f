"""Muon: momentum whose matrices are made orthogonal, and AdamW for what is no matrix.

References: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; the
scale of an update and its decoupled weight decay, Liu et al. 2025 (Moonlight), section 2.2.
`torch.optim.Muon` takes only two-dimensional weights; here a convolution's kernel counts as the
matrix (channels out, channels in * height * width), and one optimizer holds the whole network.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
NUM_ITERATIONS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic iteration; chosen for steepness at 0, so singular values end near 1, not at it."""
MATCHING_SCALE = 0.2
"""Brings the size of an update to that of AdamW, whose learning rates so keep their meaning."""
NO_MATRICES = ("conv_in", "conv_out", "embedding.weight", "embeddings")
"""Parts of names of weights at the rim of a network, which AdamW takes whatever their shape."""


def is_matrix(name: str, parameter: Tensor) -> bool:
    """Whether Muon takes a weight: a hidden layer's matrix or convolution kernel."""
    return parameter.ndim >= 2 and not any(part in name for part in NO_MATRICES)


def orthogonalized(matrix: Tensor) -> Tensor:
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


class Muon(torch.optim.Optimizer):
    """Muon for the matrices among `parameters`, AdamW for the rest; one learning rate for both.

    Args:
        parameters: by name, which decides who is no matrix.
        lr: of an update whose elements have root mean square 0.2 in Muon's part.
        betas, weight_decay: of AdamW's part; decay holds for matrices only.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.01,
        eps: float = 1e-8,
    ) -> None:
        matrices = [p for name, p in parameters.items() if is_matrix(name, p)]
        rest = [p for name, p in parameters.items() if not is_matrix(name, p)]
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
            update = self._turn if group["matrices"] else self._adam
            for parameter in group["params"]:
                if parameter.grad is not None:
                    update(parameter, parameter.grad, group)

    def _turn(self, parameter: nn.Parameter, gradient: Tensor, group: Mapping[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        state["momentum_buffer"].lerp_(gradient, 1 - MOMENTUM)
        direction = gradient.lerp(state["momentum_buffer"], MOMENTUM).flatten(1)
        update = orthogonalized(direction).view(parameter.shape).to(parameter.dtype)
        scale = MATCHING_SCALE * max(direction.shape) ** 0.5
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(update, alpha=-group["lr"] * scale)

    def _adam(self, parameter: nn.Parameter, gradient: Tensor, group: Mapping[str, Any]) -> None:
        """Loshchilov & Hutter 2019, algorithm 2."""
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        state["step"] += 1
        beta1, beta2 = group["betas"]
        state["exp_avg"].lerp_(gradient, 1 - beta1)
        state["exp_avg_sq"].lerp_(gradient.square(), 1 - beta2)
        step = float(state["step"])
        mean = state["exp_avg"] / (1 - beta1**step)
        spread = (state["exp_avg_sq"] / (1 - beta2**step)).sqrt() + group["eps"]
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.addcdiv_(mean, spread, value=-group["lr"])
