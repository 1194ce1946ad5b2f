"""What is done around a pipeline's decoder: smaller parts, and an eye on what is not finite.

Owns how latents become images where memory or half precision stands in the way. The decoder is
the pipeline's own, shadowed for one call. Knows nothing of prompts, samplers or batches of rows.
"""

import contextlib
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import torch

from nightpress.diffusion_core.errors import OutOfMemory, one_line
from nightpress.diffusion_core.patching import shadowed

__all__ = ["finite", "in_parts", "watched"]

HALVES = (torch.float16, torch.bfloat16)
"""In which a decoder may lose what float32 holds."""


@contextlib.contextmanager
def in_parts(pipeline: Any, part_size: int | None) -> Iterator[None]:
    """Have the decoder work on so many images at once, always in the same shape.

    The last part is padded with its last image, so that no bit depends on where an image stands.
    """
    if part_size is None:
        yield
        return
    decode = pipeline.vae.decode

    def decode_parts(latents: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        size = len(latents)
        if size <= part_size:
            return decode(latents, *args, **kwargs)
        padded = torch.cat([latents, latents[-1:].expand(-size % part_size, *latents.shape[1:])])
        parts = [decode(part, *args, **kwargs) for part in torch.split(padded, part_size)]
        whole = torch.cat([part[0] for part in parts])[:size]
        return (whole,) if isinstance(parts[0], tuple) else type(parts[0])(sample=whole)

    with shadowed(pipeline.vae, "decode", decode_parts):
        yield


@contextlib.contextmanager
def watched(pipeline: Any, batch_size: int) -> Iterator[list[torch.Tensor]]:
    """Watch the decoder: which images went in and came out finite, (B,) of bool for each call.

    Infinities end as white once the pipeline clamps them, so they must be seen before. Only where
    the decoder works in half precision, and may have to do it again, is the device waited for.
    """
    seen: list[torch.Tensor] = []
    vae = getattr(pipeline, "vae", None)
    if vae is None:
        yield seen
        return
    decode, dtype = vae.decode, vae.dtype

    def decode_watched(latents: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        decoded = decode(latents, *args, **kwargs)
        if latents.shape[0] != batch_size:
            return decoded
        sampled = finite(latents)
        if vae.dtype in HALVES and bool((sampled & ~finite(decoded[0])).any()):
            decoded = _mended(vae, decode, decoded, latents, *args, **kwargs)
        seen.append(sampled & finite(decoded[0]))
        return decoded

    try:
        with shadowed(vae, "decode", _telling_of_memory(decode_watched)):
            yield seen
    except BaseException as error:
        if vae.dtype != dtype:  # pipelines that decode in float32 leave it at that when they fail
            _let_go(error)
            vae.to(dtype)
        raise


def _let_go(error: BaseException | None) -> None:
    """Have an error, and those behind it, hold on to nothing that its calls had in memory."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__


def _telling_of_memory(decode: Callable[..., Any]) -> Callable[..., Any]:
    """The decoder, whose want of memory is an error of ours: some pipelines swallow torch's."""

    def telling(*args: Any, **kwargs: Any) -> Any:
        try:
            return decode(*args, **kwargs)
        except torch.OutOfMemoryError as error:
            raise OutOfMemory(one_line(error) or "out of memory") from error

    return telling


def _mended(
    vae: Any,
    decode: Callable[..., Any],
    decoded: Any,
    latents: torch.Tensor,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """What a decoder in half precision lost, decoded again in float32; the rest stays as it was.

    The whole batch is decoded, so that a row's bits do not depend on which others were lost.
    """
    dtype, images = vae.dtype, decoded[0]
    vae.to(torch.float32)
    try:
        again = decode(latents.float(), *args, **kwargs)[0]
    finally:
        vae.to(dtype)
    whole = torch.where(finite(images).view(-1, 1, 1, 1), images, again.to(images.dtype))
    return (whole,) if isinstance(decoded, tuple) else type(decoded)(sample=whole)


def finite(values: torch.Tensor) -> torch.Tensor:
    """(B,) whether each of (B, ...) is finite as a whole."""
    return torch.isfinite(values).flatten(1).all(1)
