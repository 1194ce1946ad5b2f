"""One model on its device beside plain diffusers, and the rows that are measured of it.

`bench_accelerator.py` says what each figure of a row means.
"""

import gc
import statistics
import time
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import torch
from accelerator_rows import LOSSY, Row
from meters import busy_share, counted_flops, measured_peak
from random_models import Architecture, Scale, loaded, make, twin

from nightpress.diffusion_core.acceleration import apply
from nightpress.diffusion_core.acceleration.numerics import (
    TORCH_DEFAULTS,
    fix_numerics,
    set_switches,
)
from nightpress.diffusion_core.errors import OutOfMemory, SamplingError
from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.sampling.request import ImageRequest, SamplingParams
from nightpress.diffusion_core.sampling.sampler import SampledBatch, Sampler
from nightpress.diffusion_core.tuning.benchmark import clock_for, likeness
from nightpress.diffusion_core.tuning.candidates import TuningConfig

NOTHING = TuningConfig()

FLOAT8 = "float8_dynamic_activation_float8_weight"

FEW_STEPS = 6
"""With fewer steps than these, all of them are counted."""


@dataclass(frozen=True)
class Setup:
    """The settings that all rows of a model share."""

    architecture: Architecture
    scale: Scale
    device: str
    dtype: str
    """The dtype of plain diffusers, and of every configuration that sets none."""
    params: SamplingParams
    rounds: int
    repeats_plain: bool = True
    """Whether plain diffusers alternates with every row; if not, it is timed once a batch size."""

    def loaded(self, config: TuningConfig, shared: dict[str, Any] | None = None) -> Any:
        """The model with a configuration's speed settings applied.

        Args:
            config: the configuration.
            shared: text encoders to reuse, by component name, if the dtype is the same.

        Raises:
            ModelError: the model does not support one of the settings.
            OutOfMemory: the model does not fit.
        """
        dtype = config.dtype or self.dtype
        shared = shared if dtype == self.dtype else None
        try:
            pipeline = make(self.architecture, self.scale, dtype, self.device, shared)
            parts = apply.Parts(pipeline, type(pipeline), dtype, device=self.device)
            apply.apply_speed(parts, config.speed)
        except torch.OutOfMemoryError as error:
            raise OutOfMemory(str(error).split(".")[0]) from error
        return loaded(pipeline, self.architecture, dtype, self.device, config.speed)


