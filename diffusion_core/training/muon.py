"""Muon: momentum with orthogonalized updates for matrices, and AdamW for all other weights.

References: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; the
scale of an update and the decoupled weight decay, Liu et al. 2025 (Moonlight), section 2.2.
`torch.optim.Muon` accepts only two-dimensional weights; here a convolution kernel counts as a
matrix (channels out, channels in * height * width), and one optimizer holds the whole network.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn

MOMENTUM = 0.95
NUM_ITERATIONS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration, chosen for a steep slope at 0; singular values therefore
end near 1, not exactly at 1."""
MAX_STACK, MAX_STACK_ELEMENTS = 16, 1 << 26
"""The most matrices that are orthogonalized by one kernel each time, and their elements."""
UPDATE_RMS = 0.2
"""Root mean square of an update. It matches AdamW's, so learning rates keep their meaning."""
NOT_HIDDEN = re.compile(
    r"emb(ed|_|$)|^adaln|^norm|^caption_projection$"
    r"|^(cond_proj|time_proj|encoder_hid_proj|guidance_in|t_block)$"
)
"""Matches a part of the names of embeddings, modulation and projections of captions, which AdamW
updates in any shape. A U-Net's `time_emb_proj` is modulation: it turns the embedding of the time
into a shift, and in some networks a scale, of the features. PixArt's authors name it `t_block`."""
ENDS = re.compile(r"^(conv|proj|img|txt|time|vector)_(in|out)(_\d+)?$")
"""Matches the first and the last layer of a network; inside its blocks they are hidden layers."""


def uses_muon(name: str, parameter: Tensor) -> bool:
    """Whether Muon updates a weight: a hidden layer's matrix or convolution kernel.

    All others go to AdamW: biases and scales, tables such as PixArt's `scale_shift_table`,
    embeddings with the layers that make them, modulation, and the first and the last layer.
    """
    *layers, weight = name.split(".")
    if parameter.ndim < 2 or not weight.endswith("weight"):
        return False
    if any(NOT_HIDDEN.search(layer) for layer in layers):
        return False
    outside = itertools.takewhile(lambda layer: not layer.isdigit(), layers)
    return not any(ENDS.match(layer) for layer in outside)


