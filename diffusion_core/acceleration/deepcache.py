"""Reusing a U-Net's deep features between denoising steps: lossy, so only on request.

Owns the choice between a whole and a shallow call of a U-Net, and the shallow U-Net.

Source: Ma, Fang & Wang, "DeepCache: Accelerating Diffusion Models for Free", CVPR 2024, arXiv
2312.00858, of which this is the uniform 1:N inference. A U-Net's m-th skip carries the output of
D_m, on the way down, to U_m, on the way up, which joins it with the output of the deeper U_{m+1}.
From one step to the next that deeper output changes little. So one step in N computes everything
and caches it,

    F_cache = U_{m+1}(x_t)

and the N - 1 steps after it go down only to D_m, and up again from

    U_m(Concat(D_m(x_t), F_cache))

Here N is `interval`, and m - 1 is `branch`: skip 0 is the output of `conv_in`, and every layer of a
down block, its downsampler included, adds one. A larger branch reuses less. The weights, and the
time embedding of each step, are those of the whole U-Net; only F_cache is old.

Cost: if a shallow call needs a share r of the multiply-adds of a whole one, T steps need those of
ceil(T / N) + r * (T - ceil(T / N)) whole calls; the share saved approaches (1 - r) * (1 - 1 / N).
Counted with torch's FlopCounterMode, r is

    ===================  =====  =====  =====  =====  =====
    branch                   0      1      2      3      4
    ===================  =====  =====  =====  =====  =====
    SD 1.5, 512 x 512    0.079  0.224  0.380  0.470  0.564
    SDXL, 1024 x 1024    0.015  0.038  0.066  0.129  0.214
    ===================  =====  =====  =====  =====  =====
"""

import contextlib
import copy
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nightpress.diffusion_core import patching
from nightpress.diffusion_core.errors import SettingsError

