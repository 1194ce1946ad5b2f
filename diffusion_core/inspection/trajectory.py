"""Record how one image emerges from noise: the noisy latents and the predicted image at each step.

The recording watches the scheduler while the ordinary `Sampler` runs, so it shows exactly what a
run makes. From each output of the denoiser it computes the predicted finished image.

Read against diffusers 0.42.1. It relies on these parts of a scheduler: `step(model_output,
timestep, sample, ...)`, `order`, `timesteps`, `config`, and either `sigmas` with `step_index` and
`_init_step_index`, or `alphas_cumprod`; and on `_unpack_latents` of pipelines that pack latents.
`frames` compares its decoding with the pipeline's own image and raises `UnsupportedModel` if they
differ.
"""

import functools
import inspect
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nightpress.diffusion_core.conditioning.spec import Pixels
from nightpress.diffusion_core.errors import SamplingError, SettingsError, UnsupportedModel
from nightpress.diffusion_core.models.latent_scaling import unscale_latents
from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.models.samplers import is_flow
from nightpress.diffusion_core.sampling.request import ImageRequest, SamplingParams
from nightpress.diffusion_core.sampling.sampler import Sampler
from nightpress.diffusion_core.sampling.scheduler_config import prediction_type_of
from nightpress.diffusion_core.theory.noise import alpha_t, sigma_t
from nightpress.diffusion_core.theory.prediction import to_x0
from nightpress.diffusion_core.theory.spacing import evenly_spaced

OnStep = Callable[[int, int], None]
"""Called with the number of denoiser calls so far and in total."""

STEP_ARGUMENTS = ("model_output", "timestep", "sample")
"""The arguments of a scheduler's `step` that are recorded."""


def no_progress(done: int, total: int) -> None:
    """An `OnStep` that does nothing."""


@dataclass(frozen=True)
class StepCall:
    """The arguments of one call of a scheduler's `step`."""

    index: int
    """Number of the call, from 0."""
    scheduler: Any
    model_output: Tensor
    """The denoiser's output after guidance; (1, ...)."""
    timestep: Any
    sample: Tensor
    """The noisy latents in the scheduler's own scale; (1, ...)."""


@dataclass(frozen=True)
class StepState:
    """Noisy latents x_t = alpha * x0 + sigma * noise before a step, and the prediction of x0."""

    step: int
    """Steps taken before it."""
    alpha: float
    sigma: float
    x_t: Tensor
    """As the denoiser saw it; (1, ...) in the pipeline's own layout."""
    x0: Tensor
    """The model's prediction, of the same shape."""


@dataclass(frozen=True)
class Frame:
    """A step's state decoded to images."""

    step: int
    """Steps taken before it; the last frame has taken all of them."""
    num_steps: int
    sigma: float
    """Share of noise in `noisy`, from about 1 to 0."""
    noisy: Pixels
    """The denoiser's input, decoded; uint8 (H, W, 3)."""
    guess: Pixels
    """The finished image as the model predicts it at this step; uint8 (H, W, 3)."""


class WatchedSampler(Sampler):
    """A sampler of single images that reports every call of its scheduler's `step`."""

    def __init__(self, model: LoadedModel) -> None:
        super().__init__(model, batch_size=1)
        self.watch: Callable[[StepCall], None] = lambda call: None
        """Called before each step."""
        self.step_noise: int | None = None
        """Seed of the noise that stochastic samplers add at each step. None: it comes from the
        request's own generator, after the initial noise."""
        self.latents: Tensor | None = None
        """The output of the last step, (1, ...)."""

    def _scheduler(self, params: SamplingParams) -> Any:
        scheduler = super()._scheduler(params)
        step, calls = scheduler.step, itertools.count()
        signature = inspect.signature(step)
        if missing := [name for name in STEP_ARGUMENTS if name not in signature.parameters]:
            name = type(scheduler).__name__
            raise UnsupportedModel(f"{name}.step has no argument {missing[0]}")
        noise = self.step_noise
        generator = None if noise is None else torch.Generator("cpu").manual_seed(noise)

        @functools.wraps(step)  # pipelines inspect the signature of `step`
        def watched(*args: Any, **kwargs: Any) -> Any:
            bound = signature.bind(*args, **kwargs).arguments
            recorded = {name: bound[name] for name in STEP_ARGUMENTS}
            self.watch(StepCall(next(calls), scheduler, **recorded))
            if generator is not None and "generator" in kwargs:
                kwargs["generator"] = generator
            output = step(*args, **kwargs)
            self.latents = output[0]
            return output

        scheduler.step = watched
        return scheduler


