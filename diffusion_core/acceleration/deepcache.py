"""Reuse of a U-Net's deep features between denoising steps; lossy, so only for who asks for it.

Owns the choice between a whole and a shallow call of a U-Net, and the shallow U-Net. Knows nothing
of pipelines, schedulers or prompts.

Source: Ma, Fang & Wang, "DeepCache: Accelerating Diffusion Models for Free", CVPR 2024, arXiv
2312.00858, of which this is the uniform 1:N inference. A U-Net's m-th skip carries the output of
D_m, on the way down, to U_m, on the way up, which joins it with the output of the deeper U_{m+1}.
From one step to the next that deeper output changes little. So one step in N computes everything
and keeps it,

    F_cache = U_{m+1}(x_t)

and the N - 1 steps after it go down to D_m only, and up again from

    U_m(Concat(D_m(x_t), F_cache))

Here N is `interval`, and m - 1 is `branch`: skip 0 is the output of `conv_in`, and every layer of a
down block, its downsampler too, makes one more. A larger branch reuses less. The weights are those
of the whole U-Net, and so is the time embedding of each step; what is old is F_cache alone.

Cost: where a shallow call needs the share r of a whole one's multiply-adds, T steps need those of
ceil(T / N) + r * (T - ceil(T / N)) whole calls; the share skipped nears (1 - r) * (1 - 1 / N).
As torch's FlopCounterMode counts, r is

    ===================  =====  =====  =====  =====  =====
    branch                   0      1      2      3      4
    ===================  =====  =====  =====  =====  =====
    SD 1.5, 512 x 512    0.079  0.224  0.380  0.470  0.564
    SDXL, 1024 x 1024    0.015  0.038  0.066  0.129  0.214
    ===================  =====  =====  =====  =====  =====
"""

import contextlib
import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nightpress.diffusion_core.errors import SettingsError
from nightpress.diffusion_core.patching import shadowed

SKIP_A_LAYER = frozenset(
    {
        "DownBlock2D",
        "CrossAttnDownBlock2D",
        "SimpleCrossAttnDownBlock2D",
        "ResnetDownsampleBlock2D",
        "UpBlock2D",
        "CrossAttnUpBlock2D",
        "SimpleCrossAttnUpBlock2D",
        "ResnetUpsampleBlock2D",
    }
)
"""Blocks of diffusers in which each layer makes, or takes, one skip."""

RESIDUALS = (
    "down_block_additional_residuals",
    "mid_block_additional_residual",
    "down_intrablock_additional_residuals",
)
"""What a ControlNet or a T2I-Adapter adds at every depth of a call."""

NOTHING = torch.empty(0)
"""Where features have been forgotten."""


@contextlib.contextmanager
def reusing_deep_features(unet: Any, interval: int, branch: int = 0) -> Iterator["DeepFeatures"]:
    """For the length of a block, compute a U-Net whole on one call in `interval` only.

    A block is one sampling, or several with `start()` before each: that another has begun cannot be
    told from a call without waiting for the accelerator. The U-Net must be called once a step, as
    diffusers' pipelines do, guided or not. A call with another shape, dtype or device than the one
    before is computed whole, and so is one with the residuals of a ControlNet or a T2I-Adapter.

    Args:
        unet: diffusers' UNet2DConditionModel; it is itself again after the block.
        interval: N; 1 computes every call whole, which changes no bit.
        branch: the skip from which on a shallow call computes; 0 is the shallowest and fastest.

    Raises:
        SettingsError: another network, or an interval or branch that it does not have.
    """
    feeders = _feeders(unet)
    if interval < 1:
        raise SettingsError(f"interval {interval}: 1 computes every step whole, 2 every other one")
    if not 0 <= branch < len(feeders):
        raise SettingsError(f"branch {branch}: this U-Net has 0 to {len(feeders) - 1}")
    if isinstance(getattr(unet.forward, "__self__", None), DeepFeatures):
        raise SettingsError("this U-Net reuses its deep features already; end that block first")
    features = DeepFeatures(unet, interval, branch)
    handle = feeders[branch].register_forward_hook(features.keep)
    try:
        with shadowed(unet, "forward", features.forward):
            yield features
    finally:
        handle.remove()


