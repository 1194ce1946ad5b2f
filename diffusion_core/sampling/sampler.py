"""From requests to pixels: one batch of images through a loaded model.

Owns the noise of each image, the fixed shape of a batch, and the verdict on each result. The
loop itself is the diffusers pipeline's own. Knows nothing of files, plans or processes.

The law: an image's bits depend on its own request, the settings and the batch size; never on its
place in the batch, its companions or padding. Each image has its own CPU generator, its prompt is
encoded alone, and a batch always has the same shape. On a CPU this holds with one thread
(`torch.set_num_threads(1)`, the caller's to set): already two divide a matrix product by its
rows, and then the last bits of an image depend on where it stands.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from nightpress.diffusion_core.acceleration import apply, attention
from nightpress.diffusion_core.acceleration.compilation import remove_damaged_code
from nightpress.diffusion_core.errors import (
    DeviceError,
    OutOfMemory,
    SamplingError,
    SettingsError,
    one_line,
)
from nightpress.diffusion_core.models import pipeline_folder
from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.sampling import decoding, no_sync, per_image_guidance, schedulers
from nightpress.diffusion_core.sampling.copy_to_host import Copy, CopyStream
from nightpress.diffusion_core.sampling.prompt_embeddings import CACHE_BYTES, Conditioner, RowLora
from nightpress.diffusion_core.sampling.request import ImageRequest, SamplingParams

__all__ = ["Fault", "ImageRequest", "SampledBatch", "Sampler", "SamplingParams"]


class Fault(StrEnum):
    """What can be wrong with a sampled image, in words."""

    NON_FINITE = "its values are not finite"
    BLANK = "every pixel has the same colour"
    FLAGGED = "flagged by the model's safety checker"


DAMAGED_LIBRARIES = 32
"""Of compiled code that one batch may come upon: as many as processes that compile at once."""

OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "ALLOC_FAILED",
    "ALLOCATION_FAILED",
)
"""In what is said where memory is short: by torch's allocators, of which only CUDA's has an error
of its own, by the driver about memory that torch does not manage, by cuBLAS and cuDNN."""

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class SampledBatch:
    """The images of a batch, in the order of their requests."""

    made: Pixels | Copy
    """Their pixels, or these on their way off the device."""
    faults: tuple[Fault | None, ...]
    """Of each image: what is wrong with it, if anything is."""

    @property
    def pixels(self) -> Pixels:
        """(n, H, W, 3); black where values are not finite. Any thread may wait for them.

        Raises:
            DeviceError: the device failed; no image is to blame.
        """
        return self.made.numpy() if isinstance(self.made, Copy) else self.made


class Sampler:
    """Samples batches of fixed sizes with one model, in one thread; another one may `prepare`.

    Args:
        model: loaded.
        batch_size: the most that a batch holds, and what it is padded to unless told otherwise.
        cache_bytes: for encoded prompts.
    """

    def __init__(self, model: LoadedModel, batch_size: int, cache_bytes: int = CACHE_BYTES) -> None:
        self._model = model
        self._pipeline = model.pipeline
        self._batch_size = batch_size
        self._takes = pipeline_folder.call_parameters(type(model.pipeline))
        self._conditioner = Conditioner(model, cache_bytes)
        self._copies = CopyStream(model.device)
        self._prepares = False
        self._compiled: set[tuple[object, ...]] = set()
        self.supports_per_image_guidance = per_image_guidance.multiplies(model.pipeline)
        """Whether the images of a batch may have guidance scales of their own."""

    def sample(
        self,
        requests: Sequence[ImageRequest],
        params: SamplingParams,
        batch_size: int | None = None,
    ) -> SampledBatch:
        """Sample at most a batch of images; a shorter batch is padded with its last request.

        Args:
            requests: what each image asks for.
            params: what all of them share.
            batch_size: a smaller shape for this batch, where the usual one does not fit.

        Raises:
            SettingsError: a size, sampler, number of steps or negative prompt that the model
                cannot honour, or more requests than a batch holds.
            OutOfMemory: a smaller batch may fit.
            SamplingError: the pipeline failed.
        """
        size = batch_size or self._batch_size
        self._check(requests, params, size)
        self._model.row_loras.require(params.lora)
        groups = self._conditioner.alike([request.negative_prompt for request in requests])
        made = [
            self._sample_padded([requests[place] for place in places], params, size)
            for places in groups
        ]
        return made[0] if len(made) == 1 else _in_places(groups, made)

    def prepare(self, requests: Sequence[ImageRequest], params: SamplingParams) -> None:
        """Encode the prompts of images to come, which `sample` then finds encoded.

        May run in a thread of its own while `sample` runs in another. The bits are those that
        `sample` would have encoded, and each distinct prompt is encoded once, whoever comes first.

        Raises:
            OutOfMemory, DeviceError, SamplingError: as `sample` will, unless it went by.
        """
        self._prepares = True
        with _failures_named(type(self._pipeline).__name__):
            self._conditioner.prepare(*self._prompts(requests, params))

    def _check(
        self, requests: Sequence[ImageRequest], params: SamplingParams, batch_size: int
    ) -> None:
        if not 1 <= len(requests) <= batch_size:
            raise SettingsError(f"{len(requests)} requests; a batch holds 1 to {batch_size}")
        for side in ("width", "height"):
            pixels, multiple = getattr(params, side), self._model.size_multiple
            if pixels < multiple or pixels % multiple:
                raise SettingsError(f"{side} {pixels} is not a multiple of {multiple}")
        if self._model.speed.first_block_cache and batch_size > 1:
            raise SettingsError(
                f"a first_block_cache decides for a whole batch, so that holds 1, not {batch_size}"
            )
        for scale in _scales(requests, params):
            if scale != params.guidance_scale and not (
                self.supports_per_image_guidance and (scale > 1) == (params.guidance_scale > 1)
            ):
                raise SettingsError(f"guidance {scale} and {params.guidance_scale} in one batch")
        if not self._model.takes_negative_prompt and any(r.negative_prompt for r in requests):
            raise SettingsError(f"{type(self._pipeline).__name__} takes no negative prompt")

    def _sample_padded(
        self, requests: Sequence[ImageRequest], params: SamplingParams, batch_size: int
    ) -> SampledBatch:
        batch = [*requests, *[requests[-1]] * (batch_size - len(requests))]
        number, name = len(requests), type(self._pipeline).__name__
        with torch.inference_mode(), self._unheard(params, batch_size):
            images, finite, flagged = self._run_sound(batch, params)
        with torch.inference_mode(), _failures_named(name):
            images = images.masked_fill(~finite.view(-1, 1, 1, 1), 0)
            # Rounded where they were made: a quarter of the bytes is left to copy.
            pixels = (images[:number] * 255).round().to(torch.uint8)
            pixels = pixels.permute(0, 2, 3, 1).contiguous()
            copy = self._copies.copy_to_host(pixels)
            blank = (pixels == pixels[:, :1, :1]).flatten(1).all(1)
            # The end of the batch: what failed on the device is told here at the latest.
            verdicts = torch.stack([finite[:number], blank]).tolist()
        return SampledBatch(copy, tuple(map(_fault, *verdicts, flagged)))

    @contextlib.contextmanager
    def _unheard(self, params: SamplingParams, batch_size: int) -> Iterator[None]:
        """Nobody encodes beside a batch that would send a text encoder other ways.

        Two switches of torch's are of the whole process: the kernel of attention that is chosen,
        and `torch.compiler.is_compiling`, which may be on at the first batch of a kind. What was
        sampled before anyone prepared may have been a trial, which compiles nothing.
        """
        speed = self._model.speed
        kind = (*astuple(replace(params, guidance_scale=params.guidance_scale > 1)), batch_size)
        may_compile = speed.compile is not None and kind not in self._compiled
        if not may_compile and speed.attention_backend not in attention.KERNELS:
            yield
            return
        with self._conditioner.alone():
            yield
        if may_compile and self._prepares:
            self._compiled.add(kind)

    def _run_sound(
        self, batch: Sequence[ImageRequest], params: SamplingParams
    ) -> tuple[torch.Tensor, torch.Tensor, Sequence[bool]]:
        """As `_run`; where compiled code on disk is damaged, once more without that."""
        for _ in range(DAMAGED_LIBRARIES):
            try:
                return self._run(batch, params)
            except SamplingError as error:
                if not remove_damaged_code(error.__cause__):
                    raise
        return self._run(batch, params)

    def _run(
        self, batch: Sequence[ImageRequest], params: SamplingParams
    ) -> tuple[torch.Tensor, torch.Tensor, Sequence[bool]]:
        """The pipeline's call: float32 images (B, 3, H, W) in 0..1, which are finite, flagged."""
        pipeline = self._pipeline
        pipeline.scheduler = self._scheduler(params)
        speed = self._model.speed
        with apply.at_work(pipeline, speed), _failures_named(type(pipeline).__name__):
            self._use_lora(params)
            arguments = self._settings(batch, params) | self._conditioning(batch, params)
            with (
                decoding.in_parts(pipeline, speed.vae_batch_size),
                decoding.watched(pipeline, len(batch)) as decoded,
                np.errstate(invalid="ignore"),
            ):
                output = pipeline(**arguments)
            images = _images(output, (len(batch), 3, params.height, params.width))
            finite = decoding.finite(images)
            for each in decoded:
                finite = finite & each.to(finite.device)
        flags = getattr(output, "nsfw_content_detected", None) or [False] * len(batch)
        return images, finite, flags

    def _use_lora(self, params: SamplingParams) -> None:
        """A pipeline that encodes prompts itself does so with what denoises them."""
        self._model.row_loras.denoise_with(params.lora, params.lora_scale)
        if not self._conditioner.encodes:
            self._model.row_loras.encode_with(params.lora, params.lora_scale)

    def _scheduler(self, params: SamplingParams) -> Any:
        scheduler = schedulers.make(params.scheduler, self._model.scheduler_config)
        schedulers.check_steps(scheduler, params.num_inference_steps)
        for spare_a_wait in (
            no_sync.bring_without_waiting,
            no_sync.solve_without_waiting,
            no_sync.keep_at_hand,
        ):
            scheduler = spare_a_wait(scheduler)
        return scheduler

    def _conditioning(
        self, batch: Sequence[ImageRequest], params: SamplingParams
    ) -> dict[str, Any]:
        return self._conditioner.arguments(*self._prompts(batch, params))

    def _prompts(
        self, requests: Sequence[ImageRequest], params: SamplingParams
    ) -> tuple[list[str], list[str], bool, RowLora]:
        """Prompts, negative prompts, whether these are used at all, and the LoRA for both."""
        guided = params.guidance_scale > 1 or "true_cfg_scale" in self._takes
        negatives = [request.negative_prompt for request in requests]
        lora = (params.lora, params.lora_scale)
        return [request.prompt for request in requests], negatives, guided, lora

    def _settings(self, batch: Sequence[ImageRequest], params: SamplingParams) -> dict[str, Any]:
        settings = {
            "width": params.width,
            "height": params.height,
            "num_inference_steps": params.num_inference_steps,
            "guidance_scale": per_image_guidance.scale_of_rows(_scales(batch, params)),
            "generator": [torch.Generator("cpu").manual_seed(r.seed) for r in batch],
            "output_type": "pt",
            # The size asked for, not the nearest of a table, resized.
            "use_resolution_binning": False,
            # Cleaning depends on what else is installed, and pixels must not.
            "clean_caption": False,
        }
        return {name: value for name, value in settings.items() if name in self._takes}


