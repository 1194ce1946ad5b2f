"""By which kernel a network computes attention, under diffusers' names for them.

Knows no pipeline. diffusers itself sets a backend for the whole process; here it is one network's.
"""

import copy
import functools
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from nightpress.diffusion_core.errors import SettingsError

KERNELS = {
    "_native_math": SDPBackend.MATH,
    "_native_flash": SDPBackend.FLASH_ATTENTION,
    "_native_efficient": SDPBackend.EFFICIENT_ATTENTION,
    "_native_cudnn": SDPBackend.CUDNN_ATTENTION,
}
"""Of torch's `scaled_dot_product_attention`; `native` leaves the choice to it."""

CUDA_ONLY = ("_native_efficient", "_native_cudnn", "flash", "_flash_3", "sage", "xformers")


def require(backend: str) -> None:
    """See that this machine has a backend.

    Raises:
        SettingsError: it is not installed, or needs another device.
    """
    from diffusers.models import attention_dispatch

    if backend in CUDA_ONLY and not torch.cuda.is_available():
        raise SettingsError(f"{backend} needs a CUDA device; on a CPU: native, {_on_a_cpu()}")
    name = attention_dispatch.AttentionBackendName(backend)
    try:
        attention_dispatch._check_attention_backend_requirements(name)
    except RuntimeError as error:
        raise SettingsError(f"{backend} is not installed: {error}") from error


def use(network: Any, backend: str) -> None:
    """Have all attention of a network computed by one backend.

    Args:
        network: of diffusers, its projections fused already if they are to be.
        backend: as `diffusion_core.acceleration.spec.AttentionBackend` has it.

    Raises:
        SettingsError: the network cannot choose it.
    """
    layers = [m for m in network.modules() if getattr(m, "processor", None) is not None]
    if any(hasattr(layer.processor, "_attention_backend") for layer in layers):
        _dispatch(layers, backend)
    elif any(_is_torch_s(layer.processor) for layer in layers):
        _pin(layers, backend, type(network).__name__)
    else:
        raise SettingsError(f"{type(network).__name__} has no attention that can be chosen")


def _on_a_cpu() -> str:
    return ", ".join(name for name in KERNELS if name not in CUDA_ONLY)


def _dispatch(layers: list[Any], backend: str) -> None:
    """Networks whose processors look up a backend by its name."""
    from diffusers.models import attention_dispatch

    name = attention_dispatch.AttentionBackendName(backend)
    for layer in layers:
        if hasattr(layer.processor, "_attention_backend"):
            layer.processor._attention_backend = name


def _pin(layers: list[Any], backend: str, kind: str) -> None:
    """Networks whose processors call torch's function, U-Nets among them."""
    if backend != "native" and backend not in KERNELS:
        raise SettingsError(f"{kind} takes native, {', '.join(KERNELS)}")
    if backend == "native":
        return
    for layer in layers:
        if _is_torch_s(layer.processor):
            layer.processor = _pinned(layer.processor, KERNELS[backend])


def _is_torch_s(processor: Any) -> bool:
    return "scaled_dot_product_attention" in type(processor).__call__.__code__.co_names


def _pinned(processor: Any, kernel: SDPBackend) -> Any:
    """The processor again, its class a subclass: diffusers reads its name and its signature."""
    kind = type(processor)

    @functools.wraps(kind.__call__)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        with sdpa_kernel(kernel):
            return kind.__call__(self, *args, **kwargs)

    twin = copy.copy(processor)
    twin.__class__ = type(kind.__name__, (kind,), {"__call__": call})
    return twin