class DeepFeatures:
    """A U-Net's forward that goes deep on one call in `interval`, and its memory in between."""

    def __init__(self, unet: Any, interval: int, branch: int) -> None:
        self._interval = interval
        self._whole = unet.forward
        self._recall = _Recall()
        self._shallow = _shallow(unet, branch, self._recall)
        self._num_calls = 0
        """Done since the last one that nothing could be reused for."""
        self._kind: tuple[Any, ...] | None = None

    def start(self) -> None:
        """Forget all features: the next call is the first of another sampling."""
        self._kind, self._recall.deep = None, NOTHING

    def forward(self, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        """As UNet2DConditionModel.forward; `sample` is (B, C, h, w)."""
        kind = (sample.shape, sample.dtype, sample.device)
        if kind != self._kind or any(kwargs.get(name) is not None for name in RESIDUALS):
            self._kind, self._num_calls = kind, 0
        reuse = self._num_calls % self._interval
        output = (self._shallow.forward if reuse else self._whole)(sample, *args, **kwargs)
        self._num_calls += 1  # not if it failed: what it would have kept is not there
        return output

    def keep(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        """Forward hook of the module that computes F_cache."""
        deep = output[0] if isinstance(output, tuple) else output
        # A copy: FreeU and CUDA graphs write over what a module has handed on.
        self._recall.deep = deep.clone()


class _Recall(nn.Module):
    """Stands where the deep part of a U-Net stands, and answers what that has answered last."""

    def __init__(self) -> None:
        super().__init__()
        self.deep = NOTHING
        """F_cache, (B, C', h', w')."""

    def forward(self, *_: Any) -> Tensor:
        return self.deep.clone()


def _feeders(unet: Any) -> list[nn.Module]:
    """Of each branch, the module whose output is joined with that skip: the one to remember."""
    from diffusers import UNet2DConditionModel

    kind = type(unet).__name__
    if not isinstance(unet, UNet2DConditionModel):
        raise SettingsError(f"{kind}: deep features can be reused in a UNet2DConditionModel only")
    for block in (*unet.down_blocks, *unet.up_blocks):
        if type(block).__name__ not in SKIP_A_LAYER:
            raise SettingsError(f"{kind}: not every layer of a {type(block).__name__} has a skip")
    feeders: list[Any] = []
    before = unet.mid_block
    for block in unet.up_blocks:
        layers = getattr(block, "attentions", block.resnets)
        feeders += [before, *layers[:-1]]
        before = block
    return [feeder for feeder in reversed(feeders) if feeder is not None]


def _shallow(unet: Any, branch: int, recall: _Recall) -> Any:
    """The U-Net down to skip `branch` and up from there, over `recall`; the weights are shared."""
    return _view(
        unet,
        down_blocks=nn.ModuleList(_down_to(unet.down_blocks, branch)),
        mid_block=recall,
        up_blocks=nn.ModuleList(_up_from(unet.up_blocks, branch)),
    )


def _down_to(blocks: Iterable[Any], branch: int) -> Iterator[nn.Module]:
    num_left = branch  # skips to make, without that of conv_in
    for block in blocks:
        num_skips = len(block.resnets) + (block.downsamplers is not None)
        if num_left >= num_skips:
            yield block
        elif num_left > 0:
            yield _layers(block, slice(num_left), downsamplers=None)
        num_left -= num_skips


def _up_from(blocks: Sequence[Any], branch: int) -> list[nn.Module]:
    parts: list[nn.Module] = []
    num_left = branch + 1  # skips to take
    for block in reversed(blocks):
        if num_left > 0:
            parts.append(_layers(block, slice(-num_left, None)))
        num_left -= len(block.resnets)
    return parts[::-1]


def _layers(block: Any, which: slice, **others: None) -> nn.Module:
    """A block with some of its layers."""
    names = [name for name in ("resnets", "attentions") if hasattr(block, name)]
    return _view(block, **{name: getattr(block, name)[which] for name in names}, **others)


def _view(module: nn.Module, **children: nn.Module | None) -> nn.Module:
    """The module again with some children exchanged; everything else is the same object."""
    view = copy.copy(module)
    view.__dict__["_modules"] = {**module._modules, **children}
    # What shadows the forward would call the module; a child that is None there shadows the new.
    for name in ("forward", *children):
        view.__dict__.pop(name, None)
    return view