def _scales(requests: Sequence[ImageRequest], params: SamplingParams) -> list[float]:
    """The guidance scale of each image."""
    own = (request.guidance_scale for request in requests)
    return [params.guidance_scale if scale is None else scale for scale in own]


def _in_places(groups: Sequence[Sequence[int]], made: Sequence[SampledBatch]) -> SampledBatch:
    """One batch of several, whose images have these places in it."""
    order = np.argsort(np.concatenate(groups))
    faults = [fault for batch in made for fault in batch.faults]
    pixels = np.concatenate([batch.pixels for batch in made])
    return SampledBatch(pixels[order], tuple(faults[place] for place in order))


def _fault(finite: bool, blank: bool, flagged: bool) -> Fault | None:
    """What is wrong with an image."""
    if flagged:
        return Fault.FLAGGED
    if not finite:
        return Fault.NON_FINITE
    return Fault.BLANK if blank else None


def _images(output: Any, shape: tuple[int, ...]) -> torch.Tensor:
    """The images of a pipeline's output, float32 (B, 3, H, W), where they were made."""
    images = getattr(output, "images", None)
    if isinstance(images, np.ndarray):  # some know `output_type` "pil" and take all else for this
        images = torch.from_numpy(images).permute(0, 3, 1, 2)
    if not isinstance(images, torch.Tensor) or images.shape != shape:
        found = tuple(images.shape) if isinstance(images, torch.Tensor) else type(images).__name__
        raise SamplingError(f"the pipeline made {found} where images {shape} were asked for")
    return images.to(torch.float32)


@contextlib.contextmanager
def _failures_named(pipeline: str) -> Iterator[None]:
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
