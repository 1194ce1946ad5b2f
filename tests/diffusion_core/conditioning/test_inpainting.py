"""What inpainting keeps, and inpainting with other numbers of latent channels."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor
from support import pictures

from nightpress.diffusion_core.conditioning import network_configs
from nightpress.diffusion_core.conditioning.spec import ConditionImages, Pixels
from nightpress.diffusion_core.errors import IncompatibleLibrary, SamplingError
from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.sampling import schedulers
from nightpress.diffusion_core.sampling.request import ImageRequest, SamplingParams
from nightpress.diffusion_core.sampling.sampler import Sampler

Loaded = Callable[[str], LoadedModel]


def reference(model: LoadedModel, request: ImageRequest, settings: SamplingParams) -> Pixels:
    """Inpainting as diffusers does with four channels, written out; unguided, (H, W, 3).

    After each step the kept part is replaced by the picture's own latents at the next noise level.
    """
    pipeline, strength = model.pipeline, settings.conditioning.strength or 1.0
    noise_of = torch.Generator().manual_seed(request.seed)
    processor = VaeImageProcessor(vae_scale_factor=2)
    assert request.images.init_image is not None
    assert request.images.mask_image is not None
    picture = torch.tensor(request.images.init_image)[None].permute(0, 3, 1, 2) / 255 * 2 - 1
    mask = torch.tensor(request.images.mask_image)[None, None, ::2, ::2] / 255
    factor = pipeline.vae.config.scaling_factor
    own = pipeline.vae.encode(picture).latent_dist.sample(noise_of) * factor
    scheduler = schedulers.make(settings.scheduler, model.scheduler_config)
    scheduler.set_timesteps(settings.num_inference_steps)
    first = settings.num_inference_steps - int(settings.num_inference_steps * strength)
    times = scheduler.timesteps[first * scheduler.order :]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first * scheduler.order)
    noise = torch.randn(own.shape, generator=noise_of)
    if strength == 1:
        x = noise * scheduler.init_noise_sigma
    else:
        x = scheduler.add_noise(own, noise, times[:1])
    text, _ = pipeline.encode_prompt(request.prompt, torch.device("cpu"), 1, False)
    for place, time in enumerate(times):
        scaled = scheduler.scale_model_input(x, time)
        predicted = pipeline.unet(scaled, time, encoder_hidden_states=text).sample
        x = scheduler.step(predicted, time, x).prev_sample
        last = place == len(times) - 1
        kept = own if last else scheduler.add_noise(own, noise, times[place + 1 : place + 2])
        x = (1 - mask) * kept + mask * x
    images = processor.postprocess(pipeline.vae.decode(x / factor).sample, output_type="np")
    return (images[0] * 255).round().astype(np.uint8)


@pytest.mark.parametrize("strength", [1.0, 0.5])
@pytest.mark.parametrize("sampler", ["ddim", "euler", "dpmsolver++"])
@pytest.mark.parametrize("family", [pytest.param("sd", marks=pytest.mark.slow), "sd8"])
def test_inpainting_does_the_same_with_four_channels_and_with_eight(
    family: str, sampler: str, strength: float, loaded: Loaded
) -> None:
    request = pictures.requests("inpaint")[1]
    settings = pictures.params("inpaint", strength, scheduler=sampler, guidance_scale=1.0)
    made = Sampler(loaded(family), 1).sample([request], settings).pixels[0]
    with torch.inference_mode():
        expected = reference(loaded(family), request, settings)
    # Other operations in another order: with some vector instructions a value rounds otherwise.
    np.testing.assert_allclose(made.astype(int), expected.astype(int), atol=1, rtol=0)
    assert (made == expected).mean() > 0.999


def decoded_latents(model: LoadedModel, request: ImageRequest, settings: SamplingParams) -> Any:
    """What the decoder is given, (1, C, h, w)."""
    given: list[torch.Tensor] = []
    watch = model.pipeline.vae.decoder.register_forward_pre_hook(
        lambda _, inputs: given.append(inputs[0])
    )
    try:
        Sampler(model, 1).sample([request], settings)
    finally:
        watch.remove()
    return given[-1]


@pytest.mark.parametrize(
    "family",
    [
        "sd8",
        "flux",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("sd", "sdxl", "sd3")),
    ],
)
def test_the_black_part_of_a_mask_keeps_the_pictures_own_latents(
    family: str, loaded: Loaded
) -> None:
    request, settings = pictures.requests("inpaint")[0], pictures.params("inpaint", 1.0)
    other = dataclasses.replace(request, prompt="something else")
    first, second = (decoded_latents(loaded(family), each, settings) for each in (request, other))
    changed = (first != second).any(1).repeat_interleave(2, -1).repeat_interleave(2, -2)[0]
    assert changed.any()
    assert not changed[torch.from_numpy(request.images.mask_image == 0)].any()


def test_an_all_black_mask_gives_the_picture_back_as_the_autoencoder_has_it(
    loaded: Loaded,
) -> None:
    images = ConditionImages(pictures.picture(0), np.zeros((32, 64), np.uint8))
    request = ImageRequest("a red fox", "", 3, images=images)
    made = Sampler(loaded("sd8"), 1).sample([request], pictures.params("inpaint")).pixels[0]
    vae, processor = loaded("sd8").pipeline.vae, VaeImageProcessor(vae_scale_factor=2)
    picture = torch.tensor(pictures.picture(0))[None].permute(0, 3, 1, 2) / 255 * 2 - 1
    with torch.inference_mode():
        latents = vae.encode(picture).latent_dist.sample(torch.Generator().manual_seed(3))
        factor = vae.config.scaling_factor
        decoded = vae.decode(latents * factor / factor).sample
    expected = processor.postprocess(decoded, output_type="np")[0]
    np.testing.assert_array_equal(made, (expected * 255).round().astype(np.uint8))


def test_a_denoiser_has_its_own_number_of_channels_again_after_a_call_that_failed(
    loaded: Loaded,
) -> None:
    unet = loaded("sd8").pipeline.unet

    def fail(*_: Any) -> None:
        seen.append(unet.config.in_channels)
        raise RuntimeError("no more")

    seen: list[int] = []
    handle = unet.register_forward_pre_hook(fail)
    try:
        with pytest.raises(SamplingError, match="no more"):
            Sampler(loaded("sd8"), 1).sample(
                pictures.requests("inpaint")[:1], pictures.params("inpaint")
            )
    finally:
        handle.remove()
    assert (seen, unet.config.in_channels) == ([4], 8)


def test_an_upgrade_that_counts_channels_elsewhere_is_an_error(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers import StableDiffusionInpaintPipeline

    pipeline = StableDiffusionInpaintPipeline(
        **loaded("sd8").pipeline.components, requires_safety_checker=False
    )

    def call(self: Any) -> None:
        """Counts no channels."""

    monkeypatch.setattr(StableDiffusionInpaintPipeline, "__call__", call)
    with (
        pytest.raises(IncompatibleLibrary, match="no longer uses in_channels"),
        network_configs.any_number_of_channels(pipeline),
    ):
        pass


def test_an_upgrade_after_which_chroma_needs_no_help_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from diffusers import ChromaInpaintPipeline

    def call(self: Any) -> None:
        """Reads no configuration."""

    monkeypatch.setattr(ChromaInpaintPipeline, "__call__", call)
    with pytest.raises(IncompatibleLibrary, match="no longer uses guidance_embeds"):
        network_configs.add_missing_values(object.__new__(ChromaInpaintPipeline))
