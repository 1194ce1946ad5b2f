"""Walks: clips whose frames a model of still images makes from interpolated noise and prompts.

A walk begins at a row's seed and prompt, and ends at its `to_seed` and `to_prompt`. Its first and
last frames are bit for bit the still images there; between them the noise is interpolated by
`slerp` and the embeddings of the prompts by `lerp`.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from nightpress.diffusion_core.conditioning.embedding_cache import Embedding
from nightpress.diffusion_core.errors import SamplingError, SettingsError
from nightpress.diffusion_core.sampling.batch_result import SampledBatch, clip_fault
from nightpress.diffusion_core.sampling.request import ImageRequest, SamplingParams
from nightpress.diffusion_core.theory.interpolation import lerp, slerp

SampleStills = Callable[[Sequence[ImageRequest], SamplingParams, int], SampledBatch]
"""Samples at most a batch of still images, at a batch size."""

LEAST_FRAMES = 2
"""A walk has a start and an end."""


@dataclass(frozen=True)
class BetweenPrompts:
    """A prompt whose embedding lies between those of two others."""

    start: str
    end: str
    at: float
    """0 (`start`) to 1 (`end`), both left out."""


class BetweenSeeds(torch.Generator):
    """A random generator whose normal numbers lie between those of two seeds.

    They do within `interpolating`, where it answers in place of `torch.randn`.
    """

    end: torch.Generator
    """That of the second seed; the generator itself is that of the first."""
    at: float
    """Where the numbers lie, above 0 and below 1."""

    @classmethod
    def of(cls, start: int, end: int, at: float) -> "BetweenSeeds":
        """The generator between two seeds; torch's own constructor takes only a device."""
        made = cls()
        made.manual_seed(start)
        made.end, made.at = torch.Generator("cpu").manual_seed(end), at
        return made

    def randn(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """What `torch.randn` draws for both seeds, interpolated."""
        start = torch.randn(*args, generator=self, **kwargs)
        return slerp(start, torch.randn(*args, generator=self.end, **kwargs), self.at)


class _Interpolating(TorchFunctionMode):
    """Gives `torch.randn` the numbers of a `BetweenSeeds`; torch's modes act in one thread only."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Called in place of each function of torch; while it runs, the mode is off."""
        values = dict(kwargs or {})
        generator = values.get("generator")
        if not isinstance(generator, BetweenSeeds):
            return func(*args, **values)
        if func is not torch.randn:
            name = getattr(func, "__name__", str(func))
            raise SamplingError(
                f"to_seed: this model draws with torch.{name}, and only normal random numbers can "
                "be interpolated"
            )
        del values["generator"]
        return generator.randn(*args, **values)


def generator_of(request: ImageRequest) -> torch.Generator:
    """The random generator of an image, or of a frame of a walk."""
    if request.to_seed is None:
        return torch.Generator("cpu").manual_seed(request.seed)
    return BetweenSeeds.of(request.seed, request.to_seed, request.at)


def prompt_of(request: ImageRequest) -> str | BetweenPrompts:
    """The prompt of an image, or of a frame of a walk."""
    if request.to_prompt is None:
        return request.prompt
    return BetweenPrompts(request.prompt, request.to_prompt, request.at)


def interpolating(requests: Sequence[ImageRequest]) -> contextlib.AbstractContextManager[Any]:
    """Within the block, generators between two seeds draw what lies between theirs.

    Functions of torch are slower within it, by some microseconds a call, so that it is entered only
    where a generator needs it.

    Read against diffusers 0.42.1 and torch 2.13.0. Relies on noise being drawn by `torch.randn`
    with `generator` as a keyword, as `randn_tensor` does.
    """
    needed = any(request.to_seed is not None for request in requests)
    return _Interpolating() if needed else contextlib.nullcontext()


def blend(start: Embedding, end: Embedding, at: float) -> dict[str, torch.Tensor]:
    """The embedding of a prompt that lies between two others.

    Cross-attention makes its keys and values of an embedding by linear maps, so that those of a
    point on a straight line lie on a straight line too. Where there are attention masks, the tokens
    of both prompts are read, and a token that only one of them has keeps its embedding.

    Args:
        start, end: embeddings of two prompts; tensors (1, ...) by name.
        at: above 0 and below 1.

    References: Wang & Golland 2023, arXiv:2307.12560, sec. 4, which interpolates the embeddings of
        prompts linearly and noise spherically.
    """
    mask = "prompt_attention_mask"
    mixed = {n: lerp(start[n], end[n], at) for n in start if n != mask}
    if mask in start:
        ours, theirs = start[mask].bool(), end[mask].bool()
        one, two, name = ours & ~theirs, theirs & ~ours, "prompt_embeds"
        mixed[name] = torch.where(one[..., None], start[name], mixed[name])
        mixed[name] = torch.where(two[..., None], end[name], mixed[name])
        mixed[mask] = torch.maximum(start[mask], end[mask])
    return mixed


def check_walk(request: ImageRequest, num_frames: int) -> None:
    """Check that a model of still images can make a clip of a request.

    Raises:
        SettingsError: the walk has fewer than two frames, no end, or its end is its start.
    """
    if num_frames < LEAST_FRAMES:
        raise SettingsError(f"num_frames {num_frames}: a walk has at least {LEAST_FRAMES} frames")
    if request.to_seed is None and request.to_prompt is None:
        raise SettingsError(
            f"num_frames {num_frames}: this model makes still images; it makes a clip of a row "
            "with a to_seed or a to_prompt, as nightpress walk writes them"
        )
    if _end_of(request) == _start_of(request):
        raise SettingsError(
            "a walk whose to_seed and to_prompt are its seed and prompt stays there"
        )


def require_no_ends(requests: Sequence[ImageRequest], reason: str) -> None:
    """Check that requests are no walks.

    Args:
        requests: of a batch.
        reason: why they cannot be.

    Raises:
        SettingsError: one is.
    """
    for name in ("to_seed", "to_prompt"):
        if any(getattr(request, name) is not None for request in requests):
            raise SettingsError(f"{name} is the end of a walk: {reason}")


def frames_of(request: ImageRequest, num_frames: int) -> Iterator[ImageRequest]:
    """The requests of the frames of a walk, in order, evenly spaced; the ends are still images."""
    yield _start_of(request)
    for place in range(1, num_frames - 1):
        yield replace(
            request,
            at=place / (num_frames - 1),
            to_seed=None if request.to_seed == request.seed else request.to_seed,
            to_prompt=None if request.to_prompt == request.prompt else request.to_prompt,
        )
    yield _end_of(request)


def _start_of(request: ImageRequest) -> ImageRequest:
    return replace(request, to_seed=None, to_prompt=None)


def _end_of(request: ImageRequest) -> ImageRequest:
    seed = request.seed if request.to_seed is None else request.to_seed
    prompt = request.prompt if request.to_prompt is None else request.to_prompt
    return replace(_start_of(request), seed=seed, prompt=prompt)


def sample_walks(
    requests: Sequence[ImageRequest], params: SamplingParams, batch_size: int, sample: SampleStills
) -> SampledBatch:
    """Sample a clip of each request: its frames are still images, sampled in full batches.

    Frames of several clips may share a batch: no bit of a frame depends on its companions.

    Args:
        requests: of the clips.
        params: the settings that all of them share; `num_frames` is set.
        batch_size: the shape of every batch of frames.
        sample: samples still images.

    Returns:
        Pixels (n, F, H, W, 3), and the fault of each clip.

    Raises:
        SettingsError: as `check_walk`.
    """
    number = params.num_frames or 0
    for request in requests:
        check_walk(request, number)
    still = replace(params, num_frames=None)
    frames = [frame for request in requests for frame in frames_of(request, number)]
    batches = [
        sample(frames[first : first + batch_size], still, batch_size)
        for first in range(0, len(frames), batch_size)
    ]
    pixels = np.concatenate([batch.pixels for batch in batches])
    pixels = pixels.reshape(len(requests), number, *pixels.shape[1:])
    faults = [fault for batch in batches for fault in batch.faults]
    found = (
        clip_fault(faults[first * number : (first + 1) * number], is_still=_is_still(clip))
        for first, clip in enumerate(pixels)
    )
    return SampledBatch(pixels, tuple(found))


def _is_still(clip: Any) -> bool:
    """Whether all frames of (F, H, W, 3) are the first."""
    return all(np.array_equal(frame, clip[0]) for frame in clip[1:])
