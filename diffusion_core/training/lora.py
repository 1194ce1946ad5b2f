"""Training a LoRA: a small adapter on the denoiser of any model that can be sampled.

Owns where the adapter sits, how pictures become the latents that the denoiser takes, and what one
step computes. How a family conditions its denoiser is recorded from its pipeline; what is
predicted, and on which process, its scheduler's configuration says. Knows no data set, no
optimizer and no loop.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from nightpress.diffusion_core.errors import SettingsError, UnsupportedModel, one_line
from nightpress.diffusion_core.models.latent_scaling import scale_latents
from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.models.lora_files import require_peft
from nightpress.diffusion_core.sampling.prompt_embeddings import CACHE_BYTES, EmbeddingCache
from nightpress.diffusion_core.sampling.scheduler_config import prediction_type_of, process_of
from nightpress.diffusion_core.theory.noise import add_noise
from nightpress.diffusion_core.theory.prediction import target
from nightpress.diffusion_core.training.denoiser_calls import Calling, Recorder
from nightpress.diffusion_core.training.objectives import Objective
from nightpress.diffusion_core.training.weighting import TimeSampling

ATTENTION = ("to_k", "to_q", "to_v", "to_out.0")
"""The projections of diffusers' attention layers."""

LEAST_SHARE = 0.05
"""Where attention holds less of a denoiser's weights, its other layers are adapted too."""


@dataclass(frozen=True)
class LoraSettings:
    """The adapter, under the names of peft and diffusers' training scripts."""

    rank: int = 8
    lora_alpha: float | None = None
    """The adapter's answer is scaled by alpha / rank; None for the rank."""
    lora_dropout: float = 0.0
    target_modules: tuple[str, ...] = ()
    """Ends of layer names; chosen by `default_targets` if empty."""
    snr_gamma: float | None = None
    time_sampling: TimeSampling = field(default_factory=TimeSampling)
    guidance_scale: float = 1.0
    """Told to denoisers that take it as an input, as FLUX does."""
    seed: int = 0
    """Of the adapter's first weights."""


def default_targets(denoiser: nn.Module) -> list[str]:
    """The layers to adapt when nobody says which.

    The attention projections, where they hold at least `LEAST_SHARE` of the weights; else every
    linear and convolutional layer by its full name.
    """
    weights = {
        name: layer.weight.numel()
        for name, layer in denoiser.named_modules()
        if isinstance(layer, (nn.Linear, nn.Conv2d))
    }
    attention = sum(num for name, num in weights.items() if name.endswith(ATTENTION))
    total = sum(parameter.numel() for parameter in denoiser.parameters())
    return list(ATTENTION) if attention >= LEAST_SHARE * total else sorted(weights)


