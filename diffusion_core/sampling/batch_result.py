"""What comes out of a batch: its images, what is wrong with them, and the errors of a pipeline."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch

from nightpress.diffusion_core.conditioning.spec import Pixels
from nightpress.diffusion_core.errors import DeviceError, OutOfMemory, SamplingError, one_line
from nightpress.diffusion_core.sampling.copy_to_host import Copy, CopyStream
from nightpress.diffusion_core.sampling.faults import Fault

OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "ALLOC_FAILED",
    "ALLOCATION_FAILED",
)
"""Parts of the messages that mean a lack of memory: from torch's allocators, of which only CUDA's
has an error class of its own; from the driver, about memory that torch does not manage; and from
cuBLAS and cuDNN."""


@dataclass(frozen=True)
class SampledBatch:
    """The images or clips of a batch, in the order of their requests."""

    data: Pixels | Copy
    """The pixels, or a copy of them that is still on its way from the device."""
    faults: tuple[Fault | None, ...]
    """What is wrong with each image; None where nothing is."""

    @property
    def pixels(self) -> Pixels:
        """(n, H, W, 3), or (n, F, H, W, 3) for clips of F frames.

        Black where values are not finite. Waits for the copy, in any thread.

        Raises:
            DeviceError: the device failed; no image is to blame.
        """
        return self.data.numpy() if isinstance(self.data, Copy) else self.data

    @property
    def is_done(self) -> bool:
        """Whether nothing more is awaited of the device than the copy of the pixels."""
        return True

    @property
    def must_be_repeated(self) -> bool:
        """Whether the batch has to be sampled again. Waits for the device, in any thread."""
        return False

    def settled(self) -> "SampledBatch":
        """The batch once its faults are known; only in the thread that has sampled it."""
        return self

    def after(self, earlier: Self) -> Self:
        """The batch with the faults of the images that it was made from, which come first."""
        faults = (old or new for old, new in zip(earlier.faults, self.faults, strict=True))
        return replace(self, faults=tuple(faults))


class BatchInFlight(SampledBatch):
    """A batch on which the device may still be at work, so that another can be queued behind it.

    Its faults are read where they are asked for. In the thread that has sampled it, this samples it
    again if need be; other threads ask `must_be_repeated` first.

    Args:
        images: (n, 3, H, W) or (n, F, 3, H, W), float32 in 0..1.
        finite: (n,) whether the values of each are finite.
        flagged: (n,) whether a safety checker has flagged it.
        overflowed: () whether a decoder in half precision has overflowed.
        copies: copies what is known to host memory.
        is_repeated: given the faults and whether a decoder has overflowed, whether the batch must
            be sampled again.
        repeat: samples it again; the device is not at work on that batch any more.
    """

    def __init__(
        self,
        images: torch.Tensor,
        finite: torch.Tensor,
        overflowed: torch.Tensor,
        flagged: Sequence[bool],
        copies: CopyStream,
        is_repeated: Callable[[tuple[Fault | None, ...], bool], bool],
        repeat: Callable[[], SampledBatch],
    ) -> None:
        images = images.masked_fill(~finite.view(-1, *[1] * (images.ndim - 1)), 0)
        # Rounded on the device: a quarter of the bytes is left to copy.
        pixels = (images * 255).round().to(torch.uint8).movedim(-3, -1).contiguous()
        facts = facts_of(pixels, finite)
        self._facts = copies.copy_to_host(torch.stack([*facts, overflowed.expand(len(pixels))]))
        self._flagged = flagged
        self._copy = copies.copy_to_host(pixels)
        self._is_repeated = is_repeated
        self._repeat: Callable[[], SampledBatch] | None = repeat
        self._thread = threading.get_ident()
        self._lock = threading.Lock()
        self._found: tuple[tuple[Fault | None, ...], bool] | None = None
        self._settled: SampledBatch | None = None

    @property
    def is_done(self) -> bool:
        """Whether the device was done with it at once, as a CPU is; see `SampledBatch`."""
        return self._facts.is_done

    @property
    def data(self) -> Pixels | Copy:
        """See `SampledBatch`."""
        return self._result().data

    @property
    def faults(self) -> tuple[Fault | None, ...]:
        """See `SampledBatch`. Waits for the device.

        Raises:
            DeviceError: the device failed; no image is to blame.
        """
        return self._result().faults

    @property
    def must_be_repeated(self) -> bool:
        """See `SampledBatch`.

        Raises:
            DeviceError: the device failed; no image is to blame.
        """
        return self._verdict()[1]

    def settled(self) -> SampledBatch:
        """See `SampledBatch`; samples the batch again if it must be."""
        if self._settled is None and self.must_be_repeated and self._repeat is not None:
            self._settled = self._repeat()
            self._repeat = None
        return self._result()

    def _result(self) -> SampledBatch:
        if self._settled is not None:
            return self._settled
        faults, must_be_repeated = self._verdict()
        if not must_be_repeated:
            return SampledBatch(self._copy, faults)
        if threading.get_ident() == self._thread:
            return self.settled()
        raise SamplingError("a batch that must be sampled again was read in another thread")

    def _verdict(self) -> tuple[tuple[Fault | None, ...], bool]:
        """The faults, and whether the batch must be sampled again."""
        *facts, overflowed = self._facts.tensor().tolist()
        with self._lock:
            if self._found is None:
                faults = tuple(map(_fault_of, *facts, self._flagged))
                self._found = faults, self._is_repeated(faults, any(overflowed))
                if not self._found[1]:
                    self._repeat = None  # it holds the pictures of the batch, which are large
            return self._found


def merge(groups: Sequence[Sequence[int]], batches: Sequence[SampledBatch]) -> SampledBatch:
    """Merge batches into one; `groups` holds the indices of each batch's images in it."""
    order = np.argsort(np.concatenate(groups))
    faults = [fault for batch in batches for fault in batch.faults]
    pixels = np.concatenate([batch.pixels for batch in batches])
    return SampledBatch(pixels[order], tuple(faults[index] for index in order))


