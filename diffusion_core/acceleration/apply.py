"""How a model is made faster: each choice of a job, done to a pipeline or refused before anything.

Owns the table of choices. `spec.py` says what can be chosen. Whether a model can take it
is tried on a skeleton: its own networks, made from their configurations without a weight.
"""

import contextlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from nightpress.diffusion_core.acceleration import attention, quantization
from nightpress.diffusion_core.acceleration.clock import Clock
from nightpress.diffusion_core.acceleration.compilation import keep_compiled_code, require_compiler
from nightpress.diffusion_core.acceleration.deepcache import reusing_deep_features
from nightpress.diffusion_core.acceleration.spec import DeepFeaturesSpec, SpeedSpec
from nightpress.diffusion_core.errors import ModelError, SamplingError, SettingsError

DENOISERS = ("transformer", "unet")
"""The components that are asked at every step, of which a pipeline has one."""

MAX_GRAPHS = 1024
"""Compiled shapes of one function: beyond it torch would go on uncompiled, with other bits."""


@dataclass(frozen=True)
class Parts:
    """What can be made faster, of a pipeline or of its skeleton."""

    pipeline: Any
    owner: Any
    """The pipeline's class."""
    dtype: str = ""
    """As the job has it."""
    takes_negative_prompt: bool = False
    """The pipeline may ask its denoiser twice a step, with the prompt and with the negative one."""
    elsewhere: bool = False
    """Another machine is to sample with it, so what this one lacks does not matter."""

    @property
    def denoiser(self) -> Any:
        """The transformer or U-Net."""
        found = [getattr(self.pipeline, name, None) for name in DENOISERS]
        return next((network for network in found if network is not None), None)

    @property
    def vae(self) -> Any:
        """The autoencoder; None where there is none."""
        return getattr(self.pipeline, "vae", None)


def check(parts: Parts, speed: SpeedSpec) -> None:
    """See, without a weight, that a model and this machine can do what is chosen.

    Args:
        parts: of the pipeline's skeleton.
        speed: what is chosen.

    Raises:
        ModelError: one of the choices cannot be had; what can, is in the message.
    """
    if parts.denoiser is None:
        raise ModelError(f"model.speed: {parts.owner.__name__} has neither transformer nor unet")
    _do(parts, speed, REBUILDING)
    _do(parts, speed, REQUIREMENTS)


def apply(parts: Parts, speed: SpeedSpec) -> None:
    """Do to a loaded pipeline what is chosen; LoRAs are in it already.

    Raises:
        ModelError: as `check` does.
    """
    _do(parts, speed, REBUILDING)
    _do(parts, speed, REQUIREMENTS)
    _do(parts, speed, FINISHING)


@contextlib.contextmanager
def at_work(pipeline: Any, speed: SpeedSpec) -> Iterator[None]:
    """For one call of the pipeline, what must be set up around it and put back afterwards."""
    parts = Parts(pipeline, type(pipeline))
    with contextlib.ExitStack() as stack:
        if speed.deep_features is not None:
            stack.enter_context(_deep_features(parts, speed.deep_features))
        if speed.compile is not None:
            stack.enter_context(_one_graph_a_shape())
        if speed.caches:
            parts.denoiser._reset_stateful_cache()  # what a call that failed has left
        yield


def _do(parts: Parts, speed: SpeedSpec, table: dict[str, Callable[[Parts, Any], None]]) -> None:
    for name, do in table.items():
        if name not in speed.chosen():
            continue
        try:
            do(parts, getattr(speed, name))
        except SettingsError as error:
            raise ModelError(f"model.speed.{name}: {error}") from error


def _kind(network: Any) -> str:
    return type(network).__name__


def _fuse_qkv(parts: Parts, _: bool) -> None:
    from diffusers.models.attention import AttentionModuleMixin
    from diffusers.models.attention_processor import Attention

    kind = _kind(parts.denoiser)
    fuse = getattr(parts.denoiser, "fuse_qkv_projections", None)
    if fuse is None:
        raise SettingsError(f"{kind} has no such method in diffusers")
    try:
        fuse()
    except ValueError as error:  # networks with projections of their own
        raise SettingsError(f"{kind}: {error}") from error
    layers = [
        m for m in parts.denoiser.modules() if isinstance(m, Attention | AttentionModuleMixin)
    ]
    if not any(layer.fused_projections for layer in layers):
        raise SettingsError(f"{kind} has no attention whose projections can be fused")


def _channels_last(parts: Parts, _: bool) -> None:
    convolutions = [m for m in parts.denoiser.modules() if isinstance(m, nn.Conv2d)]
    if len(convolutions) < 2:
        raise SettingsError(f"{_kind(parts.denoiser)} is no network of convolutions, as U-Nets are")
    for network in (parts.denoiser, parts.vae):
        if network is not None:
            network.to(memory_format=torch.channels_last)


def _attention_backend(parts: Parts, backend: str) -> None:
    attention.use(parts.denoiser, backend)
    if not parts.elsewhere:
        attention.require(backend)


def _vae_batch_size(parts: Parts, _: int) -> None:
    if not hasattr(parts.vae, "decode"):
        raise SettingsError(f"{parts.owner.__name__} has no VAE that decodes")


