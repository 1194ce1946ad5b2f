"""Recipe `denoiser`: captioned pictures in, a diffusers text-to-image pipeline out."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from nightpress.diffusion_core.errors import SettingsError
from nightpress.diffusion_core.models.weight_files import fingerprint_of_tensors
from nightpress.diffusion_core.sampling.prompt_embeddings import CACHE_BYTES, EmbeddingCache
from nightpress.diffusion_core.theory.noise import FlowPath, NoiseProcess, NoiseSchedule
from nightpress.diffusion_core.training import Objective, TimeSampling
from nightpress.diffusion_core.training.autoencoder import (
    encode,
    pixels_of_a_latent,
    require_multiple,
    require_plain_scaling,
)
from nightpress.diffusion_core.training.denoiser import (
    FAMILIES,
    DenoiserTraining,
    TextEncoding,
    new_pipeline,
    new_scheduler,
)
from nightpress.diffusion_core.training.modules import new_module, saved_module, saved_tokenizer
from nightpress.diffusion_core.training.randomness import normal
from nightpress.pipelines.job.spec import canonical_json
from nightpress.pipelines.models.location import component_folder
from nightpress.pipelines.storage import Store
from nightpress.pipelines.training.data import PackedImages
from nightpress.pipelines.training.encoded import EncodedPictures
from nightpress.pipelines.training.events import TrainingEvent
from nightpress.pipelines.training.order import Pick
from nightpress.pipelines.training.recipes import (
    Picture,
    advice,
    drawn_caption,
    on_device,
    sample_prompts,
    spare_memory,
)
from nightpress.pipelines.training.sections import ScheduleSpec
from nightpress.pipelines.training.spec import DenoiserSpec

ENCODE_BATCH = 16
SAMPLE_BATCH = 16
PIPELINE_MULTIPLE = 8
"""Of pixels, which the pipelines of all families ask for."""


class DenoiserRecipe:
    """See `pipelines.training.recipes.Recipe`."""

    looks_ahead = True

    def __init__(self, spec: DenoiserSpec, data: PackedImages, device: str) -> None:
        self.spec, self.data, self.device = spec, data, device
        self.autoencoder = self._saved(spec.model.autoencoder, ("AutoencoderKL",)).to(device)
        self.denoiser, new = self._denoiser()
        self.family = FAMILIES[type(self.denoiser).__name__]
        text_encoder = self._saved(spec.model.text_encoder, self.family.text_encoders)
        self.text = TextEncoding(self._tokenizer(), text_encoder)
        self._freeze(text_encoder)
        self.objective = objective_of(spec)
        module = DenoiserTraining(
            self.denoiser, self.text, self.objective, spec.model.train_text_encoder
        )
        self.module: nn.Module = on_device(module, device)
        parts = [self.autoencoder, text_encoder, *([] if new else [self.denoiser])]
        marks = [fingerprint_of_tensors(part) for part in parts]
        self.base = "-".join(mark[:16] for mark in (*marks, fingerprint_of_words(self.text)))
        require_plain_scaling(self.autoencoder)
        self._require_channels()
        spare_memory(self.denoiser, spec.training.gradient_checkpointing)
        multiple = max(PIPELINE_MULTIPLE, pixels_of_a_latent(self.autoencoder))
        require_multiple("training.resolution", spec.training.resolution, multiple)
        self.latents = EncodedPictures(
            data,
            spec.training,
            lambda images: encode(self.autoencoder, images.to(device)).cpu(),
            made_by=marks[0],
            cached=spec.cache_latents,
            batch_size=ENCODE_BATCH,
        )
        self.known_captions = EmbeddingCache(CACHE_BYTES)

    def prepare(self, store: Store, rank: int, world_size: int) -> Iterator[TrainingEvent]:
        """Encode this worker's share of the pictures."""
        yield from self.latents.prepare(store, rank, world_size)

    def ready(self, store: Store) -> None:
        """Fetch what all workers have encoded."""
        self.latents.ready(store)

    def batch(self, picks: Sequence[Pick]) -> dict[str, Tensor]:
        """Latents, noise, times and tokens."""
        schedule = self.spec.schedule
        captions = [
            drawn_caption(self.data, pick, schedule.proportion_empty_prompts) for pick in picks
        ]
        x0 = self.latents.of(picks)
        input_ids, mask = self.text.tokenize(captions)
        batch = {
            "x0": x0,
            "noise": normal(tuple(x0.shape[1:]), [pick.generator for pick in picks]),
            "times": self.objective.timesteps(torch.tensor([pick.uniform for pick in picks])),
            "input_ids": input_ids,
            "mask": mask,
        }
        if not self.spec.model.train_text_encoder:
            known = [self.text.encode_cached(caption, self.known_captions) for caption in captions]
            batch["embeddings"] = torch.cat(known)
        return batch

    @torch.no_grad()
    def sample(self) -> tuple[list[Picture], list[str]]:
        """One picture for each of the job's prompts, always from the same noise."""
        samples = self.spec.samples
        prompts = sample_prompts(self.data, samples.prompts, samples.num_images)
        pipeline = self._pipeline()
        pictures: list[Picture] = []
        for start in range(0, len(prompts), SAMPLE_BATCH):
            chunk = prompts[start : start + SAMPLE_BATCH]
            seeds = [samples.seed + start + i for i in range(len(chunk))]
            images = pipeline(
                chunk,
                height=self.spec.training.resolution,
                width=self.spec.training.resolution,
                num_inference_steps=samples.num_inference_steps,
                guidance_scale=samples.guidance_scale,
                generator=[Generator().manual_seed(seed) for seed in seeds],
                output_type="np",
                **self.family.call_settings,
            ).images
            pictures += list((images * 255).round().astype("uint8"))
        return pictures, prompts

    def save(self, folder: Path) -> None:
        """The whole pipeline, and the steps and guidance to use when nobody says otherwise."""
        self._pipeline().save_pretrained(folder, safe_serialization=True)
        samples = self.spec.samples
        advised = advice(samples.num_inference_steps, samples.guidance_scale)
        (folder / "nightpress.json").write_text(json.dumps(advised) + "\n", encoding="utf-8")

    def _pipeline(self) -> Any:
        return new_pipeline(
            self.family,
            self.denoiser,
            self.autoencoder,
            self.text.text_encoder,
            self._tokenizer(),
            new_scheduler(self.objective),
        )

    def _denoiser(self) -> tuple[Any, bool]:
        """The denoiser, and whether it is new."""
        source = self.spec.model.denoiser
        if isinstance(source, str):
            return self._saved(source, tuple(FAMILIES)), False
        return new_module(source, tuple(FAMILIES), self.spec.seed), True

    def _saved(self, source: str, allowed: Sequence[str]) -> Any:
        return saved_module(component_folder(source, self.spec.storage), allowed)

    def _tokenizer(self) -> Any:
        return saved_tokenizer(component_folder(self.spec.model.tokenizer, self.spec.storage))

    def _freeze(self, text_encoder: nn.Module) -> None:
        """Keep what is not trained; a name that no weight has is a mistake."""
        model = self.spec.model
        text_encoder.requires_grad_(model.train_text_encoder)
        for part in model.frozen_parameters:
            found = [p for name, p in text_encoder.named_parameters() if part in name]
            if not found:
                raise SettingsError(f"model.frozen_parameters: no weight has {part!r} in its name")
            for parameter in found:
                parameter.requires_grad_(False)

    def _require_channels(self) -> None:
        channels = self.autoencoder.config.latent_channels
        if self.denoiser.config.in_channels != channels:
            raise SettingsError(
                f"model.denoiser: in_channels is {self.denoiser.config.in_channels}, and the "
                f"autoencoder's latents have {channels}"
            )
        config: Any = self.text.text_encoder.config
        text_width = config.hidden_size
        wanted = self.denoiser.config.get("cross_attention_dim")
        wanted = self.denoiser.config.get("caption_channels") or wanted
        if wanted != text_width:
            raise SettingsError(
                f"model.denoiser: takes text of width {wanted}, and the text encoder's is "
                f"{text_width}"
            )


