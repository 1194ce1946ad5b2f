"""Recipe `lora`: train a LoRA for a frozen model on captioned images."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from nightpress.diffusion_core.errors import SettingsError
from nightpress.diffusion_core.models.loading import describe, load
from nightpress.diffusion_core.sampling.request import ImageRequest
from nightpress.diffusion_core.sampling.sampler import Sampler, SamplingParams
from nightpress.diffusion_core.training import TimeSampling
from nightpress.diffusion_core.training.lora import LoraSettings, LoraTraining
from nightpress.diffusion_core.training.randomness import normal
from nightpress.pipelines.models.location import locate
from nightpress.pipelines.storage import Store
from nightpress.pipelines.training.data import PackedImages
from nightpress.pipelines.training.data.decoding import ImageArray
from nightpress.pipelines.training.events import TrainingEvent
from nightpress.pipelines.training.image_latents import ImageLatents
from nightpress.pipelines.training.recipes import (
    choose_caption,
    cut_captions,
    enable_gradient_checkpointing,
    sample_prompts,
)
from nightpress.pipelines.training.sample_order import BatchItem
from nightpress.pipelines.training.spec import LoraTrainSpec

ENCODE_BATCH = 4


class LoraRecipe:
    """Implements `pipelines.training.recipes.Recipe`."""

    can_prefetch = False  # the pipeline that encodes prompts contains the denoiser in training

    def __init__(self, spec: LoraTrainSpec, data: PackedImages, device: str) -> None:
        _require_trainable(spec)
        self.spec, self.data, self.device = spec, data, device
        folder = locate(spec.model, spec.storage)
        self.info = describe(folder, spec.model)
        self.base = self.info.fingerprint
        self.model = load(folder, spec.model, device)
        size = spec.training.resolution
        self.lora = LoraTraining(self.model, lora_settings(spec), height=size, width=size)
        enable_gradient_checkpointing(self.lora.denoiser, spec.training.gradient_checkpointing)
        self.module: nn.Module = self.lora
        self.latents = ImageLatents(
            data,
            spec.training,
            lambda images: self.lora.encode_images(images).cpu(),
            encoder_fingerprint=self.base,
            cached=not spec.training.random_flip,
            batch_size=ENCODE_BATCH,
        )

    def prepare(self, store: Store, rank: int, world_size: int) -> Iterator[TrainingEvent]:
        """Look for captions that are cut, and encode this worker's share of the images."""
        if rank == 0:
            yield from cut_captions(self.data, self.info.prompts.cut)
        yield from self.latents.prepare(store, rank, world_size)

    def load_prepared(self, store: Store) -> None:
        """Read the latents that all workers have encoded."""
        self.latents.load_prepared(store)

    def batch(self, items: Sequence[BatchItem]) -> dict[str, Tensor]:
        """Latents, noise, times and prompt embeddings."""
        empty = self.spec.schedule.proportion_empty_prompts
        captions = [choose_caption(self.data, item, empty) for item in items]
        x0 = self.latents.batch(items)
        uniforms = torch.tensor([item.uniform for item in items])
        return {
            "x0": x0,
            "noise": normal(tuple(x0.shape[1:]), [item.generator for item in items]),
            "times": self.lora.objective.timesteps(uniforms),
            **self.lora.encode_prompts(captions),
        }

    def sample(self) -> tuple[list[ImageArray], list[str]]:
        """One image per prompt, from the same noise at every step."""
        samples = self.spec.samples
        prompts = sample_prompts(self.data, samples.prompts, samples.num_images)
        params = SamplingParams(
            width=self.spec.training.resolution,
            height=self.spec.training.resolution,
            num_inference_steps=samples.num_inference_steps,
            guidance_scale=samples.guidance_scale,
        )
        sampler = Sampler(self.model, batch_size=1)
        requests = [ImageRequest(p, "", samples.seed + i) for i, p in enumerate(prompts)]
        images = [sampler.sample([request], params).pixels[0] for request in requests]
        return images, prompts

    def save(self, folder: Path) -> None:
        """Write the LoRA alone, in diffusers' layout."""
        self.lora.save(folder)


def _require_trainable(spec: LoraTrainSpec) -> None:
    """Refuse model settings with which a LoRA cannot be trained."""
    if spec.model.all_loras:
        raise SettingsError(
            "model.loras and model.row_loras are not allowed: "
            "a LoRA is trained on a model without LoRAs"
        )
    if spec.model.speed.chosen():
        raise SettingsError("model.speed is not allowed: a LoRA is trained on the unmodified model")
    if "prompts" in spec.model.model_fields_set:
        raise SettingsError(
            "model.prompts is not allowed: a caption that is longer than the model reads is cut, "
            "and training says how many are"
        )
    if spec.model.dtype == "float16":
        raise SettingsError(
            "model.dtype float16 is not allowed: gradients underflow in it; use bfloat16 or float32"
        )


def lora_settings(spec: LoraTrainSpec) -> LoraSettings:
    """Convert the job's `lora` and `schedule` sections."""
    lora, schedule = spec.lora, spec.schedule
    return LoraSettings(
        rank=lora.rank,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        target_modules=tuple(lora.target_modules),
        snr_gamma=schedule.snr_gamma,
        time_sampling=TimeSampling(
            schedule.weighting_scheme, schedule.logit_mean, schedule.logit_std
        ),
        seed=spec.seed,
    )