def facts_of(pixels: torch.Tensor, finite: torch.Tensor) -> Iterator[torch.Tensor]:
    """What decides the faults of the images or clips of a batch: finite, blank, still; (n,) each.

    Nothing waits for the device. A clip is blank if every frame has one colour.

    Args:
        pixels: (n, H, W, 3) or (n, F, H, W, 3), uint8.
        finite: (n,) whether its values, before they became pixels, are finite.
    """
    yield finite
    blank = (pixels == pixels[..., :1, :1, :]).flatten(1).all(1)
    yield blank
    if pixels.ndim == 5:
        yield (pixels == pixels[:, :1]).flatten(1).all(1)
    else:
        yield torch.zeros_like(blank)


def _fault_of(finite: bool, blank: bool, still: bool, flagged: bool) -> Fault | None:
    if flagged:
        return Fault.FLAGGED
    if not finite:
        return Fault.NON_FINITE
    if blank:
        return Fault.BLANK
    return Fault.STILL if still else None


def clip_fault(frames: Sequence[Fault | None], is_still: bool) -> Fault | None:
    """What is wrong with a clip.

    One frame that is flagged or not finite spoils it; it is blank if every frame is of one colour.

    Args:
        frames: what is wrong with each frame.
        is_still: whether all frames are equal.
    """
    for fault in (Fault.FLAGGED, Fault.NON_FINITE):
        if fault in frames:
            return fault
    if all(fault is Fault.BLANK for fault in frames):
        return Fault.BLANK
    return Fault.STILL if is_still else None


def images_of(output: Any, shape: tuple[int, ...]) -> torch.Tensor:
    """The images of a pipeline's output, float32 (B, 3, H, W), on whatever device they are.

    Those of a clip are (B, F, 3, H, W).

    Qwen-Image 2.1 makes transparent ones, which are laid on white.
    """
    names = ("images", "image", "frames")
    images = next((getattr(output, name) for name in names if hasattr(output, name)), None)
    if isinstance(images, np.ndarray):  # some pipelines treat every `output_type` but "pil" as "np"
        images = torch.from_numpy(images).permute(0, 3, 1, 2)
    if isinstance(images, torch.Tensor) and images.ndim == 4 and images.shape[1] == 4:
        opacity = images[:, 3:].to(torch.float32)
        images = images[:, :3] * opacity + (1 - opacity)
    if not isinstance(images, torch.Tensor) or images.shape != shape:
        found = tuple(images.shape) if isinstance(images, torch.Tensor) else type(images).__name__
        raise SamplingError(f"the pipeline returned {found}, expected images of shape {shape}")
    return images.to(torch.float32)


def flags_of(output: Any, number: int) -> Sequence[bool]:
    """Which images of a pipeline's output its safety checker has flagged; DeepFloyd IF has two."""
    names = ("nsfw_content_detected", "nsfw_detected", "watermark_detected")
    found = [flags for name in names if (flags := getattr(output, name, None))]
    return [any(bool(flags[index]) for flags in found) for index in range(number)]


@contextlib.contextmanager
def as_sampling_error(pipeline: str) -> Iterator[None]:
    """Turn what a pipeline raises into a SamplingError of one line; the cause stays attached."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemory(one_line(error) or "out of memory") from error
    except (RuntimeError, ValueError, TypeError, LookupError, AssertionError) as error:
        reason = one_line(error)
        if isinstance(error, RuntimeError) and any(text in reason for text in OUT_OF_MEMORY):
            raise OutOfMemory(reason) from error
        if isinstance(error, torch.AcceleratorError):
            raise DeviceError(f"{type(error).__name__}: {reason}") from error
        raise SamplingError(f"{pipeline}: {type(error).__name__}: {reason}") from error
