"""Recipe `lora`: captioned pictures in, an adapter for a model that stays as it is out."""

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
from nightpress.pipelines.training.encoded import EncodedPictures
from nightpress.pipelines.training.events import TrainingEvent
from nightpress.pipelines.training.order import Pick
from nightpress.pipelines.training.recipes import (
    Picture,
    drawn_caption,
    sample_prompts,
    spare_memory,
)
from nightpress.pipelines.training.spec import LoraTrainSpec

ENCODE_BATCH = 4


class LoraRecipe:
    """See `pipelines.training.recipes.Recipe`."""

    looks_ahead = False  # prompts are encoded by a pipeline whose denoiser is being trained

    def __init__(self, spec: LoraTrainSpec, data: PackedImages, device: str) -> None:
        if spec.model.all_loras:
            raise SettingsError(
                "model.loras and row_loras: a LoRA is trained on a model that has none"
            )
        if spec.model.speed.chosen():
            raise SettingsError("model.speed: a LoRA is trained on the model as it is")
        if spec.model.dtype == "float16":
            raise SettingsError(
                "model.dtype float16: gradients vanish in it; train in bfloat16 or float32"
            )
        self.spec, self.data, self.device = spec, data, device
        folder = locate(spec.model, spec.storage)
        self.info = describe(folder, spec.model)
        self.base = self.info.fingerprint
        self.model = load(folder, spec.model, device)
        size = spec.training.resolution
        self.lora = LoraTraining(self.model, lora_settings(spec), height=size, width=size)
        spare_memory(self.lora.denoiser, spec.training.gradient_checkpointing)
        self.module: nn.Module = self.lora
        self.latents = EncodedPictures(
            data,
            spec.training,
            lambda images: self.lora.encode_images(images).cpu(),
            made_by=self.base,
            cached=not spec.training.random_flip,
            batch_size=ENCODE_BATCH,
        )

    def prepare(self, store: Store, rank: int, world_size: int) -> Iterator[TrainingEvent]:
        """Encode this worker's share of the pictures."""
        yield from self.latents.prepare(store, rank, world_size)

    def ready(self, store: Store) -> None:
        """Fetch what all workers have encoded."""
        self.latents.ready(store)

    def batch(self, picks: Sequence[Pick]) -> dict[str, Tensor]:
        """Latents, noise, times, and what the prompts condition the denoiser with."""
        empty = self.spec.schedule.proportion_empty_prompts
        captions = [drawn_caption(self.data, pick, empty) for pick in picks]
        x0 = self.latents.of(picks)
        uniforms = torch.tensor([pick.uniform for pick in picks])
        return {
            "x0": x0,
            "noise": normal(tuple(x0.shape[1:]), [pick.generator for pick in picks]),
            "times": self.lora.objective.timesteps(uniforms),
            **self.lora.encode_prompts(captions),
        }

    def sample(self) -> tuple[list[Picture], list[str]]:
        """One picture for each of the job's prompts, always from the same noise."""
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
        pictures = [sampler.sample([request], params).pixels[0] for request in requests]
        return pictures, prompts

    def save(self, folder: Path) -> None:
        """The adapter alone, in diffusers' layout."""
        self.lora.save(folder)


def lora_settings(spec: LoraTrainSpec) -> LoraSettings:
    """The job's `lora` and `schedule` sections."""
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
