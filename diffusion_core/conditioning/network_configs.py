"""What pipelines look for in the configuration of a network, where it says something else."""

import contextlib
from collections.abc import Iterator
from typing import Any

from nightpress.diffusion_core import patching

INPAINT = "inpaint with denoisers of any number of channels"
CHROMA = "inpaint with Chroma"

COUNT_CHANNELS = {
    "StableDiffusionInpaintPipeline": ("unet", 4),
    "StableDiffusionXLInpaintPipeline": ("unet", 4),
    "StableDiffusionPAGInpaintPipeline": ("unet", 4),
    "StableDiffusionXLPAGInpaintPipeline": ("unet", 4),
    "StableDiffusionControlNetInpaintPipeline": ("unet", 4),
    "StableDiffusionXLControlNetInpaintPipeline": ("unet", 4),
    "StableDiffusionXLControlNetUnionInpaintPipeline": ("unet", 4),
    "StableDiffusion3InpaintPipeline": ("transformer", 16),
}
"""Class -> its denoiser, and the number of channels that stands for plain latents."""


@contextlib.contextmanager
def any_number_of_channels(pipeline: Any) -> Iterator[None]:
    """Let one call of a pipeline inpaint with a denoiser whose input is plain latents.

    The classes in `COUNT_CHANNELS` tell from the number of channels how they inpaint: with 4 (16
    for SD3) they put the picture's own latents back into the kept part after each step; with 9 (33)
    the denoiser also sees the mask and the masked picture. They refuse other numbers, or, with a
    ControlNet, drop the mask silently. All else they compute from the VAE's channels, so a
    denoiser with as many channels as the VAE is shown to them with the number of the first kind.

    Read against diffusers 0.42.1. Relies on `__call__` reading `config.in_channels` of the denoiser
    for this purpose alone, and on `register_to_config` changing one value.
    """
    name, plain = COUNT_CHANNELS.get(type(pipeline).__name__, ("", 0))
    denoiser = getattr(pipeline, name, None)
    own = None if denoiser is None else denoiser.config.get("in_channels")
    if own in (None, plain) or own != pipeline.vae.config.get("latent_channels"):
        yield
        return
    patching.require_reference(type(pipeline).__call__, "in_channels", INPAINT)
    register = patching.require(denoiser, "register_to_config", INPAINT)
    register(in_channels=plain)
    try:
        yield
    finally:
        register(in_channels=own)


def add_missing_values(pipeline: Any) -> None:
    """Add what a class reads and the configuration of its denoiser lacks.

    Read against diffusers 0.42.1. `ChromaInpaintPipeline` reads `guidance_embeds`, which Chroma's
    transformer does not have: it takes no guidance.
    """
    if type(pipeline).__name__ != "ChromaInpaintPipeline":
        return
    patching.require_reference(type(pipeline).__call__, "guidance_embeds", CHROMA)
    if "guidance_embeds" not in pipeline.transformer.config:
        pipeline.transformer.register_to_config(guidance_embeds=False)
