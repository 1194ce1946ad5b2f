"""Recipe `denoiser`: train a text-to-image diffusers pipeline on captioned images."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from nightpress.diffusion_core.conditioning.embedding_cache import EmbeddingCache
from nightpress.diffusion_core.errors import SettingsError
from nightpress.diffusion_core.models.weight_files import fingerprint_of_tensors
from nightpress.diffusion_core.sampling.prompt_embeddings import CACHE_BYTES
from nightpress.diffusion_core.theory.noise import FlowPath, NoiseProcess, NoiseSchedule
from nightpress.diffusion_core.training import Objective, TimeSampling
from nightpress.diffusion_core.training.autoencoder import (
    downsampling_factor,
    encode,
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
from nightpress.pipelines.training.data.decoding import ImageArray
from nightpress.pipelines.training.events import TrainingEvent
from nightpress.pipelines.training.image_latents import ImageLatents
from nightpress.pipelines.training.recipes import (
    choose_caption,
    cut_captions,
    enable_gradient_checkpointing,
    sample_prompts,
    to_device,
)
from nightpress.pipelines.training.sample_order import BatchItem
from nightpress.pipelines.training.sections import ScheduleSpec
from nightpress.pipelines.training.spec import DenoiserSpec

ENCODE_BATCH = 16
SAMPLE_BATCH = 16
PIPELINE_MULTIPLE = 8
"""The resolution must be a multiple of this for the pipelines of all families."""


class DenoiserRecipe:
    """Implements `pipelines.training.recipes.Recipe`."""

    can_prefetch = True

    def __init__(self, spec: DenoiserSpec, data: PackedImages, device: str) -> None:
        self.spec, self.data, self.device = spec, data, device
        self.autoencoder = self._saved(spec.model.autoencoder, ("AutoencoderKL",)).to(device)
        self.denoiser, is_new = self._denoiser()
        self.family = FAMILIES[type(self.denoiser).__name__]
        text_encoder = self._saved(spec.model.text_encoder, self.family.text_encoders)
        self.text = TextEncoding(self._tokenizer(), text_encoder)
        self._freeze(text_encoder)
        self.objective = objective_of(spec)
        module = DenoiserTraining(
            self.denoiser, self.text, self.objective, spec.model.train_text_encoder
        )
        self.module: nn.Module = to_device(module, device)
        pretrained = [self.autoencoder, text_encoder, *([] if is_new else [self.denoiser])]
        fingerprints = [fingerprint_of_tensors(network) for network in pretrained]
        fingerprints.append(fingerprint_of_tokenizer(self.text))
        self.base = "-".join(fingerprint[:16] for fingerprint in fingerprints)
        require_plain_scaling(self.autoencoder)
        self._require_matching_widths()
        enable_gradient_checkpointing(self.denoiser, spec.training.gradient_checkpointing)
        multiple = max(PIPELINE_MULTIPLE, downsampling_factor(self.autoencoder))
        require_multiple("training.resolution", spec.training.resolution, multiple)
        self.latents = ImageLatents(
            data,
            spec.training,
            lambda images: encode(self.autoencoder, images.to(device)).cpu(),
            encoder_fingerprint=fingerprints[0],
            cached=spec.cache_latents,
            batch_size=ENCODE_BATCH,
        )
        self.caption_embeddings = EmbeddingCache(CACHE_BYTES)

    def prepare(self, store: Store, rank: int, world_size: int) -> Iterator[TrainingEvent]:
        """Look for captions that are cut, and encode this worker's share of the images."""
        if rank == 0:
            yield from cut_captions(self.data, self.text.limit().cut)
        yield from self.latents.prepare(store, rank, world_size)

    def load_prepared(self, store: Store) -> None:
        """Read the latents that all workers have encoded."""
        self.latents.load_prepared(store)

    def batch(self, items: Sequence[BatchItem]) -> dict[str, Tensor]:
        """Latents, noise, times, tokens and, if the text encoder is frozen, embeddings."""
        schedule = self.spec.schedule
        captions = [
            choose_caption(self.data, item, schedule.proportion_empty_prompts) for item in items
        ]
        x0 = self.latents.batch(items)
        input_ids, mask = self.text.tokenize(captions)
        batch = {
            "x0": x0,
            "noise": normal(tuple(x0.shape[1:]), [item.generator for item in items]),
            "times": self.objective.timesteps(torch.tensor([item.uniform for item in items])),
            "input_ids": input_ids,
            "mask": mask,
        }
        if not self.spec.model.train_text_encoder:
            cache = self.caption_embeddings
            embeddings = [self.text.encode_cached(caption, cache) for caption in captions]
            batch["embeddings"] = torch.cat(embeddings)
        return batch

    @torch.no_grad()
    def sample(self) -> tuple[list[ImageArray], list[str]]:
        """One image per prompt, from the same noise at every step."""
        samples = self.spec.samples
        prompts = sample_prompts(self.data, samples.prompts, samples.num_images)
        pipeline = self._pipeline()
        sampled: list[ImageArray] = []
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
            sampled += list((images * 255).round().astype("uint8"))
        return sampled, prompts

    def save(self, folder: Path) -> None:
        """Write the pipeline, and its default sampling settings in `nightpress.json`."""
        self._pipeline().save_pretrained(folder, safe_serialization=True)
        samples = self.spec.samples
        defaults = {
            "num_inference_steps": samples.num_inference_steps,
            "guidance_scale": samples.guidance_scale,
        }
        (folder / "nightpress.json").write_text(json.dumps(defaults) + "\n", encoding="utf-8")

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
        """The denoiser, and whether its weights are new."""
        source = self.spec.model.denoiser
        if isinstance(source, str):
            return self._saved(source, tuple(FAMILIES)), False
        return new_module(source, tuple(FAMILIES), self.spec.seed), True

    def _saved(self, source: str, allowed: Sequence[str]) -> Any:
        return saved_module(component_folder(source, self.spec.storage), allowed)

    def _tokenizer(self) -> Any:
        return saved_tokenizer(component_folder(self.spec.model.tokenizer, self.spec.storage))

    def _freeze(self, text_encoder: nn.Module) -> None:
        """Freeze the text encoder, or those of its weights that the job names.

        Raises:
            SettingsError: no weight has such a name.
        """
        model = self.spec.model
        text_encoder.requires_grad_(model.train_text_encoder)
        for part in model.frozen_parameters:
            named = [p for name, p in text_encoder.named_parameters() if part in name]
            if not named:
                raise SettingsError(
                    f"model.frozen_parameters: no text encoder weight has {part!r} in its name"
                )
            for parameter in named:
                parameter.requires_grad_(False)

    def _require_matching_widths(self) -> None:
        """Check that the denoiser fits the autoencoder's latents and the text embeddings."""
        config = self.denoiser.config
        channels = self.autoencoder.config.latent_channels
        if config.in_channels != channels:
            raise SettingsError(
                f"model.denoiser: in_channels is {config.in_channels}, but the autoencoder's "
                f"latents have {channels} channels"
            )
        text_config: Any = self.text.text_encoder.config
        width = config.get("caption_channels") or config.get("cross_attention_dim")
        if width != text_config.hidden_size:
            raise SettingsError(
                f"model.denoiser: it takes text embeddings of width {width}, but the text "
                f"encoder's have width {text_config.hidden_size}"
            )