ONE_SKIP_PER_LAYER = frozenset(
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
"""Blocks of diffusers in which each layer makes or takes one skip."""

RESIDUALS = (
    "down_block_additional_residuals",
    "mid_block_additional_residual",
    "down_intrablock_additional_residuals",
)
"""Arguments by which a ControlNet or a T2I-Adapter adds to every depth of a call."""

NOTHING = torch.empty(0)
"""In place of features that have been dropped."""

REUSE = "reuse a U-Net's deep features"


@contextlib.contextmanager
def reuse_deep_features(unet: Any, interval: int, branch: int = 0) -> Iterator["DeepFeatures"]:
    """Within the block, compute the whole U-Net on only one call in `interval`.

    A block covers one sampling run, or several with `reset()` before each: a call does not show
    that a new run has begun, unless it waits for the accelerator. The U-Net must be called once a
    step, as diffusers' pipelines do, guided or not. A call with another shape, dtype or device
    than the one before it is computed whole, and so is one with the residuals of a ControlNet or
    T2I-Adapter.

    Read against diffusers 0.42.1. Relies on `UNet2DConditionModel.forward`, and on the forwards of
    the blocks in `ONE_SKIP_PER_LAYER`, looping over the lists `down_blocks`, `up_blocks`, `resnets`
    and `attentions`, with `mid_block` and `downsamplers` between them.

    Args:
        unet: a UNet2DConditionModel of diffusers; it is unchanged after the block.
        interval: N; 1 computes every call whole, which changes no bit.
        branch: the skip at which a shallow call turns around; 0 is the shallowest and fastest.

    Raises:
        SettingsError: another kind of network, an interval or branch out of range, or a U-Net in
            another such block.
    """
    sources = _feature_sources(unet)
    if interval < 1:
        raise SettingsError(f"interval {interval}: must be 1 or more; 1 computes every step whole")
    if not 0 <= branch < len(sources):
        raise SettingsError(f"branch {branch}: this U-Net has 0 to {len(sources) - 1}")
    shadow = patching.shadow_of(unet, "forward")
    if isinstance(getattr(shadow, "__self__", None), DeepFeatures):
        raise SettingsError("this U-Net reuses its deep features already; end that block first")
    features = DeepFeatures(unet, interval, branch)
    handle = sources[branch].register_forward_hook(features.store)
    try:
        with patching.shadowed(unet, "forward", features.forward):
            yield features
    finally:
        handle.remove()


class DeepFeatures:
    """A U-Net's forward that computes deep features on one call in `interval`, and caches them.

    It belongs to the thread that makes it.
    """

    def __init__(self, unet: Any, interval: int, branch: int) -> None:
        self._thread = threading.get_ident()
        self._interval = interval
        self._whole = patching.require(unet, "forward", REUSE)
        self._cached = _CachedFeatures()
        self._shallow = _shallow(unet, branch, self._cached)
        self._num_calls = 0
        """Calls since the last one that could reuse nothing."""
        self._kind: tuple[Any, ...] | None = None

    def reset(self) -> None:
        """Drop all features: the next call is the first of another sampling run."""
        self._kind, self._cached.deep = None, NOTHING

    def forward(self, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        """UNet2DConditionModel.forward; `sample` is (B, C, h, w)."""
        kind = (sample.shape, sample.dtype, sample.device)
        if kind != self._kind or any(kwargs.get(name) is not None for name in RESIDUALS):
            self._kind, self._num_calls = kind, 0
        reuse = self._num_calls % self._interval
        output = (self._shallow.forward if reuse else self._whole)(sample, *args, **kwargs)
        self._num_calls += 1  # not after a failure, which has stored no features
        return output

    def store(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        """Forward hook of the module that computes F_cache."""
        if threading.get_ident() != self._thread:
            return
        deep = output[0] if isinstance(output, tuple) else output
        # A copy: FreeU and CUDA graphs overwrite what a module has returned.
        self._cached.deep = deep.clone()


class _CachedFeatures(nn.Module):
    """Takes the place of the deep part of a U-Net, and returns its last output."""

    def __init__(self) -> None:
        super().__init__()
        self.deep = NOTHING
        """F_cache, (B, C', h', w')."""

    def forward(self, *_: Any) -> Tensor:
        return self.deep.clone()


def _feature_sources(unet: Any) -> list[nn.Module]:
    """For each branch, the module whose output is joined with that skip."""
    from diffusers import UNet2DConditionModel

    kind = type(unet).__name__
    if not isinstance(unet, UNet2DConditionModel):
        raise SettingsError(f"{kind}: deep features can be reused in a UNet2DConditionModel only")
    for block in (*unet.down_blocks, *unet.up_blocks):
        if type(block).__name__ not in ONE_SKIP_PER_LAYER:
            raise SettingsError(f"{kind}: not every layer of a {type(block).__name__} has a skip")
    sources: list[Any] = []
    before = unet.mid_block
    for block in unet.up_blocks:
        layers = getattr(block, "attentions", patching.require(block, "resnets", REUSE))
        sources += [before, *layers[:-1]]
        before = block
    return [source for source in reversed(sources) if source is not None]


def _shallow(unet: Any, branch: int, cached: _CachedFeatures) -> Any:
    """The U-Net down to skip `branch`, and up from `cached`; it shares the weights."""
    return _view(
        unet,
        down_blocks=nn.ModuleList(_down_to(unet.down_blocks, branch)),
        mid_block=cached,
        up_blocks=nn.ModuleList(_up_from(unet.up_blocks, branch)),
    )


def _down_to(blocks: Iterable[Any], branch: int) -> Iterator[nn.Module]:
    num_left = branch  # skips still to make, beside that of conv_in
    for block in blocks:
        has_downsampler = patching.require(block, "downsamplers", REUSE) is not None
        num_skips = len(patching.require(block, "resnets", REUSE)) + has_downsampler
        if num_left >= num_skips:
            yield block
        elif num_left > 0:
            yield _layers(block, slice(num_left), downsamplers=None)
        num_left -= num_skips


def _up_from(blocks: Sequence[Any], branch: int) -> list[nn.Module]:
    parts: list[nn.Module] = []
    num_left = branch + 1  # skips still to take
    for block in reversed(blocks):
        if num_left > 0:
            parts.append(_layers(block, slice(-num_left, None)))
        num_left -= len(block.resnets)
    return parts[::-1]


def _layers(block: Any, which: slice, **others: None) -> nn.Module:
    """A view of a block with some of its layers."""
    names = [name for name in ("resnets", "attentions") if hasattr(block, name)]
    return _view(block, **{name: getattr(block, name)[which] for name in names}, **others)


def _view(module: nn.Module, **children: nn.Module | None) -> nn.Module:
    """A shallow copy of a module, with other children.

    Read against torch 2.13.0. Relies on `nn.Module` keeping its children in `_modules`.
    """
    view = copy.copy(module)
    view.__dict__["_modules"] = {**patching.require(module, "_modules", REUSE), **children}
    # A shadow of `forward` would call the module itself, and a child that is None is an attribute
    # that would hide its replacement.
    for name in ("forward", *children):
        view.__dict__.pop(name, None)
    return view
