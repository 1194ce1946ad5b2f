"""Sampling: one batch of images, from requests to pixels, with a loaded model.

Owns the noise of each image, the fixed shape of a batch, and the verdict on each result. The
denoising loop is the diffusers pipeline's own.

Batch invariance: an image's bits depend on its own request, the settings and the batch size; never
on its place in the batch, on the other images or on padding. Each image has its own CPU generator,
its prompt is encoded alone, and a batch always has the same shape. On a CPU this holds with one
thread (`torch.set_num_threads(1)`, which the caller must set): two threads already divide a matrix
product by its rows, and then the last bits of an image depend on its place in the batch.
"""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import astuple, replace
from typing import Any

import numpy as np
import torch

from nightpress.diffusion_core.acceleration import apply, attention
from nightpress.diffusion_core.acceleration.compilation import remove_damaged_code
from nightpress.diffusion_core.conditioning import (
    arguments,
    checking,
    control_patches,
    controls,
    edits,
)
from nightpress.diffusion_core.conditioning.network_configs import any_number_of_channels
from nightpress.diffusion_core.conditioning.pipelines import ModePipelines
from nightpress.diffusion_core.conditioning.references import ReferenceEncoder
from nightpress.diffusion_core.conditioning.spec import TEXT_ALONE
from nightpress.diffusion_core.conditioning.uploads import PictureStage
from nightpress.diffusion_core.errors import (
    SamplingError,
    SettingsError,
)
from nightpress.diffusion_core.models import family_rules, pipeline_folder
from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.sampling import (
    call_uploads,
    clips,
    decoding,
    no_sync,
    per_image_guidance,
    schedulers,
    walks,
)
from nightpress.diffusion_core.sampling.batch_checks import check_batch
from nightpress.diffusion_core.sampling.batch_result import (
    BatchInFlight,
    SampledBatch,
    as_sampling_error,
    flags_of,
    images_of,
    merge,
)
from nightpress.diffusion_core.sampling.call_arguments import (
    guidance_scales,
    padded,
    without_nones,
)
from nightpress.diffusion_core.sampling.copy_to_host import CopyStream
from nightpress.diffusion_core.sampling.faults import Fault
from nightpress.diffusion_core.sampling.prompt_embeddings import (
    CACHE_BYTES,
    Conditioner,
    Prompt,
    RowLora,
)
from nightpress.diffusion_core.sampling.request import (
    ImageRequest,
    SamplingParams,
    with_init_image,
)

__all__ = ["Fault", "ImageRequest", "SampledBatch", "Sampler", "SamplingParams"]


MAX_DAMAGED_LIBRARIES = 32
"""Damaged compiled libraries that one batch may run into: one for each process that compiles at the
same time."""


