"""Train a text-conditional latent denoiser: a U-Net or a transformer of diffusers.

Lists which denoisers, text encoders and pipelines belong together, and holds the loss of one step.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, nn

from nightpress.diffusion_core.conditioning.embedding_cache import EmbeddingCache
from nightpress.diffusion_core.models.prompts import PromptTokenizer, prompt_tokenizer
from nightpress.diffusion_core.theory.noise import FlowPath
from nightpress.diffusion_core.training.objectives import Objective, denoising_loss

MAX_T5_TOKENS = 300
"""The prompt length of PixArt-Sigma's pipeline, which it uses by default."""


@dataclass(frozen=True)
class Family:
    """A denoiser class of diffusers with its text encoders and its pipeline."""

    denoiser: str
    pipeline: str
    text_encoders: tuple[str, ...]
    part: str
    """The pipeline's name for the denoiser."""
    call_settings: Mapping[str, Any] = field(default_factory=dict)
    """Arguments with which the pipeline uses the size and the prompt unchanged."""


FAMILIES = {
    family.denoiser: family
    for family in (
        Family("UNet2DConditionModel", "StableDiffusionPipeline", ("CLIPTextModel",), "unet"),
        Family(
            "PixArtTransformer2DModel",
            "PixArtSigmaPipeline",
            ("T5EncoderModel",),
            "transformer",
            {"use_resolution_binning": False, "clean_caption": False},
        ),
    )
}


class TextEncoding(nn.Module):
    """Encodes prompts as the family's pipeline does.

    Read against diffusers 0.42.1: `StableDiffusionPipeline` passes CLIP no attention mask;
    `PixArtSigmaPipeline` lower-cases and strips prompts, cuts them to 300 tokens and passes T5 the
    mask.
    """

    def __init__(self, tokenizer: Any, text_encoder: nn.Module) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.text_encoder = text_encoder
        self.masked = type(text_encoder).__name__.startswith("T5")
        limit = int(tokenizer.model_max_length)
        self.max_tokens = min(limit, MAX_T5_TOKENS) if self.masked else limit

    def limit(self) -> PromptTokenizer:
        """How much of a prompt `tokenize` keeps."""
        return prompt_tokenizer(self.tokenizer, self.max_tokens, lowercases=self.masked)

    def tokenize(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids (B, n), and the mask (B, n) of those that are not padding."""
        texts = [p.lower().strip() if self.masked else p for p in prompts]
        tokens = self.tokenizer(
            texts,
            padding="max_length",
            max_length=self.max_tokens,
            truncation=True,
            return_tensors="pt",
        )
        return tokens.input_ids, tokens.attention_mask

    def forward(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """Embeddings (B, n, d)."""
        attention_mask = mask if self.masked else None
        hidden: Tensor = self.text_encoder(input_ids, attention_mask=attention_mask)[0]
        return hidden

    @torch.no_grad()
    def encode_cached(self, prompt: str, cache: EmbeddingCache) -> Tensor:
        """Embeddings (1, n, d) of one prompt in CPU memory; each prompt is encoded once, alone."""
        key = ("prompt", prompt)
        cached = cache.get(key)
        if cached is None:
            device = next(self.text_encoder.parameters()).device
            input_ids, mask = self.tokenize([prompt])
            hidden = self(input_ids.to(device), mask.to(device))
            cached = cache.put(key, {"embeddings": hidden.cpu()})
        return cached["embeddings"]


class DenoiserTraining(nn.Module):
    """One training step of a denoiser, and of its text encoder if that is trained too."""

    def __init__(
        self, denoiser: nn.Module, text: TextEncoding, objective: Objective, train_text: bool
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.text = text
        self.objective = objective
        self.train_text = train_text

    def train(self, mode: bool = True) -> Self:
        """Set training mode, but never on a frozen text encoder."""
        # Not even briefly, because another thread may be encoding prompts with it.
        self.training = mode
        self.denoiser.train(mode)
        self.text.train(mode and self.train_text)
        return self

    def forward(
        self,
        x0: Tensor,
        noise: Tensor,
        times: Tensor,
        input_ids: Tensor,
        mask: Tensor,
        embeddings: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The loss of a batch.

        Args:
            x0, noise: (B, C, h, w) latents of unit variance, and normal noise.
            times: (B,) timesteps of the objective's process.
            input_ids, mask: (B, n) tokens of the prompts.
            embeddings: (B, n, d) of the prompts, if a frozen text encoder has encoded them already.
        """
        if embeddings is None:
            with torch.set_grad_enabled(self.train_text and torch.is_grad_enabled()):
                embeddings = self.text(input_ids, mask)

        def predict(x_t: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
            return self.predict(x_t, timesteps, text, mask)

        loss = denoising_loss(predict, self.objective, x0, noise, times, embeddings)
        return {"loss": loss}

    def predict(self, x_t: Tensor, timesteps: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        """The denoiser's output (B, C, h, w), without variance channels."""
        extra: dict[str, Any] = {}
        if self.text.masked:
            extra = {
                "encoder_attention_mask": mask,
                "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
            }
        if x_t.device.type == "cpu":
            x_t = x_t.to(memory_format=torch.channels_last)
        output: Tensor = self.denoiser(
            x_t, timestep=timesteps, encoder_hidden_states=text, return_dict=False, **extra
        )[0]
        return output[:, : x_t.shape[1]]


def new_scheduler(objective: Objective) -> Any:
    """The default sampler of a trained pipeline: DPM-Solver++, which needs about 20 steps."""
    from diffusers import DPMSolverMultistepScheduler

    settings: dict[str, Any] = {
        "prediction_type": objective.prediction_type,
        "steps_offset": 1,  # diffusers warns about any other value
    }
    if isinstance(objective.schedule, FlowPath):
        settings |= {
            "use_flow_sigmas": True,
            "flow_shift": objective.schedule.shift,
            "num_train_timesteps": objective.schedule.num_steps,
        }
        return DPMSolverMultistepScheduler(**settings)
    settings |= objective.schedule.scheduler_config()
    scheduler = DPMSolverMultistepScheduler(
        timestep_spacing="trailing",
        **settings,
    )
    # DDIM and DDPM made from this configuration would clip latents to [-1, 1] by default.
    scheduler.register_to_config(clip_sample=False)
    return scheduler


def new_pipeline(
    family: Family,
    denoiser: nn.Module,
    autoencoder: nn.Module,
    text_encoder: nn.Module,
    tokenizer: Any,
    scheduler: Any,
) -> Any:
    """Assemble a diffusers pipeline from its parts, without progress bars; it shares their weights.

    Pass a tokenizer that nothing else uses, because each use changes its state.
    """
    import diffusers

    parts: dict[str, Any] = {
        family.part: denoiser,
        "vae": autoencoder,
        "text_encoder": text_encoder,
        "tokenizer": tokenizer,
        "scheduler": scheduler,
    }
    if family.pipeline == "StableDiffusionPipeline":
        parts |= {
            "safety_checker": None,
            "feature_extractor": None,
            "requires_safety_checker": False,
        }
    pipeline = getattr(diffusers, family.pipeline)(**parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
