"""Applying a job's `model.speed` to a pipeline, or refusing it before the pipeline is loaded.

Owns what each choice does; `spec.py` lists the choices. Whether a model supports one is tried on a
skeleton: the model's networks, made from their configurations without weights.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from nightpress.diffusion_core import patching
from nightpress.diffusion_core.acceleration import attention, quantization
from nightpress.diffusion_core.acceleration.clock import Clock
from nightpress.diffusion_core.acceleration.compilation import (
    keep_compiled_code,
    one_graph_per_shape,
    require_compiler,
)
from nightpress.diffusion_core.acceleration.compile_lock import one_process_at_a_time
from nightpress.diffusion_core.acceleration.deepcache import reuse_deep_features
from nightpress.diffusion_core.acceleration.spec import DeepFeaturesSpec, SpeedSpec
from nightpress.diffusion_core.errors import ModelError, SettingsError, one_line

DENOISERS = ("transformer", "unet")
"""The components that run at every step; a pipeline has one of them."""

CACHE = "keep a cache in a transformer"
FUSE = "fuse the projections of attention"
COMPILE = "compile the blocks that a network repeats"


@dataclass(frozen=True)
class Parts:
    """The parts of a pipeline, or of its skeleton, that can be accelerated."""

    pipeline: Any
    """The pipeline, or its skeleton."""
    pipeline_class: Any
    dtype: str = ""
    """`model.dtype` of the job."""
    takes_negative_prompt: bool = False
    """The pipeline may call its denoiser twice a step, for the prompt and the negative prompt."""
    elsewhere: bool = False
    """Another machine will sample, so what this one lacks does not matter."""
    device: str | None = None
    """The device that will sample; None for the accelerator that torch finds, or the CPU."""

    @property
    def samples_on(self) -> str:
        """torch's name of the device that will sample."""
        return self.device or ("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def denoiser(self) -> Any:
        """The transformer or U-Net; None if there is neither."""
        found = [getattr(self.pipeline, name, None) for name in DENOISERS]
        return next((network for network in found if network is not None), None)

    @property
    def vae(self) -> Any:
        """The autoencoder; None if there is none."""
        return getattr(self.pipeline, "vae", None)


def check_speed(parts: Parts, speed: SpeedSpec) -> None:
    """Check, without loading a weight, that a model and this machine support the choices.

    Args:
        parts: those of the pipeline's skeleton.
        speed: the choices.

    Raises:
        ModelError: one of them is not supported; the message says what is.
    """
    if parts.denoiser is None:
        raise ModelError(
            f"model.speed: {parts.pipeline_class.__name__} has neither transformer nor unet"
        )
    _apply(parts, speed, MODIFICATIONS)
    _apply(parts, speed, REQUIREMENTS)


def apply_speed(parts: Parts, speed: SpeedSpec) -> None:
    """Apply the choices to a loaded pipeline, after its LoRAs are loaded.

    Raises:
        ModelError: as `check_speed`.
    """
    _apply(parts, speed, MODIFICATIONS)
    _apply(parts, speed, REQUIREMENTS)
    _apply(parts, speed, FINAL_MODIFICATIONS)


@contextlib.contextmanager
def around_call(pipeline: Any, speed: SpeedSpec) -> Iterator[None]:
    """Set up what the choices need around one call of the pipeline, and undo it afterwards.

    Read against diffusers 0.42.1. Relies on a denoiser's `_reset_stateful_cache`.
    """
    parts = Parts(pipeline, type(pipeline))
    with contextlib.ExitStack() as stack:
        if speed.deep_features is not None:
            stack.enter_context(_deep_features(parts, speed.deep_features))
        if speed.compile is not None:
            stack.enter_context(one_graph_per_shape())
            stack.enter_context(one_process_at_a_time())
        if speed.caches:  # a call that failed may have left something in them
            patching.require(parts.denoiser, "_reset_stateful_cache", CACHE)()
        yield


def _apply(parts: Parts, speed: SpeedSpec, steps: dict[str, Callable[[Parts, Any], None]]) -> None:
    for name, step in steps.items():
        if name not in speed.chosen():
            continue
        try:
            step(parts, getattr(speed, name))
        except SettingsError as error:
            raise ModelError(f"model.speed.{name}: {error}") from error


def _kind(network: Any) -> str:
    return type(network).__name__


def _fuse_qkv(parts: Parts, _: bool) -> None:
    """Compute queries, keys and values in one matrix product.

    Read against diffusers 0.42.1. Relies on `fuse_qkv_projections` setting `fused_projections` on
    every attention layer that it fuses.
    """
    from diffusers.models.attention import AttentionModuleMixin
    from diffusers.models.attention_processor import Attention

    kind = _kind(parts.denoiser)
    fuse = getattr(parts.denoiser, "fuse_qkv_projections", None)
    if fuse is None:
        raise SettingsError(f"{kind} cannot fuse its projections in diffusers")
    try:
        fuse()
    except ValueError as error:  # networks with projections of their own
        raise SettingsError(f"{kind}: {one_line(error)}") from error
    layers = [
        m for m in parts.denoiser.modules() if isinstance(m, Attention | AttentionModuleMixin)
    ]
    if not any(patching.require(layer, "fused_projections", FUSE) for layer in layers):
        raise SettingsError(f"{kind} has no attention whose projections can be fused")


def _channels_last(parts: Parts, _: bool) -> None:
    convolutions = [m for m in parts.denoiser.modules() if isinstance(m, nn.Conv2d)]
    if len(convolutions) < 2:
        raise SettingsError(
            f"{_kind(parts.denoiser)} is not a convolutional network such as a U-Net"
        )
    for network in (parts.denoiser, parts.vae):
        if network is not None:
            network.to(memory_format=torch.channels_last)


def _attention_backend(parts: Parts, backend: str) -> None:
    attention.set_backend(parts.denoiser, backend)
    if not parts.elsewhere:
        attention.require_backend(backend, parts.samples_on)


def _vae_batch_size(parts: Parts, _: int) -> None:
    if not hasattr(parts.vae, "decode"):
        raise SettingsError(f"{parts.pipeline_class.__name__} has no VAE with a decoder")


def _force_upcast(parts: Parts, _: bool) -> None:
    """Keep the VAE in half precision.

    Read against diffusers 0.42.1. Relies on the pipeline reading `vae.config.force_upcast`.
    """
    pipeline = parts.pipeline_class.__name__
    upcasts = patching.refers_to(parts.pipeline_class.__call__, "force_upcast")
    if not upcasts or not parts.vae.config.force_upcast:
        raise SettingsError(f"{pipeline} does not decode in float32 with this VAE")
    if parts.dtype != "float16":
        raise SettingsError(f"{pipeline} decodes in float32 only with model.dtype: float16")
    parts.vae.register_to_config(force_upcast=False)


def _deep_features(
    parts: Parts, chosen: DeepFeaturesSpec
) -> contextlib.AbstractContextManager[Any]:
    return reuse_deep_features(parts.denoiser, chosen.interval, chosen.branch)


def _try_deep_features(parts: Parts, chosen: DeepFeaturesSpec) -> None:
    with _deep_features(parts, chosen):
        pass


def _first_block_cache(parts: Parts, chosen: Any) -> None:
    from diffusers import FirstBlockCacheConfig

    _require_contexts(parts)
    _enable(parts, FirstBlockCacheConfig(threshold=chosen.threshold))


def _taylorseer_cache(parts: Parts, chosen: Any) -> None:
    from diffusers import TaylorSeerCacheConfig

    _require_contexts(parts)
    config = TaylorSeerCacheConfig(**chosen.model_dump(), taylor_factors_dtype=parts.denoiser.dtype)
    _enable(parts, config)


def _pyramid_attention_broadcast(parts: Parts, chosen: Any) -> None:
    from diffusers import PyramidAttentionBroadcastConfig

    _require_cacheable(parts)
    if parts.takes_negative_prompt:
        raise SettingsError(
            f"{parts.pipeline_class.__name__} may call its denoiser twice a step, and this cache "
            "would mix up the outputs"
        )
    clock = Clock(parts.pipeline)
    _enable(
        parts,
        PyramidAttentionBroadcastConfig(
            **chosen.model_dump(), current_timestep_callback=clock.timestep
        ),
    )


def _require_cacheable(parts: Parts) -> None:
    from diffusers import CacheMixin

    if not isinstance(parts.denoiser, CacheMixin):
        raise SettingsError(
            f"{_kind(parts.denoiser)} takes no cache in diffusers; transformers like FLUX do, and "
            "U-Nets have deep_features"
        )


def _require_contexts(parts: Parts) -> None:
    """Require a pipeline that names its guided and unguided calls, so that a cache separates them.

    Read against diffusers 0.42.1. Relies on such pipelines using `cache_context` in `__call__`.
    """
    _require_cacheable(parts)
    if not _names_its_calls(parts.pipeline_class):
        raise SettingsError(
            f"{parts.pipeline_class.__name__} does not call cache_context, which this cache needs"
        )


def unsupported_by(pipeline_class: Any, speed: SpeedSpec) -> str | None:
    """The choice that the class of another mode does not support; None if it supports all.

    The denoiser is the same one, so only what a pipeline does around it matters.
    """
    for name in ("first_block_cache", "taylorseer_cache"):
        if name in speed.caches and not _names_its_calls(pipeline_class):
            return name
    return None


def _names_its_calls(pipeline_class: Any) -> bool:
    return patching.refers_to(pipeline_class.__call__, "cache_context")


def _enable(parts: Parts, config: Any) -> None:
    """Enable a cache, and refuse it if no layer takes it.

    Read against diffusers 0.42.1. Relies on layers with a hook having the attribute
    `_diffusers_hook`, which `HookRegistry` sets.
    """
    registry = patching.require("diffusers.hooks", "HookRegistry", CACHE)
    initialize = patching.require(registry, "check_if_exists_or_initialize", CACHE)
    patching.require_reference(initialize, "_diffusers_hook", CACHE)
    kind = _kind(parts.denoiser)
    try:
        parts.denoiser.enable_cache(config)
    except (ValueError, LookupError) as error:  # unknown blocks, or too few
        raise SettingsError(f"{kind}: {one_line(error)}") from error
    hooked = [m for m in parts.denoiser.modules() if getattr(m, "_diffusers_hook", None)]
    if all(module is parts.denoiser for module in hooked):
        raise SettingsError(f"{kind} has no layer that this cache supports")


def _require_quantization(parts: Parts, name: str) -> None:
    if not any(isinstance(module, nn.Linear) for module in parts.denoiser.modules()):
        raise SettingsError(f"{_kind(parts.denoiser)} has no linear layers to quantise")
    if name.startswith("float8_dynamic") and parts.dtype in ("float32", "float16"):
        raise SettingsError(f"{name} needs model.dtype: bfloat16, not {parts.dtype}")
    if not parts.elsewhere:
        quantization.require_quantization(name, parts.samples_on)


def _quantize(parts: Parts, name: str) -> None:
    quantization.quantize(parts.denoiser, name)


def _require_compiler(parts: Parts, which: str) -> None:
    if which == "regional" and not _repeated_blocks(parts.denoiser):
        raise SettingsError(f"{_kind(parts.denoiser)} names no repeated blocks; use compile: full")
    if not parts.elsewhere:
        require_compiler(parts.samples_on)


def _repeated_blocks(denoiser: Any) -> list[nn.Module]:
    """The blocks that regional compilation compiles.

    Read against diffusers 0.42.1. Relies on the class attribute `_repeated_blocks`, class names
    that `compile_repeated_blocks` reads.
    """
    names = patching.require(denoiser, "_repeated_blocks", COMPILE) or ()
    return [module for module in denoiser.modules() if _kind(module) in names]


def _compile(parts: Parts, which: str) -> None:
    """Compile, and keep the compiled code on disk for other processes and later runs."""
    keep_compiled_code()
    if which == "regional":
        parts.denoiser.compile_repeated_blocks(dynamic=False)
        return
    parts.denoiser.compile(dynamic=False)
    decoder = getattr(parts.vae, "decoder", None)
    if decoder is not None:
        decoder.compile(dynamic=False)


MODIFICATIONS: dict[str, Callable[[Parts, Any], None]] = {
    "fuse_qkv_projections": _fuse_qkv,
    "channels_last": _channels_last,
    "attention_backend": _attention_backend,
    "vae_batch_size": _vae_batch_size,
    "force_upcast": _force_upcast,
    "deep_features": _try_deep_features,
    "first_block_cache": _first_block_cache,
    "pyramid_attention_broadcast": _pyramid_attention_broadcast,
    "taylorseer_cache": _taylorseer_cache,
}
"""Applied to a skeleton first, then to the pipeline, in this order: fusing makes new layers."""

REQUIREMENTS: dict[str, Callable[[Parts, Any], None]] = {
    "quantization": _require_quantization,
    "compile": _require_compiler,
}
"""What the model and this machine need; checked after the modifications."""

FINAL_MODIFICATIONS: dict[str, Callable[[Parts, Any], None]] = {
    "quantization": _quantize,
    "compile": _compile,
}
"""Applied to a pipeline only, after all else."""