def zeropower_via_newtonschulz5(matrices: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrices, (m, n) or (k, m, n) in bfloat16.

    Their singular values are near 1.

    Newton-Schulz iteration X <- aX + b(XX')X + c(XX')^2 X; Jordan et al. 2024.
    """
    a, b, c = COEFFICIENTS
    x = matrices.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    add_product = torch.addmm if x.ndim == 2 else torch.baddbmm
    for _ in range(NUM_ITERATIONS):
        square = x @ x.mT
        polynomial = add_product(square, square, square, beta=b, alpha=c)
        x = add_product(x, polynomial, x, beta=a)
    return x.mT if tall else x


def orthogonalize_all(matrices: Sequence[Tensor]) -> list[Tensor]:
    """`zeropower_via_newtonschulz5` of every matrix, divided among the workers of a training run.

    All workers must pass the same matrices. The result does not depend on their number: a stack of
    matrices is the same for any number, and has one owner.
    """
    if not matrices:
        return []
    groups = stacks(matrices, stack_limit(matrices[0].device))
    results: dict[int, Tensor] = {}
    for group, result in zip(groups, _divided(matrices, groups), strict=True):
        results |= zip(group, result.view(len(group), *matrices[group[0]].shape), strict=True)
    return [results[index] for index in range(len(matrices))]


def _divided(matrices: Sequence[Tensor], groups: Sequence[Sequence[int]]) -> list[Tensor]:
    """Each group of matrices orthogonalized, by the worker that owns it."""
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return [zeropower_via_newtonschulz5(_stacked(matrices, group)) for group in groups]
    rank, shapes = distributed.get_rank(), [_stacked_shape(matrices, group) for group in groups]
    owners = assign_owners(shapes, distributed.get_world_size())
    sizes = [shape.numel() for shape in shapes]
    flat = torch.zeros(sum(sizes), dtype=torch.bfloat16, device=matrices[0].device)
    results = torch.split(flat, sizes)
    for group, owner, result in zip(groups, owners, results, strict=True):
        if owner == rank:
            stack = _stacked(matrices, group)
            result.copy_(zeropower_via_newtonschulz5(stack).flatten())
    distributed.all_reduce(flat)  # each result is non-zero on its owner only
    return list(results)


def stack_limit(device: torch.device) -> int:
    """The most elements of a stack of matrices; 0 for matrices one by one.

    A GPU takes longer to start its kernels than to multiply one small matrix, so equal shapes share
    them. A CPU multiplies stacks in bfloat16 more slowly than matrices.
    """
    return 0 if device.type == "cpu" else MAX_STACK_ELEMENTS


def stacks(matrices: Sequence[Tensor], limit: int) -> list[list[int]]:
    """The indices of the matrices that share a stack: of one shape, and few enough for the limit.

    There are several stacks of a frequent shape, so that all workers have a share of it.
    """
    by_shape: dict[torch.Size, list[int]] = {}
    for index, matrix in enumerate(matrices):
        by_shape.setdefault(matrix.shape, []).append(index)
    groups = []
    for shape, indices in by_shape.items():
        number = min(MAX_STACK, max(1, limit // shape.numel()))
        groups += [indices[start : start + number] for start in range(0, len(indices), number)]
    return groups


def _stacked(matrices: Sequence[Tensor], group: Sequence[int]) -> Tensor:
    """(k, m, n) of several matrices; a single one stays (m, n)."""
    return torch.stack([matrices[i] for i in group]) if len(group) > 1 else matrices[group[0]]


def _stacked_shape(matrices: Sequence[Tensor], group: Sequence[int]) -> Tensor:
    """What `_stacked` returns, without values."""
    return torch.empty(len(group), *matrices[group[0]].shape, device="meta")


def assign_owners(each: Sequence[Tensor], num_workers: int) -> list[int]:
    """The worker of each matrix or stack: the costliest first, each to the least loaded worker."""
    costs = [min(one.shape[-2:]) * one.numel() for one in each]
    loads, owners = [0] * num_workers, [0] * len(each)
    for index in sorted(range(len(each)), key=lambda i: -costs[i]):
        owners[index] = loads.index(min(loads))
        loads[owners[index]] += costs[index]
    return owners


class Muon(torch.optim.Optimizer):
    """Muon for the matrices among `parameters`, AdamW at half their learning rate for the rest.

    A step is computed for lists of weights, with torch's foreach functions: on an accelerator they
    start one kernel for many weights, and on a CPU they compute them one by one.

    Args:
        parameters: by name; see `uses_muon` for the names that AdamW updates.
        lr: learning rate; the elements of a Muon update have root mean square `UPDATE_RMS` * lr.
        betas: AdamW's coefficients.
        weight_decay: for the matrices; the other weights do not decay.
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
            groups,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
            },
        )

    def follow_state(self) -> None:
        """Update each parameter as its state in a checkpoint was: by Muon, or by AdamW.

        A training that began under another rule than `uses_muon` then goes on as it began.
        """
        groups = {group["matrices"]: group for group in self.param_groups}
        parameters = [p for group in self.param_groups for p in group["params"]]
        kept = {id(p) for p in groups.get(True, {}).get("params", ())}
        for matrices, group in groups.items():
            group["params"] = [
                p for p in parameters if self._was_matrix(p, id(p) in kept) == matrices
            ]

    def _was_matrix(self, parameter: nn.Parameter, default: bool) -> bool:
        state = self.state.get(parameter) or {}
        return "momentum_buffer" in state if state else default

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient."""
        for group in self.param_groups:
            parameters = tuple(p for p in group["params"] if p.grad is not None)
            if not parameters:
                continue
            if group["matrices"]:
                self._muon_update(parameters, group)
            else:
                self._adamw_update(parameters, group)

    def _muon_update(self, parameters: tuple[nn.Parameter, ...], group: Mapping[str, Any]) -> None:
        """Jordan et al. 2024, scaled as in Liu et al. 2025, section 2.2."""
        updates = orthogonalize_all(self._momenta(parameters))
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        by_length: dict[int, list[tuple[nn.Parameter, Tensor]]] = {}
        for parameter, update in zip(parameters, updates, strict=True):
            pair = parameter, update.view(parameter.shape)
            by_length.setdefault(max(update.shape), []).append(pair)
        for length, pairs in by_length.items():
            changes = [torch.empty_like(parameter) for parameter, _ in pairs]
            torch._foreach_copy_(changes, [update for _, update in pairs])
            alpha = -group["lr"] * (UPDATE_RMS * length**0.5)
            torch._foreach_add_(tuple(parameter for parameter, _ in pairs), changes, alpha=alpha)

    def _momenta(self, parameters: tuple[nn.Parameter, ...]) -> list[Tensor]:
        """The gradients with Nesterov momentum, as matrices (m, n)."""
        gradients = [_gradient(parameter) for parameter in parameters]
        states = [self.state[parameter] for parameter in parameters]
        for parameter, state in zip(parameters, states, strict=True):
            if not state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
        buffers = [state["momentum_buffer"] for state in states]
        torch._foreach_lerp_(buffers, gradients, 1 - MOMENTUM)
        momenta = torch._foreach_lerp(gradients, buffers, MOMENTUM)
        return [momentum.flatten(1) for momentum in momenta]

    def _adamw_update(self, parameters: tuple[nn.Parameter, ...], group: Mapping[str, Any]) -> None:
        """Loshchilov & Hutter 2019, algorithm 2."""
        gradients = [_gradient(parameter) for parameter in parameters]
        states = [self._adamw_state(parameter) for parameter in parameters]
        means, squares = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq"))
        beta1, beta2 = group["betas"]
        torch._foreach_lerp_(means, gradients, 1 - beta1)
        torch._foreach_lerp_(squares, torch._foreach_mul(gradients, gradients), 1 - beta2)
        steps = [float(state["step"]) for state in states]
        unbiased = torch._foreach_div(means, [1 - beta1**step for step in steps])
        roots = torch._foreach_div(squares, [1 - beta2**step for step in steps])
        torch._foreach_sqrt_(roots)
        torch._foreach_add_(roots, group["eps"])
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_addcdiv_(parameters, unbiased, roots, value=-group["lr"])

    def _adamw_state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """The state of a parameter that takes its next step."""
        state: dict[str, Tensor] = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        state["step"] = state["step"].cpu() + 1  # a checkpoint may load it on the accelerator
        return state


def _gradient(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        raise ValueError("a parameter without a gradient has no update")
    return parameter.grad