def frames(
    model: LoadedModel,
    request: ImageRequest,
    params: SamplingParams,
    num_frames: int,
    on_step: OnStep = no_progress,
) -> Iterator[Frame]:
    """Sample one image and yield evenly spaced frames, including the first and the last.

    Args:
        num_frames: at least 2; there are fewer frames if there are fewer steps.
        on_step: called before every step; all steps run before the first frame is yielded.

    Raises:
        SettingsError: as `Sampler.sample` does, or fewer than two frames.
        SamplingError: the pipeline failed, or its image is not finite.
        UnsupportedModel: the scheduler or the pipeline does not expose its state in a known way.
    """
    if num_frames < 2:
        raise SettingsError(f"frames {num_frames}: must be at least 2, the noise and the image")
    states: list[StepState] = []

    def watch(call: StepCall) -> None:
        total = num_steps(call.scheduler)
        step, within_step = divmod(call.index, call.scheduler.order)
        on_step(call.index, len(call.scheduler.timesteps))
        if not within_step and step in evenly_spaced(range(total + 1), num_frames):
            states.append(state_before(call, step))

    sampler = WatchedSampler(model)
    sampler.watch = watch
    image = _sample_image(sampler, request, params)
    _require_known_decoding(model, sampler.latents, image)
    total = num_steps(model.pipeline.scheduler)
    height, width = image.shape[:2]
    for state in states:
        noisy, guess = (decode(model, x, height, width) for x in (state.x_t, state.x0))
        yield Frame(state.step, total, state.sigma, noisy, guess)
    yield Frame(total, total, 0.0, image, image)


def num_steps(scheduler: Any) -> int:
    """Steps that a scheduler takes; second-order ones call the denoiser twice in each."""
    return math.ceil(len(scheduler.timesteps) / int(scheduler.order))


def state_before(call: StepCall, step: int) -> StepState:
    """The state before a step, in the scale that the denoiser sees.

    Raises:
        UnsupportedModel: the scheduler has neither sigmas nor alphas.
    """
    scheduler = call.scheduler
    alpha, sigma = alpha_sigma_of(scheduler, call.timestep)
    x_t = call.sample
    if hasattr(scheduler, "scale_model_input"):
        x_t = scheduler.scale_model_input(x_t, call.timestep)
    config = {**scheduler.config, "_class_name": type(scheduler).__name__}
    x0 = to_x0(prediction_type_of(config), call.model_output, x_t, alpha, sigma)
    return StepState(step, float(alpha), float(sigma), x_t.cpu(), x0.to(x_t.dtype).cpu())


def alpha_sigma_of(scheduler: Any, timestep: Any) -> tuple[Tensor, Tensor]:
    """Scalar alpha and sigma of the denoiser's input before the next step.

    The `sigmas` of a scheduler are noise / signal; for flow matching they are the time t.

    Raises:
        UnsupportedModel: the scheduler has neither sigmas nor alphas.
    """
    name = type(scheduler).__name__
    if hasattr(scheduler, "sigmas"):
        if scheduler.step_index is None:
            if not hasattr(scheduler, "_init_step_index"):
                raise UnsupportedModel(f"{name} has no _init_step_index to find its noise level by")
            scheduler._init_step_index(timestep)
        sigma = scheduler.sigmas[scheduler.step_index].float()
        if is_flow({**scheduler.config, "_class_name": name}):
            return 1 - sigma, sigma
        alpha = (1 + sigma**2).rsqrt()
        return alpha, sigma * alpha
    if hasattr(scheduler, "alphas_cumprod"):
        bar = scheduler.alphas_cumprod[int(timestep)].double()
        return alpha_t(bar).reshape(()), sigma_t(bar).reshape(())
    raise UnsupportedModel(f"{name} has neither sigmas nor alphas, so its noise level is unknown")


@torch.inference_mode()
def decode(model: LoadedModel, latents: Tensor, height: int, width: int) -> Pixels:
    """Decode latents in the pipeline's layout to uint8 (H, W, 3), as most pipelines do."""
    pipeline = model.pipeline
    latents = latents.to(model.device)
    if hasattr(pipeline, "_unpack_latents"):
        latents = pipeline._unpack_latents(latents, height, width, pipeline.vae_scale_factor)
    latents = unscale_latents(latents, pipeline.vae.config).to(pipeline.vae.dtype)
    images: Tensor = pipeline.vae.decode(latents, return_dict=False)[0]
    images = (images.float() / 2 + 0.5).clamp(0, 1)[0].permute(1, 2, 0)
    pixels: Pixels = (images.nan_to_num() * 255).round().to(torch.uint8).cpu().numpy()
    return pixels


def _sample_image(sampler: Sampler, request: ImageRequest, params: SamplingParams) -> Pixels:
    batch = sampler.sample([request], params)
    if batch.faults[0] is not None:
        raise SamplingError(f"sampling made no image: {batch.faults[0]}")
    image: Pixels = batch.pixels[0]
    return image


def _require_known_decoding(model: LoadedModel, latents: Tensor | None, image: Pixels) -> None:
    """Check that `decode` makes the same image as the pipeline."""
    name = type(model.pipeline).__name__
    if latents is None or getattr(model.pipeline, "vae", None) is None:
        raise UnsupportedModel(f"{name} is not a latent diffusion pipeline, so it has no frames")
    ours = decode(model, latents, *image.shape[:2])
    if np.abs(ours.astype(int) - image.astype(int)).max() > 1:
        raise UnsupportedModel(f"{name} decodes its latents in an unknown way")
