"""Recipe `lora`: train a LoRA for a frozen model on captioned images."""

from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.sampling.request import ImageRequest
from nightpress.diffusion_core.sampling.sampler import Sampler, SamplingParams
from nightpress.diffusion_core.training import TimeSampling
from nightpress.diffusion_core.training.lora import LoraSettings, LoraTraining
from nightpress.pipelines.training.data import PackedImages
from nightpress.pipelines.training.data.decoding import ImageArray
from nightpress.pipelines.training.frozen_base import FrozenBaseRecipe
from nightpress.pipelines.training.recipes import sample_prompts
from nightpress.pipelines.training.spec import LoraTrainSpec


class LoraRecipe(FrozenBaseRecipe[LoraTraining]):
    """Implements `pipelines.training.recipes.Recipe`."""

    def __init__(self, spec: LoraTrainSpec, data: PackedImages, device: str) -> None:
        size = spec.training.resolution

        def new_training(model: LoadedModel) -> LoraTraining:
            return LoraTraining(model, lora_settings(spec), height=size, width=size)

        super().__init__(spec, data, device, "a LoRA", new_training)
        self.spec = spec

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
