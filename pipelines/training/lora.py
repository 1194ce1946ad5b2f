"""Recipe `lora`: captioned pictures in, an adapter for a model that stays as it is out."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from diffusion_core.errors import SettingsError
from diffusion_core.model import describe, load
from diffusion_core.requests import ImageRequest
from diffusion_core.sampling import Sampler, SamplingParams
from diffusion_core.training import TimeSampling
from diffusion_core.training.lora import LoraSettings, LoraTraining
from diffusion_core.training.randomness import normal
from pipelines.models import locate
from pipelines.storage import Store
from pipelines.training.data import PackedImages
from pipelines.training.events import LatentsCached, TrainingEvent
from pipelines.training.latents import LatentCache
from pipelines.training.order import Pick
from pipelines.training.recipes import (
    Picture,
    drawn_caption,
    drawn_pictures,
    sample_prompts,
    spare_memory,
    to_tensor,
)
from pipelines.training.spec import LoraTrainSpec

ENCODE_BATCH = 4


class LoraRecipe:
    """See `pipelines.training.recipes.Recipe`."""

    looks_ahead = False  # prompts are encoded by a pipeline whose denoiser is being trained

    def __init__(self, spec: LoraTrainSpec, data: PackedImages, device: str) -> None:
        if spec.model.loras:
            raise SettingsError("model.loras: a LoRA is trained on a model that has none")
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
        self.latents: Tensor | None = None

    def prepare(self, store: Store, rank: int, world_size: int) -> Iterator[TrainingEvent]:
        """Encode this worker's share of the pictures."""
        if not self.spec.training.random_flip:
            for num in self._cache(store).fill(self._encode, rank, world_size):
                yield LatentsCached(min(num * world_size, len(self.data)), len(self.data))

    def ready(self, store: Store) -> None:
        """Fetch what all workers have encoded."""
        if not self.spec.training.random_flip:
            self.latents = self._cache(store).read()

    def batch(self, picks: Sequence[Pick]) -> dict[str, Tensor]:
        """Latents, noise, times, and what the prompts condition the denoiser with."""
        empty = self.spec.schedule.proportion_empty_prompts
        captions = [drawn_caption(self.data, pick, empty) for pick in picks]
        x0 = self._latents(picks)
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

    def _cache(self, store: Store) -> LatentCache:
        resolution = self.spec.training.resolution
        key = f"{self.data.fingerprint[:16]}-{self.base[:16]}-{resolution}"
        return LatentCache(store, key, len(self.data))

    def _latents(self, picks: Sequence[Pick]) -> Tensor:
        if self.latents is not None:
            return self.latents[[pick.image for pick in picks]].float()
        training = self.spec.training
        pictures = drawn_pictures(self.data, picks, training.resolution, training.random_flip)
        return self.lora.encode_images(to_tensor(pictures)).cpu()

    def _encode(self, numbers: Sequence[int]) -> Tensor:
        resolution = self.spec.training.resolution
        batches = []
        for start in range(0, len(numbers), ENCODE_BATCH):
            chunk = numbers[start : start + ENCODE_BATCH]
            pictures = to_tensor([self.data.pixels(n, resolution) for n in chunk])
            batches.append(self.lora.encode_images(pictures).cpu())
        return torch.cat(batches)


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