def fingerprint_of_tokenizer(text: TextEncoding) -> str:
    """SHA-256 of the tokenizer's vocabulary and maximum length."""
    vocabulary = sorted(text.tokenizer.get_vocab().items())
    return hashlib.sha256(canonical_json([text.max_tokens, vocabulary]).encode()).hexdigest()


def objective_of(spec: DenoiserSpec) -> Objective:
    """Create the training objective from the job's `schedule` section."""
    schedule = spec.schedule
    return Objective(
        schedule=noise_process_of(schedule),
        prediction_type=schedule.prediction_type,
        min_snr_gamma=schedule.snr_gamma,
        time_sampling=TimeSampling(
            schedule.weighting_scheme,
            schedule.logit_mean,
            schedule.logit_std,
            schedule.timestep_shift,
        ),
    )


def noise_process_of(schedule: ScheduleSpec) -> NoiseProcess:
    """The flow matching path for `flow_prediction`, otherwise the beta schedule."""
    if schedule.prediction_type == "flow_prediction":
        return FlowPath(schedule.num_train_timesteps, schedule.shift)
    return NoiseSchedule(
        num_steps=schedule.num_train_timesteps,
        kind=schedule.beta_schedule,
        beta_start=schedule.beta_start,
        beta_end=schedule.beta_end,
        zero_terminal_snr=schedule.rescale_betas_zero_snr,
    )