class LoraTraining(nn.Module):
    """A denoiser whose own weights stay as they are, with an adapter that is trained.

    While the pipeline of `model` is sampled, the module should be in evaluation mode, or
    `lora_dropout` is at work.

    Args:
        model: changed in place: its denoiser carries the adapter from now on.
        settings: of the adapter and the loss.
        height, width: of the pictures, in pixels; one size for all.

    Raises:
        UnsupportedModel: the pipeline's class cannot save LoRAs, or drives its denoiser in a way
            that training cannot repeat.
        SettingsError: sizes or layers that the model has not.
        ModelError: peft is not installed.
    """

    def __init__(self, model: LoadedModel, settings: LoraSettings, height: int, width: int) -> None:
        super().__init__()
        require_peft()
        self._model = model
        self._owner = type(model.pipeline)
        self._part = _denoiser_of(model)
        self.objective = Objective(
            schedule=process_of(model.scheduler_config),
            prediction_type=prediction_type_of(model.scheduler_config),
            min_snr_gamma=settings.snr_gamma,
            time_sampling=settings.time_sampling,
        )
        _check_size(model, height, width)
        self.denoiser: nn.Module = getattr(model.pipeline, self._part)
        self._recorder = Recorder(model, self._part, height, width, settings.guidance_scale)
        self.calling: Calling = self._recorder.calling()
        self._cache = EmbeddingCache(CACHE_BYTES)
        _add_adapter(self.denoiser, settings)

    @torch.no_grad()
    def encode_images(self, pixels: Tensor, generator: Generator | None = None) -> Tensor:
        """Latents (B, ...) as the denoiser takes them, of pictures (B, 3, H, W) in [-1, 1].

        Args:
            pixels: of the size that this module was made for.
            generator: samples the autoencoder's posterior; its mean if None.

        Raises:
            UnsupportedModel: the family arranges its latents in a way that is not known here.
        """
        vae = self._model.pipeline.vae
        encoded = vae.encode(pixels.to(vae.device, vae.dtype))
        if hasattr(encoded, "latent_dist"):
            posterior = encoded.latent_dist
            latents = posterior.mean if generator is None else posterior.sample(generator)
        else:
            latents = encoded.latent
        return self._packed(scale_latents(latents, vae.config)).float()

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """What conditions the denoiser on these prompts: argument -> (B, ...), in CPU memory.

        A prompt is encoded once, alone, and remembered.

        Raises:
            SettingsError: prompts whose embeddings differ in length; train them one at a time.
        """
        rows = [self._encoded(prompt) for prompt in prompts]
        shapes = {tuple(value.shape for value in row.values()) for row in rows}
        if len(shapes) > 1:
            raise SettingsError(
                f"{self._owner.__name__} encodes prompts to different lengths, which share no "
                "batch; use train_batch_size 1"
            )
        return {name: torch.cat([row[name] for row in rows]) for name in self.calling.per_prompt}

    def forward(
        self, x0: Tensor, noise: Tensor, times: Tensor, **conditioning: Tensor
    ) -> dict[str, Tensor]:
        """The loss of a batch: weighted squared errors of what this model predicts.

        Args:
            x0, noise: (B, ...) from `encode_images`, and normal noise of that shape.
            times: (B,) as the objective's schedule counts them.
            conditioning: from `encode_prompts`.
        """
        alpha, sigma = (
            value.view(-1, *[1] * (x0.ndim - 1))
            for value in self.objective.schedule.alpha_sigma(times)
        )
        output = self.predict(add_noise(x0, noise, alpha, sigma), times, conditioning)
        wanted = target(self.objective.prediction_type, x0, noise, alpha, sigma)
        errors = (output - wanted).square()
        return {"loss": (self.objective.weights(alpha, sigma) * errors).mean()}

    def predict(self, x_t: Tensor, times: Tensor, conditioning: dict[str, Tensor]) -> Tensor:
        """The model's prediction for noisy latents (B, ...), float32, of their shape."""
        dtype = getattr(torch, self._model.dtype)
        arguments = self.calling.arguments(x_t.to(dtype), times, conditioning)
        output: Tensor = self.denoiser(**arguments | {"return_dict": False})[0]
        # Some answer with a variance too, in further channels.
        return self.calling.sign * output[:, : x_t.shape[1]].float()

    def save(self, folder: Path) -> None:
        """Write `pytorch_lora_weights.safetensors`, as diffusers' `load_lora_weights` reads it."""
        from peft.utils import get_peft_model_state_dict

        denoiser: Any = self.denoiser
        layers = get_peft_model_state_dict(denoiser, adapter_name="default")
        arguments = {
            f"{self._part}_lora_layers": {k: v.detach().cpu() for k, v in layers.items()},
            f"{self._part}_lora_adapter_metadata": denoiser.peft_config["default"].to_dict(),
        }
        takes = inspect.signature(self._owner.save_lora_weights).parameters
        self._owner.save_lora_weights(folder, **{k: v for k, v in arguments.items() if k in takes})

    def _encoded(self, prompt: str) -> dict[str, Tensor]:
        held = self._cache.get(("prompt", prompt))
        if held is None:
            encoded = self._recorder.prompt(prompt, self.calling.per_prompt)
            held = self._cache.put(("prompt", prompt), encoded)
        return dict(held)

    def _packed(self, latents: Tensor) -> Tensor:
        """The latents in the order in which the denoiser takes them."""
        if tuple(latents.shape[1:]) == self.calling.shape:
            return latents
        pack = getattr(self._model.pipeline, "_pack_latents", None)
        if pack is not None and len(inspect.signature(pack).parameters) == 5:
            packed: Tensor = pack(latents, *latents.shape)
            if tuple(packed.shape[1:]) == self.calling.shape:
                return packed
        raise UnsupportedModel(
            f"{self._owner.__name__} cannot be trained: its autoencoder makes latents of shape "
            f"{tuple(latents.shape[1:])}, and its denoiser takes {self.calling.shape}"
        )


def _denoiser_of(model: LoadedModel) -> str:
    """What the pipeline calls its denoiser."""
    owner = type(model.pipeline)
    if not hasattr(owner, "save_lora_weights"):
        raise UnsupportedModel(f"{owner.__name__} cannot be trained: it saves no LoRAs")
    for part in ("unet", "transformer"):
        denoiser = getattr(model.pipeline, part, None)
        if denoiser is not None and hasattr(denoiser, "add_adapter"):
            if getattr(denoiser, "peft_config", None):
                raise SettingsError("model.loras: a LoRA is trained on a model that has none")
            return part
    raise UnsupportedModel(f"{owner.__name__} cannot be trained: it has no unet or transformer")


def _check_size(model: LoadedModel, height: int, width: int) -> None:
    for side, pixels in (("height", height), ("width", width)):
        if pixels < model.size_multiple or pixels % model.size_multiple:
            raise SettingsError(f"{side} {pixels} is not a multiple of {model.size_multiple}")


def _add_adapter(denoiser: Any, settings: LoraSettings) -> None:
    """Freeze the network and give it an adapter in float32, whose second half is zero."""
    from peft import LoraConfig

    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.lora_alpha or settings.rank,
        lora_dropout=settings.lora_dropout,
        target_modules=list(settings.target_modules) or default_targets(denoiser),
        init_lora_weights="gaussian",
    )
    denoiser.requires_grad_(False)
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        try:
            denoiser.add_adapter(config)
        except ValueError as error:
            reason = one_line(error, 300)
            raise SettingsError(f"target_modules {settings.target_modules}: {reason}") from error
    for parameter in denoiser.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
