"""Which kernel computes a network's attention, by diffusers' names for them.

diffusers itself sets a backend for the whole process; here it is set for one network.
"""

import copy
import functools
from typing import Any

from torch.nn.attention import SDPBackend, sdpa_kernel

from nightpress.diffusion_core import patching
from nightpress.diffusion_core.errors import SettingsError, one_line

KERNELS = {
    "_native_math": SDPBackend.MATH,
    "_native_flash": SDPBackend.FLASH_ATTENTION,
    "_native_efficient": SDPBackend.EFFICIENT_ATTENTION,
    "_native_cudnn": SDPBackend.CUDNN_ATTENTION,
}
"""Backend -> kernel of torch's `scaled_dot_product_attention`; `native` lets torch choose."""

CUDA_ONLY = ("_native_efficient", "_native_cudnn", "flash", "_flash_3", "sage", "xformers")

CHOOSE = "choose the attention kernel of one network"
DISPATCH = "diffusers.models.attention_dispatch"


def require_backend(backend: str, device: str) -> None:
    """Check that this machine has a backend for a device.

    Read against diffusers 0.42.1. Relies on `_check_attention_backend_requirements` in
    `diffusers.models.attention_dispatch`, which raises RuntimeError.

    Args:
        backend: one of `diffusion_core.acceleration.spec.AttentionBackend`.
        device: torch's name of the device that samples.

    Raises:
        SettingsError: it is not installed, or needs another device.
    """
    if backend in CUDA_ONLY and device == "cpu":
        available = ", ".join(name for name in KERNELS if name not in CUDA_ONLY)
        raise SettingsError(f"{backend} needs a CUDA device; on a CPU: native, {available}")
    name = patching.require(DISPATCH, "AttentionBackendName", CHOOSE)(backend)
    try:
        patching.require(DISPATCH, "_check_attention_backend_requirements", CHOOSE)(name)
    except RuntimeError as error:
        raise SettingsError(f"{backend} is not installed: {one_line(error)}") from error


def set_backend(network: Any, backend: str) -> None:
    """Have one backend compute all attention of a network.

    Read against diffusers 0.42.1. Relies on attention layers having a `processor`, which either
    looks its backend up in its attribute `_attention_backend`, or calls torch's
    `scaled_dot_product_attention` in its `__call__`.

    Args:
        network: a network of diffusers, whose projections are fused already if they are to be.
        backend: one of `diffusion_core.acceleration.spec.AttentionBackend`.

    Raises:
        SettingsError: the network does not support it.
        IncompatibleLibrary: diffusers keeps a network's backend elsewhere.
    """
    mixin = patching.require("diffusers.models.attention", "AttentionModuleMixin", CHOOSE)
    setter = patching.require(mixin, "set_attention_backend", CHOOSE)
    patching.require_reference(setter, "_attention_backend", CHOOSE)
    layers = [m for m in network.modules() if getattr(m, "processor", None) is not None]
    if any(hasattr(layer.processor, "_attention_backend") for layer in layers):
        _set_dispatched(layers, backend)
    elif any(_calls_torch(layer.processor) for layer in layers):
        _pin(layers, backend, type(network).__name__)
    else:
        raise SettingsError(f"the attention kernel of {type(network).__name__} cannot be chosen")


def _set_dispatched(layers: list[Any], backend: str) -> None:
    """Set the backend of processors that look it up by name."""
    name = patching.require(DISPATCH, "AttentionBackendName", CHOOSE)(backend)
    for layer in layers:
        if hasattr(layer.processor, "_attention_backend"):
            layer.processor._attention_backend = name


def _pin(layers: list[Any], backend: str, network: str) -> None:
    """Set the kernel of processors that call torch's function, as those of U-Nets do."""
    if backend != "native" and backend not in KERNELS:
        raise SettingsError(
            f"{network} does not support {backend}, only native, {', '.join(KERNELS)}"
        )
    if backend == "native":
        return
    for layer in layers:
        if _calls_torch(layer.processor):
            layer.processor = _pinned(layer.processor, KERNELS[backend])


def _calls_torch(processor: Any) -> bool:
    return patching.refers_to(type(processor).__call__, "scaled_dot_product_attention")


def _pinned(processor: Any, kernel: SDPBackend) -> Any:
    """A copy of a processor that computes attention with one kernel.

    Its class is a subclass of the same name: diffusers reads a processor's name and signature.
    """
    kind = type(processor)

    @functools.wraps(kind.__call__)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        with sdpa_kernel(kernel):
            return kind.__call__(self, *args, **kwargs)

    pinned = copy.copy(processor)
    pinned.__class__ = type(kind.__name__, (kind,), {"__call__": call})
    return pinned
