"""Recipe `controlnet`: train a ControlNet for a frozen model on captioned images."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Generator, Tensor

from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.training import TimeSampling
from nightpress.diffusion_core.training.controlnet import (
    CONTROL,
    ControlNetSettings,
    ControlNetTraining,
)
from nightpress.pipelines.training.control_pictures import ControlPictures
from nightpress.pipelines.training.data import PackedImages
from nightpress.pipelines.training.data.decoding import ImageArray
from nightpress.pipelines.training.frozen_base import FrozenBaseRecipe
from nightpress.pipelines.training.recipes import sample_images, sample_prompts
from nightpress.pipelines.training.sample_order import BatchItem
from nightpress.pipelines.training.spec import ControlNetTrainSpec


class ControlNetRecipe(FrozenBaseRecipe[ControlNetTraining]):
    """Implements `pipelines.training.recipes.Recipe`."""

    def __init__(self, spec: ControlNetTrainSpec, data: PackedImages, device: str) -> None:
        size = spec.training.resolution
        self.controls = ControlPictures(spec.controlnet, data, size)
        self.controls.read(spec.data, spec.storage)

        def new_training(model: LoadedModel) -> ControlNetTraining:
            return ControlNetTraining(model, controlnet_settings(spec), height=size, width=size)

        super().__init__(spec, data, device, "a ControlNet", new_training)
        self.spec = spec
        self.base = "-".join(filter(None, (self.base, self.controls.fingerprint[:16])))

    def batch(self, items: Sequence[BatchItem]) -> dict[str, Tensor]:
        """Latents, noise, times, prompt embeddings and control pictures."""
        controls = [self.controls.pixels(item.image) for item in items]
        pixels = torch.from_numpy(np.stack(controls)).permute(0, 3, 1, 2)
        return {**super().batch(items), CONTROL: pixels.float() / 255}

    def sample(self) -> tuple[list[ImageArray], list[str]]:
        """One image per prompt, to the right of its control picture; the noise is always the same.

        The control pictures are those of evenly spaced images of the data.
        """
        samples, size = self.spec.samples, self.spec.training.resolution
        prompts = sample_prompts(self.data, samples.prompts, samples.num_images)
        images = sample_images(self.data, len(prompts))
        pipeline = self.training.pipeline()
        sampled = []
        for i, prompt in enumerate(prompts):
            control = self.controls.pixels(images[i % len(images)])
            made = pipeline(
                prompt,
                image=torch.tensor(control).permute(2, 0, 1)[None] / 255,
                height=size,
                width=size,
                num_inference_steps=samples.num_inference_steps,
                guidance_scale=samples.guidance_scale,
                generator=Generator().manual_seed(samples.seed + i),
                output_type="np",
            ).images[0]
            sampled.append(np.concatenate([control, (made * 255).round().astype(np.uint8)], axis=1))
        return sampled, prompts


def controlnet_settings(spec: ControlNetTrainSpec) -> ControlNetSettings:
    """Convert the job's `controlnet` and `schedule` sections."""
    schedule = spec.schedule
    return ControlNetSettings(
        conditioning_embedding_out_channels=tuple(
            spec.controlnet.conditioning_embedding_out_channels
        ),
        embedding_init=spec.controlnet.embedding_init,
        trained_layers=spec.controlnet.trained_layers,
        snr_gamma=schedule.snr_gamma,
        time_sampling=TimeSampling(
            schedule.weighting_scheme,
            schedule.logit_mean,
            schedule.logit_std,
            schedule.timestep_shift,
        ),
        seed=spec.seed,
    )