class Sampler:
    """Samples batches of fixed sizes with one model, in one thread; another may call `prepare`.

    Args:
        model: the loaded model.
        batch_size: the most images that a batch holds; shorter batches are padded to it.
        cache_bytes: host memory for encoded prompts.

    Raises:
        IncompatibleLibrary: an upgrade of diffusers has moved what sampling replaces.
    """

    def __init__(self, model: LoadedModel, batch_size: int, cache_bytes: int = CACHE_BYTES) -> None:
        self._model = model
        self._pipeline = model.pipeline
        self._name = type(model.pipeline).__name__
        self._modes = ModePipelines(model)
        self._batch_size = batch_size
        self._conditioner = Conditioner(model, cache_bytes)
        self._references = ReferenceEncoder(model)
        self._schedulers = schedulers.Schedulers(model.scheduler_config)
        self._copies = CopyStream(model.device)
        self._stage = PictureStage()
        self._decoder = decoding.DecoderWatch()
        self._has_prepared = False
        self._compiled: set[tuple[object, ...]] = set()
        """Settings, batch sizes and numbers of chunks for which everything is compiled already."""
        self.supports_per_image_guidance = per_image_guidance.is_supported(model.pipeline)
        """Whether the images of one batch may differ in their guidance scales."""
        self.shares_batches = self._conditioner.shares_batches and not clips.samples_alone(
            self._name, TEXT_ALONE
        )
        """Whether images may share a call of the pipeline; if not, each is sampled alone."""
        self.clips = model.clips
        """The clips that the model makes; None for a model of still images, which makes walks."""
        self.walks_prompts = self._conditioner.encodes
        """Whether a walk may have a `to_prompt`."""
        self._on_cpu = torch.device(model.device).type == "cpu"
        if not self._on_cpu:  # an upgrade that has moved a patch must fail before any image does
            no_sync.install(schedulers.make("default", model.scheduler_config))

    def lost_text(self, text: str) -> str | None:
        """The end of a prompt that no text encoder sees; None if all of it is seen."""
        cut = self._model.prompts.cut(text)
        return None if cut is None else cut.lost

    def embeddings_in(self, *texts: str) -> frozenset[str]:
        """The words of the textual inversions that some prompts name."""
        return self._model.reader.embeddings_in(*texts)

    def num_chunks(self, request: ImageRequest, params: SamplingParams) -> int:
        """The chunks of an image's prompts, by which images share a call; 1 if all have one."""
        return self._conditioner.num_chunks(*self._prompts([request], params)[:3])

    def sample(
        self,
        requests: Sequence[ImageRequest],
        params: SamplingParams,
        batch_size: int | None = None,
    ) -> SampledBatch:
        """Sample at most a batch of images; a shorter batch is padded with its last request.

        On a GPU this may return before the device has come to the end, so that another batch can
        be queued behind this one: what is asked of the result waits for it. See `SampledBatch`.

        With `num_frames`, each request is a clip. A model of still images makes those that are
        walks; see `walks`.

        Args:
            requests: what each image is made from.
            params: the settings that all of them share.
            batch_size: a smaller size for this batch, where the usual one does not fit.

        Raises:
            SettingsError: a size, sampler, number of steps, negative prompt or mode that the model
                does not support, pictures that the mode does not want, or more requests than a
                batch holds.
            OutOfMemory: a smaller batch may fit.
            SamplingError: the pipeline failed.
        """
        size = batch_size or self._batch_size
        if reason := clips.why_not_fps(self.clips, params.fps):
            raise SettingsError(reason)
        if self.clips is not None:
            clips.check(self.clips, requests, params)
            return self._sample_once(requests, params, size)
        if params.num_frames is None:
            walks.require_no_ends(requests, "it needs num_frames")
            return self._sample_images(requests, params, size)
        if not 1 <= len(requests) <= size:
            raise SettingsError(f"{len(requests)} requests; a batch holds 1 to {size}")
        if not self.walks_prompts and any(each.to_prompt is not None for each in requests):
            raise SettingsError(f"to_prompt: {self._name} reads prompts and takes no embeddings")
        return walks.sample_walks(requests, params, size, self._sample_images)

    def _sample_images(
        self, requests: Sequence[ImageRequest], params: SamplingParams, batch_size: int
    ) -> SampledBatch:
        """Sample at most a batch of still images, and each again in its passes."""
        sampled = self._sample_once(requests, replace(params, passes=()), batch_size)
        for larger in params.pass_params:
            again = [
                with_init_image(request, pixels, larger)
                for request, pixels in zip(requests, sampled.pixels, strict=True)
            ]
            sampled = self._sample_once(again, larger, batch_size).settled().after(sampled)
        return sampled

    def _sample_once(
        self, requests: Sequence[ImageRequest], params: SamplingParams, size: int
    ) -> SampledBatch:
        """Sample at most a batch of images or clips, without passes."""
        check_batch(self._model, self._modes, requests, params, size)
        self._model.row_loras.require(params.lora)
        alone = (each.samples_alone(self._name, params.conditioning) for each in (edits, clips))
        if not self.shares_batches or any(alone):
            groups, size = [[index] for index in range(len(requests))], 1
        else:
            groups = self._conditioner.group_by_call(*self._prompts(requests, params)[:3])
        batches = [
            self._sample_padded([requests[index] for index in group], params, size)
            for group in groups
        ]
        return batches[0] if len(batches) == 1 else merge(groups, batches)

    def prepare(self, requests: Sequence[ImageRequest], params: SamplingParams) -> None:
        """Encode the prompts of later images ahead of time, so that `sample` finds them encoded.

        May run in one thread while `sample` runs in another. The embeddings are bit for bit those
        that `sample` would make, and the two threads encode each distinct prompt once.

        Raises:
            OutOfMemory, DeviceError, SamplingError: `sample` will most likely raise it too.
        """
        self._has_prepared = True
        with as_sampling_error(self._name):
            self._conditioner.prepare(*self._prompts(requests, params))

    def join_pictures(
        self, requests: Sequence[ImageRequest], params: SamplingParams, batch_size: int
    ) -> None:
        """Prepare the pictures of a later batch for their upload, so that `sample` finds that done.

        May run beside `sample`. Does nothing on a CPU, and before a mode's first batch.

        Args:
            requests, params, batch_size: as `sample` will be given.

        Raises:
            SettingsError: `sample` will raise it too.
        """
        conditioning = params.conditioning
        pipeline = self._modes.if_made(conditioning.mode, conditioning.controls)
        if pipeline is None:
            return
        device = arguments.device_for(type(pipeline).__name__, self._model.device)
        images = [each.images for each in padded(requests, batch_size)]
        arguments.join(images, conditioning, device, self._stage)
        used = controls.used_by(self._model.controlnets, conditioning.controls)
        controls.join(used, images, device, self._stage)

    def _sample_padded(
        self, requests: Sequence[ImageRequest], params: SamplingParams, batch_size: int
    ) -> SampledBatch:
        batch = padded(requests, batch_size)
        num_chunks = self.num_chunks(requests[0], params)
        with torch.inference_mode(), self._exclude_encoding(params, batch_size, num_chunks):
            images, decoded, flagged = self._run_without_damaged_code(batch, params)
        with torch.inference_mode(), as_sampling_error(self._name):
            finite, overflowed = decoding.verdict_on(images, decoded)
            number = len(requests)
            in_flight = BatchInFlight(
                images[:number],
                finite[:number],
                overflowed,
                flagged[:number],
                self._copies,
                functools.partial(self._decoder.begins_repairs, decoded),
                lambda: self._sample_padded(requests, params, batch_size).settled(),
            )
        return in_flight.settled() if in_flight.is_done else in_flight

    @contextlib.contextmanager
    def _exclude_encoding(
        self, params: SamplingParams, batch_size: int, num_chunks: int
    ) -> Iterator[None]:
        """Keep other threads from encoding during a batch that changes how torch runs everywhere.

        Two switches of torch apply to the whole process: the attention kernel that is chosen, and
        `torch.compiler.is_compiling`, which may be on during the first batch with some settings.
        Where networks are moved to the device in turn, a denoiser that begins to work sends the
        text encoders away.
        Settings count as compiled only once something was prepared: a batch sampled before that may
        have been a trial, which compiles nothing.
        """
        speed = self._model.speed
        settings = astuple(replace(params, guidance_scale=params.guidance_scale > 1))
        kind = (*settings, batch_size, num_chunks)
        may_compile = speed.compile is not None and kind not in self._compiled
        takes_turns = self._model.memory.offload == "model"
        if not may_compile and not takes_turns and speed.attention_backend not in attention.KERNELS:
            yield
            return
        with self._conditioner.exclusive():
            yield
        if may_compile and self._has_prepared:
            self._compiled.add(kind)

    def _run_without_damaged_code(
        self, batch: Sequence[ImageRequest], params: SamplingParams
    ) -> tuple[torch.Tensor, decoding.Decoded, Sequence[bool]]:
        """Call `_run`; if it finds damaged compiled code on disk, remove that code and repeat."""
        for _ in range(MAX_DAMAGED_LIBRARIES):
            try:
                return self._run(batch, params)
            except SamplingError as error:
                if not remove_damaged_code(error.__cause__):
                    raise
        return self._run(batch, params)

    def _run(
        self, batch: Sequence[ImageRequest], params: SamplingParams
    ) -> tuple[torch.Tensor, decoding.Decoded, Sequence[bool]]:
        """Call the pipeline; returns float32 images (B, 3, H, W) in 0..1, and flags (B,)."""
        conditioning = params.conditioning
        pipeline = self._modes.pipeline_for(conditioning.mode, conditioning.controls)
        scheduler, speed = self._scheduler(params), self._model.speed
        frames = () if self.clips is None else (params.num_frames or 0,)
        checking.check_scheduler(scheduler, type(pipeline), params.scheduler)
        # Caches inside the networks read the scheduler of the pipeline that was loaded.
        pipeline.scheduler = self._pipeline.scheduler = scheduler
        pictures = [each.images for each in batch]
        with (
            as_sampling_error(type(pipeline).__name__),
            # Outside of what copies the denoiser's parts for a call.
            self._references.around_call(pipeline, pictures, conditioning) as references,
            apply.around_call(pipeline, speed),
        ):
            self._use_lora(params)
            size = (params.width, params.height)
            family_rules.make_ready(pipeline, self._model.guidance, params.guidance_scale, size)
            values = self._settings(pipeline, batch, params) | self._prompt_arguments(batch, params)
            accepted = pipeline_folder.call_parameters(type(pipeline))
            values |= {name: value for name, value in references.items() if name in accepted}
            with (
                any_number_of_channels(pipeline),
                walks.interpolating(batch),
                control_patches.around_call(pipeline, list(map(walks.generator_of, batch))),
                decoding.decode_in_chunks(pipeline, clips.chunk_size(pipeline, speed)),
                self._decoder.around_call(pipeline, len(batch), bool(frames)) as decoded,
                np.errstate(invalid="ignore"),
                call_uploads.around_call(pipeline, values, self._model) as call,
            ):
                output = call(**without_nones(values, pipeline))
            images = images_of(output, (len(batch), *frames, 3, params.height, params.width))
        return images, decoded, flags_of(output, len(batch))

    def _use_lora(self, params: SamplingParams) -> None:
        """Activate the batch's LoRA; in the text encoders too if the pipeline itself encodes."""
        self._model.row_loras.use_for_denoising(params.lora, params.lora_scale)
        if not self._conditioner.encodes:
            self._model.row_loras.use_for_encoding(params.lora, params.lora_scale)

    def _scheduler(self, params: SamplingParams) -> Any:
        scheduler = self._schedulers.make(params.scheduler)
        schedulers.check_steps(scheduler, params.num_inference_steps)
        return scheduler if self._on_cpu else no_sync.install(scheduler)

    def _prompt_arguments(
        self, batch: Sequence[ImageRequest], params: SamplingParams
    ) -> dict[str, Any]:
        rules = self.clips
        if rules is not None and not rules.takes_prompt:
            return {}
        return self._conditioner.arguments(*self._prompts(batch, params))

    def _prompts(
        self, requests: Sequence[ImageRequest], params: SamplingParams
    ) -> tuple[list[Prompt], list[str], bool, RowLora]:
        """Prompts, negative prompts, whether the latter are used at all, and the LoRA for both."""
        guided = params.guidance_scale > self._model.guidance.off_at
        negatives = [request.negative_prompt for request in requests]
        lora = (params.lora, params.lora_scale)
        return list(map(walks.prompt_of, requests)), negatives, guided, lora

    def _settings(
        self, pipeline: Any, batch: Sequence[ImageRequest], params: SamplingParams
    ) -> dict[str, Any]:
        scale = per_image_guidance.as_argument(guidance_scales(batch, params))
        settings = {
            "width": params.width,
            "height": params.height,
            "num_inference_steps": params.num_inference_steps,
            "generator": list(map(walks.generator_of, batch)),
            "output_type": family_rules.output_type(type(pipeline)),
            # FLUX.1 Kontext would make an image of another size, from a picture of another size.
            "max_area": params.width * params.height,
            "_auto_resize": False,
            **family_rules.FIXED_ARGUMENTS,
            **family_rules.step_arguments(params.num_inference_steps),
            **family_rules.guidance_arguments(self._model.guidance, scale),
        }
        accepted = pipeline_folder.call_parameters(type(pipeline))
        images = [each.images for each in batch]
        device = arguments.device_for(type(pipeline).__name__, self._model.device)
        pictures = arguments.arguments(images, params.conditioning, device, self._stage)
        used = controls.used_by(self._model.controlnets, params.conditioning.controls)
        conditioned = images, params.conditioning, device, self._stage
        pictures |= controls.arguments(pipeline, used, *conditioned)
        pictures |= edits.arguments(type(pipeline).__name__, images, params.conditioning)
        if self.clips is not None:
            generators, speed = settings["generator"], self._model.speed
            pictures |= clips.arguments(type(pipeline), images, params, generators, speed)
        return {name: value for name, value in settings.items() if name in accepted} | pictures
