"""Train a LoRA: a small adapter on the denoiser of any model that can be sampled.

Chooses the layers to adapt, encodes images to the latents that the denoiser takes, and holds the
loss of one step. The conditioning of the denoiser is recorded from its pipeline; the prediction
target and the process come from its scheduler's configuration.

Read against diffusers 0.42.1 and peft 0.21.2. Relies on `add_adapter` and `peft_config` of a
denoiser, on `save_lora_weights` of a pipeline and the names of its arguments, and on
`_pack_latents(latents, batch_size, channels, height, width)` of pipelines that pack latents. A
pipeline without them is refused.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from nightpress.diffusion_core.conditioning.embedding_cache import EmbeddingCache
from nightpress.diffusion_core.errors import SettingsError, UnsupportedModel, one_line
from nightpress.diffusion_core.models.latent_scaling import scale_latents
from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.models.lora_files import require_peft
from nightpress.diffusion_core.sampling.prompt_embeddings import CACHE_BYTES
from nightpress.diffusion_core.sampling.scheduler_config import prediction_type_of, process_of
from nightpress.diffusion_core.theory.noise import add_noise
from nightpress.diffusion_core.theory.prediction import target
from nightpress.diffusion_core.training.denoiser_calls import CallRecorder, CallTemplate
from nightpress.diffusion_core.training.objectives import Objective
from nightpress.diffusion_core.training.weighting import TimeSampling

ATTENTION = ("to_k", "to_q", "to_v", "to_out.0")
"""Names of the projections in diffusers' attention layers."""

MIN_ATTENTION_SHARE = 0.05
"""If attention holds a smaller share of a denoiser's weights, its other layers are adapted too."""


@dataclass(frozen=True)
class LoraSettings:
    """Settings of an adapter and its loss, named as in peft and diffusers' training scripts."""

    rank: int = 8
    lora_alpha: float | None = None
    """The adapter's output is scaled by alpha / rank; None means alpha = rank."""
    lora_dropout: float = 0.0
    target_modules: tuple[str, ...] = ()
    """Suffixes of layer names; if empty, `default_targets` chooses the layers."""
    snr_gamma: float | None = None
    time_sampling: TimeSampling = field(default_factory=TimeSampling)
    guidance_scale: float = 1.0
    """Input of denoisers that take the guidance scale, such as FLUX."""
    seed: int = 0
    """Seed of the adapter's initial weights."""


def default_targets(denoiser: nn.Module) -> list[str]:
    """The layers to adapt by default.

    These are the attention projections if they hold at least `MIN_ATTENTION_SHARE` of the weights;
    otherwise every linear and convolutional layer, by its full name.
    """
    weights = {
        name: layer.weight.numel()
        for name, layer in denoiser.named_modules()
        if isinstance(layer, (nn.Linear, nn.Conv2d))
    }
    attention = sum(num for name, num in weights.items() if name.endswith(ATTENTION))
    total = sum(parameter.numel() for parameter in denoiser.parameters())
    return list(ATTENTION) if attention >= MIN_ATTENTION_SHARE * total else sorted(weights)