class Bench:
    """One model on its device, unchanged, and the measurements of its faster configurations."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self.peaks: dict[str, float] = {}
        """dtype -> FLOP/s of a large matrix product."""
        self._clock = clock_for(setup.device)
        self._numbers = count()
        self._plain_seconds: dict[int, float] = {}
        """Batch size -> seconds of plain diffusers, once it has warmed up."""
        self._references: dict[int, SampledBatch] = {}
        """Batch size -> the unchanged model's images, with which all rows are compared."""
        self._model = setup.loaded(NOTHING)
        self._plain = twin(self._model.pipeline, setup.architecture)
        self._flops_per_image = self._flops_of(self._model)
        self._peak(setup.dtype)

    def row(self, config: TuningConfig, batch_size: int) -> Row:
        """Measure one configuration at one batch size.

        Raises:
            ModelError, SettingsError, SamplingError: the model does not support the configuration.
            OutOfMemory: it does not fit.
        """
        self._collect()  # memory of the previous row, which its error no longer keeps alive
        try:
            return self._row(config, batch_size)
        except torch.OutOfMemoryError as error:  # raised by plain diffusers
            raise OutOfMemory(str(error).split(".")[0]) from error
        finally:
            self._forget(config)

    def _row(self, config: TuningConfig, batch_size: int) -> Row:
        model = (
            self._model if config == NOTHING else self._setup.loaded(config, self._text_encoders())
        )
        skips = bool(config.fields & LOSSY)
        flops = self._flops_of(model, skips) if skips else self._flops_per_image
        sampler = Sampler(model, batch_size)
        start = time.perf_counter()
        first, _ = self._sampled(sampler, compared_requests(batch_size))
        warm_s = time.perf_counter() - start
        lowest_db = self._lowest_db(model, first)
        self._warm_plain(batch_size)
        ours, plain = self._pairs(sampler, batch_size)
        images_per_s = batch_size / statistics.median(ours)
        busy = busy_share(self._setup.device, lambda: self._sample_s(sampler, batch_size))
        return Row(
            config=config,
            dtype=model.dtype,
            batch_size=batch_size,
            images_per_s=images_per_s,
            plain_images_per_s=batch_size / statistics.median(plain),
            ratio=statistics.median(b / a for a, b in zip(ours, plain, strict=True)),
            peak_share=flops * images_per_s / self._peak(model.dtype),
            busy_share=busy,
            warm_s=warm_s,
            lowest_db=lowest_db,
        )

    def _lowest_db(self, model: LoadedModel, first: SampledBatch) -> float | None:
        """The lowest PSNR of a model's first batch; see `Row.lowest_db`."""
        size = len(first.pixels)
        if model is self._model:
            self._references[size] = first
            return None
        if model.dtype != self._setup.dtype:
            return None
        return min(likeness(first, self._reference(size)).psnr_db)

    def _reference(self, size: int) -> SampledBatch:
        """The unchanged model's images, sampled now if no row of it came before."""
        if size not in self._references:
            sampler = Sampler(self._model, size)
            self._references[size], _ = self._sampled(sampler, compared_requests(size))
        return self._references[size]

    def _sample_s(
        self, sampler: Sampler, batch_size: int, params: SamplingParams | None = None
    ) -> float:
        return self._sampled(sampler, self._requests(batch_size), params)[1]

    def _sampled(
        self, sampler: Sampler, requests: list[ImageRequest], params: SamplingParams | None = None
    ) -> tuple[SampledBatch, float]:
        """The images of a batch, and its seconds."""
        fix_numerics()  # between the batches of plain diffusers, which has torch's defaults
        start = self._clock()
        batch = sampler.sample(requests, params or self._setup.params).settled()
        seconds = self._clock() - start
        if any(batch.faults):
            raise SamplingError(f"a faulty image makes the time invalid: {batch.faults}")
        return batch, seconds

    def _pairs(self, sampler: Sampler, batch_size: int) -> tuple[list[float], list[float]]:
        """Seconds of the timed batches, and of those of plain diffusers between them."""
        ours, plain = list[float](), list[float]()
        for _ in range(self._setup.rounds):
            ours.append(self._sample_s(sampler, batch_size))
            again = self._setup.repeats_plain
            plain.append(self._plain_s(batch_size) if again else self._plain_seconds[batch_size])
        return ours, plain

    def _warm_plain(self, batch_size: int) -> None:
        if batch_size not in self._plain_seconds:
            self._plain_s(batch_size)
            once = not self._setup.repeats_plain
            self._plain_seconds[batch_size] = self._plain_s(batch_size) if once else 0.0

    def _plain_s(self, batch_size: int) -> float:
        """Time a batch of plain diffusers, called as its documentation shows."""
        requests, params = self._requests(batch_size), self._setup.params
        set_switches(TORCH_DEFAULTS)
        start = self._clock()
        self._plain(
            prompt=[request.prompt for request in requests],
            height=params.height,
            width=params.width,
            num_inference_steps=params.num_inference_steps,
            guidance_scale=params.guidance_scale,
            generator=[
                torch.Generator(self._setup.device).manual_seed(request.seed)
                for request in requests
            ],
            output_type="pil",
        )
        return self._clock() - start

    def _requests(self, batch_size: int) -> list[ImageRequest]:
        """New requests; no prompt is used twice."""
        numbers = [next(self._numbers) for _ in range(batch_size)]
        return [ImageRequest(f"a photograph of thing number {n}", "", n) for n in numbers]

    def _flops_of(self, model: Any, skips_work: bool = False) -> int:
        """FLOPs of one image; its negative prompt is already encoded.

        Steps that all do the same work are counted in images of one and of two steps.
        """
        sampler, steps = Sampler(model, 1), self._setup.params.num_inference_steps
        if skips_work or steps < FEW_STEPS:
            self._sample_s(sampler, 1)
            return counted_flops(lambda: self._sample_s(sampler, 1))
        few = [replace(self._setup.params, num_inference_steps=number) for number in (1, 2)]
        self._sample_s(sampler, 1, few[0])
        one, two = (counted_flops(lambda p=p: self._sample_s(sampler, 1, p)) for p in few)
        return one + (steps - 1) * (two - one)

    def _peak(self, dtype: str) -> float:
        if dtype not in self.peaks:
            self.peaks[dtype] = measured_peak(self._setup.device, dtype)
        return self.peaks[dtype]

    def _text_encoders(self) -> dict[str, Any]:
        parts = self._model.pipeline.components
        return {name: part for name, part in parts.items() if name.startswith("text_encoder")}

    def _forget(self, config: TuningConfig) -> None:
        """Free a configuration's model and its compiled code."""
        if config.speed.compile:
            torch.compiler.reset()
        self._collect()

    def _collect(self) -> None:
        gc.collect()
        if self._setup.device == "cuda":
            torch.cuda.empty_cache()


def compared_requests(batch_size: int) -> list[ImageRequest]:
    """The images that every configuration samples first, and that are compared."""
    return [ImageRequest(f"thing {n}, to be compared", "", n) for n in range(batch_size)]
