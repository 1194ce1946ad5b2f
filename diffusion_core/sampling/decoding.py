"""Decoding latents in chunks, and finding values that are not finite before they are clamped.

The decoder is the pipeline's own; its `decode` is replaced for the length of one call.
"""

import contextlib
import traceback
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from nightpress.diffusion_core import patching
from nightpress.diffusion_core.errors import OutOfMemory, one_line
from nightpress.diffusion_core.sampling.faults import Fault

__all__ = ["Decoded", "DecoderWatch", "all_finite", "decode_in_chunks"]

HALF_PRECISION = (torch.float16, torch.bfloat16)
"""Types in which a decoder may overflow where float32 does not."""

DECODE = "decode images in chunks and see which of them are finite"


@contextlib.contextmanager
def decode_in_chunks(pipeline: Any, chunk_size: int | None) -> Iterator[None]:
    """Decode at most `chunk_size` images at once, always in the same shape; None: all at once.

    The last chunk is padded with its last image, so that no bit of an image depends on its place.

    Read against diffusers 0.42.1. Relies on the pipeline calling `vae.decode(latents, ...)`, which
    returns a tuple, or an output made of `sample` that can be indexed.
    """
    if chunk_size is None:
        yield
        return
    decode = patching.require(pipeline.vae, "decode", DECODE)

    def decode_chunks(latents: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        size = len(latents)
        if size <= chunk_size:
            return decode(latents, *args, **kwargs)
        padding = latents[-1:].expand(-size % chunk_size, *latents.shape[1:])
        chunks = torch.split(torch.cat([latents, padding]), chunk_size)
        # Beside the latents, LTX passes a timestep for each of them, all of one value.
        rest = [arg[:chunk_size] if _is_batch(arg, size) else arg for arg in args]
        decoded = [decode(chunk, *rest, **kwargs) for chunk in chunks]
        images = torch.cat([chunk[0] for chunk in decoded])[:size]
        return _like(decoded[0], images)

    with patching.shadowed(pipeline.vae, "decode", decode_chunks):
        yield


def _is_batch(value: Any, size: int) -> bool:
    """Whether an argument has a value for each of so many latents."""
    return isinstance(value, torch.Tensor) and value.shape[:1] == (size,)


@dataclass
class Decoded:
    """What is known on the device of the images that one call of a pipeline has decoded."""

    is_repaired: bool
    """Whether images that overflowed were decoded again in float32."""
    finite: list[torch.Tensor] = field(default_factory=list)
    """(B,) of bool for each decoding: which images were finite throughout."""
    overflowed: list[torch.Tensor] = field(default_factory=list)
    """(B,) of bool likewise: which of them a decoder in half precision could not hold."""


class DecoderWatch:
    """Watches the decoder of one sampler for images that are finite only before it.

    A decoder in half precision may overflow where float32 does not; the pipeline clamps infinities
    to white, so they must be found before that. Finding them makes the host wait for the device, so
    at first they are only noted on the device. Once a batch has such an image, `begins_repairs`
    says so, the caller samples that batch again, and from then on the host waits at every decoding
    and decodes such images in float32. An image has the same bits either way.
    """

    def __init__(self) -> None:
        self._repairs = False

    def begins_repairs(
        self, decoded: Decoded, faults: Collection[Fault | None], has_overflowed: bool
    ) -> bool:
        """Whether a batch must be sampled again, with repairs; may be asked in any thread.

        Args:
            decoded: of the batch.
            faults: what is wrong with each of its images.
            has_overflowed: whether `decoded.overflowed` has an image.
        """
        # A safety checker may have flagged an image that is not finite.
        is_suspect = not {Fault.NON_FINITE, Fault.FLAGGED}.isdisjoint(faults)
        begins = is_suspect and has_overflowed and not decoded.is_repaired
        self._repairs = self._repairs or begins
        return begins

    @contextlib.contextmanager
    def around_call(self, pipeline: Any, size: int, is_clip: bool = False) -> Iterator[Decoded]:
        """Yield what gets known, for each decoded batch, of its images.

        A clip that is alone in its call may be decoded in parts.

        Read against diffusers 0.42.1. Relies on what `decode_in_chunks` relies on, and on
        `vae.dtype`. Kandinsky calls its VAE `movq`.

        Raises:
            IncompatibleLibrary: the pipeline made its images without calling `vae.decode`.
        """
        found = Decoded(self._repairs)
        vae = getattr(pipeline, "vae", None) or getattr(pipeline, "movq", None)
        if vae is None:
            yield found
            return
        decode, called = patching.require(vae, "decode", DECODE), False
        alone = is_clip and size == 1

        def decode_watched(latents: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            nonlocal called
            called = True
            decoded = decode(latents, *args, **kwargs)
            if latents.shape[0] == size or alone:
                decoded, finite = self._checked(
                    found, vae, decode, decoded, latents, *args, **kwargs
                )
                found.finite.append(finite.all()[None] if alone else finite)
            return decoded

        shadow = _translate_out_of_memory(decode_watched)
        with _type_restored(vae), patching.shadowed(vae, "decode", shadow):
            yield found
        if not called:
            without = f"{type(pipeline).__name__} decodes without vae.decode"
            raise patching.incompatible(pipeline, without, DECODE)

    def _checked(
        self,
        found: Decoded,
        vae: Any,
        decode: Callable[..., Any],
        decoded: Any,
        latents: torch.Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Any, torch.Tensor]:
        """What was decoded, repaired if need be, and which images are finite throughout; (B,)."""
        finite_before = all_finite(latents)
        overflowed = finite_before & ~all_finite(decoded[0])
        if vae.dtype in HALF_PRECISION:
            if found.is_repaired and bool(overflowed.any()):
                decoded = _redecode_in_float32(
                    vae, decode, decoded, overflowed, latents, *args, **kwargs
                )
            found.overflowed.append(overflowed)
        return decoded, finite_before & all_finite(decoded[0])


@contextlib.contextmanager
def _type_restored(vae: Any) -> Iterator[None]:
    """Restore the type of a VAE's weights after a failure.

    Pipelines that decode in float32 leave the VAE in it when they fail.
    """
    dtype = vae.dtype
    try:
        yield
    except BaseException as error:
        if vae.dtype != dtype:
            _release_frames(error)
            vae.to(dtype)
        raise


def _release_frames(error: BaseException | None) -> None:
    """Free what the calls behind an error, and behind its causes, still hold in memory."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__


def _translate_out_of_memory(decode: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a decoder so that it raises our own OutOfMemory: some pipelines swallow torch's."""

    def decode_or_raise(*args: Any, **kwargs: Any) -> Any:
        try:
            return decode(*args, **kwargs)
        except torch.OutOfMemoryError as error:
            raise OutOfMemory(one_line(error) or "out of memory") from error

    return decode_or_raise


def _redecode_in_float32(
    vae: Any,
    decode: Callable[..., Any],
    decoded: Any,
    overflowed: torch.Tensor,
    latents: torch.Tensor,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Replace the images that overflowed, (B,) of bool, by those of a float32 decoder.

    Each is decoded alone, so that its bits do not depend on which others overflowed, and no more
    memory is needed than for one.
    """
    dtype, images, size = vae.dtype, decoded[0].clone(), len(latents)
    vae.to(torch.float32)
    try:
        for index in overflowed.nonzero().flatten().tolist():
            own = [_of_image(arg, index, size) for arg in args]
            named = {name: _of_image(arg, index, size) for name, arg in kwargs.items()}
            again = decode(latents[index : index + 1].float(), *own, **named)[0]
            images[index : index + 1] = again.to(images.dtype)
    finally:
        vae.to(dtype)
    return _like(decoded, images)


def _of_image(value: Any, index: int, size: int) -> Any:
    """The part of an argument that belongs to one image, if it has one for each of so many."""
    if _is_batch(value, size) or (isinstance(value, list | tuple) and len(value) == size):
        return value[index : index + 1]
    return value


def _like(decoded: Any, images: torch.Tensor) -> Any:
    """Wrap images in the type of output that the decoder returned."""
    return (images,) if isinstance(decoded, tuple) else type(decoded)(sample=images)


def verdict_on(images: torch.Tensor, decoded: Decoded) -> tuple[torch.Tensor, torch.Tensor]:
    """Which images were finite throughout, (B,), and whether any overflowed, (), both of bool.

    Args:
        images: (B, ...) as the pipeline returns them, where its decoder is or in host memory.
        decoded: what was noted while they were decoded.
    """
    finite = all_finite(images)
    for each in decoded.finite:
        finite = finite & each.to(finite.device)
    overflowed = torch.zeros_like(finite[0])
    for each in decoded.overflowed:
        overflowed = overflowed | each.to(finite.device).any()
    return finite, overflowed


def all_finite(values: torch.Tensor) -> torch.Tensor:
    """(B,) whether every value of each image of (B, ...) is finite."""
    return torch.isfinite(values).flatten(1).all(1)