def _force_upcast(parts: Parts, _: bool) -> None:
    pipeline = parts.owner.__name__
    names = inspect.unwrap(parts.owner.__call__).__code__.co_names
    if "force_upcast" not in names or not parts.vae.config.force_upcast:
        raise SettingsError(f"{pipeline} does not decode this VAE in float32 anyhow")
    if parts.dtype != "float16":
        raise SettingsError(f"{pipeline} decodes in float32 with model.dtype: float16 only")
    parts.vae.register_to_config(force_upcast=False)


def _deep_features(
    parts: Parts, chosen: DeepFeaturesSpec
) -> contextlib.AbstractContextManager[Any]:
    return reusing_deep_features(parts.denoiser, chosen.interval, chosen.branch)


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
            f"{parts.owner.__name__} may ask twice a step, and the answers would be mixed up"
        )
    clock = Clock(parts.pipeline)
    _enable(
        parts,
        PyramidAttentionBroadcastConfig(**chosen.model_dump(), current_timestep_callback=clock.now),
    )


def _require_cacheable(parts: Parts) -> None:
    from diffusers import CacheMixin

    if not isinstance(parts.denoiser, CacheMixin):
        raise SettingsError(
            f"{_kind(parts.denoiser)} takes no cache in diffusers; FLUX and its kin do, and "
            "deep_features are for U-Nets"
        )


def _require_contexts(parts: Parts) -> None:
    """A cache keeps guided and unguided calls apart by what the pipeline tells it of them."""
    _require_cacheable(parts)
    if "cache_context" not in inspect.unwrap(parts.owner.__call__).__code__.co_names:
        raise SettingsError(f"{parts.owner.__name__} does not tell caches which call it makes")


def _enable(parts: Parts, config: Any) -> None:
    kind = _kind(parts.denoiser)
    try:
        parts.denoiser.enable_cache(config)
    except (ValueError, LookupError) as error:  # blocks that it does not know, or has too few of
        raise SettingsError(f"{kind}: {error}") from error
    hooked = [m for m in parts.denoiser.modules() if getattr(m, "_diffusers_hook", None)]
    if all(module is parts.denoiser for module in hooked):
        raise SettingsError(f"{kind} has no layer that this cache knows")


def _require_quantization(parts: Parts, name: str) -> None:
    if not any(isinstance(module, nn.Linear) for module in parts.denoiser.modules()):
        raise SettingsError(f"{_kind(parts.denoiser)} has no matrix products")
    if name.startswith("float8_dynamic") and parts.dtype in ("float32", "float16"):
        raise SettingsError(f"{name} needs model.dtype: bfloat16, not {parts.dtype}")
    if not parts.elsewhere:
        quantization.require(name)


def _quantize(parts: Parts, name: str) -> None:
    quantization.quantize(parts.denoiser, name)


def _require_compiler(parts: Parts, which: str) -> None:
    if which == "regional" and not _repeated(parts.denoiser):
        raise SettingsError(f"{_kind(parts.denoiser)} names no blocks that it repeats; full does")
    if not parts.elsewhere:
        require_compiler()


def _repeated(denoiser: Any) -> list[nn.Module]:
    names = getattr(denoiser, "_repeated_blocks", None) or ()
    return [module for module in denoiser.modules() if _kind(module) in names]


def _compile(parts: Parts, which: str) -> None:
    """Compiled code is kept on disk: another process, or another day, finds it there."""
    keep_compiled_code()
    if which == "regional":
        parts.denoiser.compile_repeated_blocks(dynamic=False)
        return
    parts.denoiser.compile(dynamic=False)
    decoder = getattr(parts.vae, "decoder", None)
    if decoder is not None:
        decoder.compile(dynamic=False)


@contextlib.contextmanager
def _one_graph_a_shape() -> Iterator[None]:
    """Never one graph for several shapes, and never none: bits must not depend on what came before.

    Where torch can, kernels are chosen without timing them too.
    """
    import torch._dynamo
    import torch._inductor

    limits = {
        "recompile_limit": MAX_GRAPHS,
        "accumulated_recompile_limit": 16 * MAX_GRAPHS,
        "fail_on_recompile_limit_hit": True,
    }
    kernels = torch._inductor.config
    deterministic = {"deterministic": True} if hasattr(kernels, "deterministic") else {}
    try:
        with torch._dynamo.config.patch(limits), kernels.patch(deterministic):
            yield
    except torch._dynamo.exc.FailOnRecompileLimitHit as error:
        raise SamplingError(
            f"more than {MAX_GRAPHS} shapes or LoRA scales for one compiled function"
        ) from error


REBUILDING: dict[str, Callable[[Parts, Any], None]] = {
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
"""Done to a skeleton first, then to the pipeline; in this order, as fused layers are new ones."""

REQUIREMENTS: dict[str, Callable[[Parts, Any], None]] = {
    "quantization": _require_quantization,
    "compile": _require_compiler,
}
FINISHING: dict[str, Callable[[Parts, Any], None]] = {
    "quantization": _quantize,
    "compile": _compile,
}
"""Done to a pipeline only, last of all."""