def fingerprint_of_words(text: TextEncoding) -> str:
    """sha256 over what the tokenizer makes of words."""
    vocabulary = sorted(text.tokenizer.get_vocab().items())
    return hashlib.sha256(canonical_json([text.max_tokens, vocabulary]).encode()).hexdigest()


def objective_of(spec: DenoiserSpec) -> Objective:
    """The job's `schedule` section as an objective."""
    schedule = spec.schedule
    return Objective(
        schedule=process_of_spec(schedule),
        prediction_type=schedule.prediction_type,
        min_snr_gamma=schedule.snr_gamma,
        time_sampling=TimeSampling(
            schedule.weighting_scheme,
            schedule.logit_mean,
            schedule.logit_std,
            schedule.timestep_shift,
        ),
    )


def process_of_spec(schedule: ScheduleSpec) -> NoiseProcess:
    """The straight path for `flow_prediction`, else the beta schedule."""
    if schedule.prediction_type == "flow_prediction":
        return FlowPath(schedule.num_train_timesteps, schedule.shift)
    return NoiseSchedule(
        num_steps=schedule.num_train_timesteps,
        kind=schedule.beta_schedule,
        beta_start=schedule.beta_start,
        beta_end=schedule.beta_end,
        zero_terminal_snr=schedule.rescale_betas_zero_snr,
    )
