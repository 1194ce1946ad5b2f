"""Train something small around the frozen denoiser of any model that can be sampled.

Encodes images to the latents that the denoiser takes and prompts to its other arguments, and holds
the loss of one step. The conditioning of the denoiser is recorded from its pipeline; the prediction
target and the process come from its scheduler's configuration.

Read against diffusers 0.42.1. Relies on `_pack_latents(latents, batch_size, channels, height,
width)` of pipelines that pack latents. A pipeline without it is refused.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from nightpress.diffusion_core.conditioning.embedding_cache import EmbeddingCache
from nightpress.diffusion_core.errors import SettingsError, UnsupportedModel
from nightpress.diffusion_core.models.latent_scaling import scale_latents
from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.sampling.prompt_embeddings import CACHE_BYTES
from nightpress.diffusion_core.sampling.scheduler_config import prediction_type_of, process_of
from nightpress.diffusion_core.theory.noise import add_noise
from nightpress.diffusion_core.theory.prediction import target
from nightpress.diffusion_core.training.denoiser_calls import CallRecorder, CallTemplate
from nightpress.diffusion_core.training.objectives import Objective
from nightpress.diffusion_core.training.weighting import TimeSampling


class FrozenBaseTraining(nn.Module, ABC):
    """The loss of a step that trains something around a frozen denoiser; see `predict`.

    Args:
        model: the base model.
        part: the pipeline's name for its denoiser.
        height, width: of the images, in pixels; all images have one size.
        snr_gamma, time_sampling: how timesteps are weighted and drawn.
        guidance_scale: input of denoisers that take the guidance scale, such as FLUX.

    Raises:
        UnsupportedModel: the pipeline calls its denoiser in a way that training cannot reproduce.
        SettingsError: the model does not support the size.
    """

    def __init__(
        self,
        model: LoadedModel,
        part: str,
        height: int,
        width: int,
        snr_gamma: float | None,
        time_sampling: TimeSampling,
        guidance_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self._model = model
        self._owner = type(model.pipeline)
        if model.clips is not None:
            raise UnsupportedModel(f"{self._owner.__name__} cannot be trained: it makes clips")
        self._part = part
        self.objective = Objective(
            schedule=process_of(model.scheduler_config),
            prediction_type=prediction_type_of(model.scheduler_config),
            min_snr_gamma=snr_gamma,
            time_sampling=time_sampling,
        )
        _check_size(model, height, width)
        self.denoiser: nn.Module = getattr(model.pipeline, part)
        self._recorder = CallRecorder(model, part, height, width, guidance_scale)
        self.call_template: CallTemplate = self._recorder.template()
        self._cache = EmbeddingCache(CACHE_BYTES)

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
            conditioning: from `encode_prompts`, and what else `predict` takes.
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
        return self._output(arguments, num_channels=x_t.shape[1])

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write what was trained alone, in diffusers' layout."""

    def _output(self, arguments: dict[str, Any], num_channels: int) -> Tensor:
        """The denoiser's output for its arguments, in float32, as the scheduler takes it."""
        output: Tensor = self.denoiser(**arguments | {"return_dict": False})[0]
        # Some denoisers predict a variance too, in additional channels.
        return self.call_template.sign * output[:, :num_channels].float()

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


def _check_size(model: LoadedModel, height: int, width: int) -> None:
    for side, pixels in (("height", height), ("width", width)):
        if pixels < model.size_multiple or pixels % model.size_multiple:
            raise SettingsError(f"{side} {pixels} is not a multiple of {model.size_multiple}")
