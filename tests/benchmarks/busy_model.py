"""SDXL as a benchmark of the host needs it: every module and tensor of its size, and no weights.

The networks have SDXL's layers, so switching a LoRA visits as many as it does there, but they are
narrow and never called: each call puts the seconds of a real one into a simulated accelerator.
Embeddings, latents and images have SDXL's sizes.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from random_models import SDXL, Architecture, Network, make
from simulated_accelerator import Accelerator
from support import tiny_controlnets, tiny_loras

from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.pipelines.models.files import ModelFiles

STEPS = 20
DECODING = 2
"""What decoding an image takes, in calls of the denoiser."""

NARROW: dict[str, dict[str, Any]] = {
    "text_encoder": {"intermediate_size": 32, "num_hidden_layers": 1, "vocab_size": 128},
    "text_encoder_2": {"intermediate_size": 32, "num_hidden_layers": 1, "vocab_size": 128},
    "unet": {"block_out_channels": (32, 64, 128), "attention_head_dim": (1, 2, 4)},
    "vae": {"block_out_channels": (4, 4, 8, 8), "norm_num_groups": 4},
}


def save(folder: Path, shallow: bool = False) -> dict[str, Any]:
    """Save the model, two LoRAs and a ControlNet; returns the section `model` of a job.

    Args:
        shallow: with a tenth of SDXL's layers, for tests.
    """
    architecture = _narrow(shallow)
    pipeline = make(architecture, "tiny", "float32", "cpu")
    pipeline.save_pretrained(folder / "sdxl")
    hint = (8, 8, 8, 8)  # control images become eight times smaller, as the images of the VAE
    tiny_controlnets.save(pipeline, folder / "control", conditioning_embedding_out_channels=hint)
    for seed, name in enumerate(("a", "b")):
        tiny_loras.save(pipeline, folder / name, seed)
        pipeline.unet.delete_adapters("default")
    return {
        "source": str(folder / "sdxl"),
        "dtype": "bfloat16",
        "row_loras": [{"source": str(folder / name), "name": name} for name in ("a", "b")],
        "controlnets": [{"source": str(folder / "control"), "name": "control"}],
    }


def _narrow(shallow: bool) -> Architecture:
    networks = dict[str, Network]()
    for name, network in SDXL.networks.items():
        tiny = dict(NARROW[name])
        if name == "unet" and shallow:
            tiny["transformer_layers_per_block"] = (1, 1, 1)
        networks[name] = replace(network, tiny=tiny)
    return replace(SDXL, networks=networks)


def load(spec: ModelSpec, accelerator: Accelerator, images_per_s: float) -> LoadedModel:
    """Load the model onto the simulated accelerator.

    Args:
        spec: the model of the job.
        accelerator: does the work of the networks.
        images_per_s: how many images of 1024 x 1024 it makes in STEPS steps.
    """
    loaded = ModelFiles.locate(spec, {}).load(spec, "cpu")
    pipeline = loaded.pipeline
    networks = [pipeline.unet, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2]
    for network in (*networks, *(each.network for each in loaded.controlnets)):
        network.to("meta")
    call_s = 1 / images_per_s / (STEPS + DECODING)
    pipeline.unet.forward = _Denoiser(accelerator, call_s)
    for each in loaded.controlnets:
        each.network.forward = _ControlNet()
    pipeline.vae.decode = _Decoder(accelerator, DECODING * call_s)
    pipeline.vae.encode = _encode
    pipeline.vae.to = _unchanged
    for encoder in (pipeline.text_encoder, pipeline.text_encoder_2):
        encoder.forward = _TextEncoder(encoder)
    return replace(loaded, device="meta")


def _megapixels(latents: torch.Tensor) -> float:
    """The pixels of a batch of latents, in images of 1024 x 1024."""
    return latents.shape[0] * latents.shape[2] * latents.shape[3] / 128**2


class _Denoiser:
    def __init__(self, accelerator: Accelerator, call_s: float) -> None:
        self._accelerator, self._call_s = accelerator, call_s

    def __call__(self, sample: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor]:
        halves = 2  # with and without the prompt
        self._accelerator.enqueue(self._call_s * _megapixels(sample) / halves)
        return (torch.empty_like(sample),)


class _ControlNet:
    """Its work counts as part of the denoiser's: the asked rate is that of all modes."""

    def __call__(self, sample: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        return [torch.empty_like(sample)], torch.empty_like(sample)


class _Decoder:
    def __init__(self, accelerator: Accelerator, image_s: float) -> None:
        self._accelerator, self._image_s = accelerator, image_s

    def __call__(self, latents: torch.Tensor, **kwargs: Any) -> tuple[torch.Tensor]:
        self._accelerator.enqueue(self._image_s * _megapixels(latents))
        size, _, height, width = latents.shape
        return (latents.new_empty(size, 3, 8 * height, 8 * width),)


def _unchanged(*args: Any, **kwargs: Any) -> None:
    """Converts no weights: on the meta device that takes many times what it takes on a GPU.

    Two modes of SDXL convert those of the VAE to float32 and back in each batch.
    """


def _encode(images: torch.Tensor) -> Any:
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
    from diffusers.models.modeling_outputs import AutoencoderKLOutput

    size, _, height, width = images.shape
    moments = images.new_empty(size, 8, height // 8, width // 8)
    return AutoencoderKLOutput(latent_dist=DiagonalGaussianDistribution(moments))


class _TextEncoder:
    def __init__(self, encoder: Any) -> None:
        self._encoder, self._config = type(encoder).__name__, encoder.config

    def __call__(self, input_ids: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        from transformers.modeling_outputs import BaseModelOutputWithPooling
        from transformers.models.clip.modeling_clip import CLIPTextModelOutput

        width, kind = self._config.hidden_size, torch.bfloat16
        states = torch.empty(*input_ids.shape, width, dtype=kind, device="meta")
        pooled = torch.empty(len(input_ids), width, dtype=kind, device="meta")
        if self._encoder == "CLIPTextModelWithProjection":
            return CLIPTextModelOutput(
                text_embeds=pooled, last_hidden_state=states, hidden_states=(states, states)
            )
        return BaseModelOutputWithPooling(
            last_hidden_state=states, pooler_output=pooled, hidden_states=(states, states)
        )


def photographs(width: int, height: int, number: int) -> np.ndarray:
    """Pictures with a spectrum like that of photographs, (number, height, width, 3) of uint8.

    Amplitudes fall with the inverse of the frequency, as Field 1987 measured in natural images,
    with a little noise of a sensor on top.
    """
    made = [photograph(width, height, seed) for seed in range(number)]
    return np.stack(made)


def photograph(width: int, height: int, seed: int) -> np.ndarray:
    """One such picture, (height, width, 3)."""
    chance = np.random.default_rng(seed)
    down = np.fft.fftfreq(height)[:, None]
    along = np.fft.rfftfreq(width)[None]
    amplitude = 1 / np.maximum(np.hypot(down, along), 1 / max(width, height)) ** 1.2
    phases = np.exp(2j * np.pi * chance.random(amplitude.shape))
    grey = np.fft.irfft2(amplitude * phases, s=(height, width))
    grey = 128 + 48 * (grey - grey.mean()) / grey.std()
    tint = np.array([1.0, 0.95, 0.9])
    noise = chance.normal(0, 0.8, (height, width, 3))
    return np.clip(grey[..., None] * tint + noise, 0, 255).astype(np.uint8)


def write_pictures(folder: Path, size: tuple[int, int], seeds: Sequence[int]) -> list[str]:
    """Write photographs as JPEG files, and a mask `mask.png`; returns the names."""
    names = [f"photo-{seed}.jpg" for seed in seeds]
    for name, seed in zip(names, seeds, strict=True):
        Image.fromarray(photograph(*size, seed)).save(folder / name, quality=92)
    mask = np.zeros((size[1], size[0]), np.uint8)
    mask[:, size[0] // 2 :] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    return names