class LoraTraining(nn.Module):
    """A denoiser with frozen weights and a trainable adapter.

    Put the module in evaluation mode before sampling with the pipeline of `model`; otherwise
    `lora_dropout` is active.

    Args:
        model: changed in place; its denoiser carries the adapter from now on.
        settings: of the adapter and the loss.
        height, width: of the images, in pixels; all images have one size.

    Raises:
        UnsupportedModel: the pipeline's class cannot save LoRAs, or calls its denoiser in a way
            that training cannot reproduce.
        SettingsError: the model does not support the size, or has no such layers.
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
        self._recorder = CallRecorder(model, self._part, height, width, settings.guidance_scale)
        self.call_template: CallTemplate = self._recorder.template()
        self._cache = EmbeddingCache(CACHE_BYTES)
        _add_adapter(self.denoiser, settings)

    @torch.no_grad()
    def encode_images(self, pixels: Tensor, generator: Generator | None = None) -> Tensor:
        """Encode images (B, 3, H, W) in [-1, 1] to latents (B, ...) as the denoiser takes them.

        Args:
            pixels: images of the size that this module was made for.
            generator: samples the autoencoder's posterior; if None, the posterior's mean is used.

        Raises:
            UnsupportedModel: the pipeline packs its latents in an unknown way.
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
        """The denoiser's arguments for these prompts: name -> (B, ...), in CPU memory.

        Each prompt is encoded once, alone, and cached.

        Raises:
            SettingsError: the embeddings of these prompts differ in length.
        """
        rows = [self._encoded(prompt) for prompt in prompts]
        shapes = {tuple(value.shape for value in row.values()) for row in rows}
        if len(shapes) > 1:
            raise SettingsError(
                f"{self._owner.__name__} encodes prompts to different lengths, which cannot share "
                "a batch; use train_batch_size 1"
            )
        names = self.call_template.per_prompt
        return {name: torch.cat([row[name] for row in rows]) for name in names}

    def forward(
        self, x0: Tensor, noise: Tensor, times: Tensor, **conditioning: Tensor
    ) -> dict[str, Tensor]:
        """The loss of a batch: the weighted squared error of the model's prediction.

        Args:
            x0, noise: (B, ...) from `encode_images`, and normal noise of the same shape.
            times: (B,) timesteps of the objective's process.
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
        """The model's prediction for noisy latents (B, ...), of the same shape in float32."""
        dtype = getattr(torch, self._model.dtype)
        arguments = self.call_template.arguments(x_t.to(dtype), times, conditioning)
        output: Tensor = self.denoiser(**arguments | {"return_dict": False})[0]
        # Some denoisers predict a variance too, in additional channels.
        return self.call_template.sign * output[:, : x_t.shape[1]].float()

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
        cached = self._cache.get(("prompt", prompt))
        if cached is None:
            encoded = self._recorder.prompt(prompt, self.call_template.per_prompt)
            cached = self._cache.put(("prompt", prompt), encoded)
        return dict(cached)

    def _packed(self, latents: Tensor) -> Tensor:
        """The latents in the layout that the denoiser takes."""
        wanted = self.call_template.sample_shape
        if tuple(latents.shape[1:]) == wanted:
            return latents
        pack = getattr(self._model.pipeline, "_pack_latents", None)
        if pack is not None and len(inspect.signature(pack).parameters) == 5:
            packed: Tensor = pack(latents, *latents.shape)
            if tuple(packed.shape[1:]) == wanted:
                return packed
        raise UnsupportedModel(
            f"{self._owner.__name__} cannot be trained: its autoencoder makes latents of shape "
            f"{tuple(latents.shape[1:])}, but its denoiser takes {wanted}"
        )


def _denoiser_of(model: LoadedModel) -> str:
    """The pipeline's name for its denoiser."""
    owner = type(model.pipeline)
    if not hasattr(owner, "save_lora_weights"):
        raise UnsupportedModel(f"{owner.__name__} cannot be trained: it cannot save LoRAs")
    for part in ("unet", "transformer"):
        denoiser = getattr(model.pipeline, part, None)
        if denoiser is not None and hasattr(denoiser, "add_adapter"):
            if getattr(denoiser, "peft_config", None):
                raise SettingsError(
                    "model.loras: a LoRA can only be trained on a model without one"
                )
            return part
    raise UnsupportedModel(f"{owner.__name__} cannot be trained: it has no unet or transformer")


def _check_size(model: LoadedModel, height: int, width: int) -> None:
    for side, pixels in (("height", height), ("width", width)):
        if pixels < model.size_multiple or pixels % model.size_multiple:
            raise SettingsError(f"{side} {pixels} is not a multiple of {model.size_multiple}")


def _add_adapter(denoiser: Any, settings: LoraSettings) -> None:
    """Freeze the network and add a float32 adapter; its second matrix starts at zero."""
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
