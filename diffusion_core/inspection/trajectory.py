"""The way from noise to a picture: what a sampler has in its hands, step by step.

Owns the watching of a scheduler while the usual `Sampler` samples, so that what is watched is what
a run makes, and the reading of the model's guess at the finished picture from each of its answers.
Knows nothing of how frames are drawn.
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

from nightpress.diffusion_core.errors import SamplingError, SettingsError, UnsupportedModel
from nightpress.diffusion_core.models.latent_scaling import unscale_latents
from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.models.samplers import is_flow
from nightpress.diffusion_core.sampling.request import ImageRequest, SamplingParams
from nightpress.diffusion_core.sampling.sampler import Pixels, Sampler
from nightpress.diffusion_core.sampling.scheduler_config import prediction_type_of
from nightpress.diffusion_core.theory.noise import alpha_t, sigma_t
from nightpress.diffusion_core.theory.prediction import to_x0

OnStep = Callable[[int, int], None]
"""Called with the number of answers that the network has given, and of those that it will give."""


def silent(done: int, total: int) -> None:
    """An `OnStep` that does nothing."""


@dataclass(frozen=True)
class StepCall:
    """What a scheduler is handed for one step."""

    index: int
    """Of the call, from 0."""
    scheduler: Any
    model_output: Tensor
    """The network's answer, guided; (1, ...)."""
    timestep: Any
    sample: Tensor
    """What is being denoised, in the scheduler's own scale; (1, ...)."""


@dataclass(frozen=True)
class Moment:
    """A sample on its way, x_t = alpha * x0 + sigma * noise, and the guess at its end."""

    step: int
    """Steps taken before it."""
    alpha: float
    sigma: float
    x_t: Tensor
    """As the network saw it; (1, ...) in the pipeline's own layout."""
    x0: Tensor
    """The model's guess, of that shape."""


@dataclass(frozen=True)
class Frame:
    """A moment as pictures."""

    step: int
    """Steps taken before it; the last frame has them all."""
    num_steps: int
    sigma: float
    """Share of noise in `noisy`, from about 1 to 0."""
    noisy: Pixels
    """What the network saw, decoded; uint8 (H, W, 3)."""
    guess: Pixels
    """The finished picture as the model saw it coming; uint8 (H, W, 3)."""


class WatchedSampler(Sampler):
    """A sampler of single images that shows every call of its scheduler's `step`."""

    def __init__(self, model: LoadedModel) -> None:
        super().__init__(model, batch_size=1)
        self.watch: Callable[[StepCall], None] = lambda call: None
        """Called before each step."""
        self.step_noise: int | None = None
        """Seed of the noise that stochastic samplers add on the way; None takes it from the
        request's own generator, after the noise that sampling starts from."""
        self.latents: Tensor | None = None
        """What the last step left, (1, ...)."""

    def _scheduler(self, params: SamplingParams) -> Any:
        scheduler = super()._scheduler(params)
        step, calls = scheduler.step, itertools.count()
        signature = inspect.signature(step)
        noise = self.step_noise
        other = None if noise is None else torch.Generator("cpu").manual_seed(noise)

        @functools.wraps(step)  # pipelines read the signature of `step`
        def watched(*args: Any, **kwargs: Any) -> Any:
            bound = signature.bind(*args, **kwargs).arguments
            given = {name: bound[name] for name in ("model_output", "timestep", "sample")}
            self.watch(StepCall(next(calls), scheduler, **given))
            if other is not None and "generator" in kwargs:
                kwargs["generator"] = other
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
    on_step: OnStep = silent,
) -> Iterator[Frame]:
    """Sample one image; yields moments of its way, evenly spread, the first and the last with them.

    Args:
        num_frames: 2 or more; fewer come where there are fewer steps.
        on_step: called before every step, since all steps come before the first frame.

    Raises:
        SettingsError: as `Sampler.sample` does, or less than two frames.
        SamplingError: the pipeline failed, or its picture is not finite.
        UnsupportedModel: the scheduler or the pipeline keeps its states in a way of its own.
    """
    if num_frames < 2:
        raise SettingsError(f"frames {num_frames}: at least 2, the noise and the picture")
    moments: list[Moment] = []

    def watch(call: StepCall) -> None:
        total = num_states(call.scheduler)
        step, between = divmod(call.index, call.scheduler.order)
        on_step(call.index, len(call.scheduler.timesteps))
        if not between and step in spread(total + 1, num_frames):
            moments.append(moment(call, step))

    sampler = WatchedSampler(model)
    sampler.watch = watch
    picture = _only_picture(sampler, request, params)
    _require_known_decoding(model, sampler.latents, picture)
    num_steps = num_states(model.pipeline.scheduler)
    height, width = picture.shape[:2]
    for seen in moments:
        pair = [decode(model, latents, height, width) for latents in (seen.x_t, seen.x0)]
        yield Frame(seen.step, num_steps, seen.sigma, *pair)
    yield Frame(num_steps, num_steps, 0.0, picture, picture)


def spread(total: int, num: int) -> list[int]:
    """`num` of the numbers 0 ... total - 1 at even distances, both ends among them; at most all."""
    num = min(num, total)
    return [round(index * (total - 1) / (num - 1)) for index in range(num)] if num > 1 else [0]


def num_states(scheduler: Any) -> int:
    """Steps that a scheduler takes; those of second order ask the network twice in each."""
    return math.ceil(len(scheduler.timesteps) / int(scheduler.order))


def moment(call: StepCall, step: int) -> Moment:
    """Where the sample is before a step, in the scale that the network sees, and the guess there.

    Raises:
        UnsupportedModel: neither sigmas nor alphas are to be had from the scheduler.
    """
    scheduler = call.scheduler
    alpha, sigma = coefficients(scheduler, call.timestep)
    seen = call.sample
    if hasattr(scheduler, "scale_model_input"):
        seen = scheduler.scale_model_input(seen, call.timestep)
    config = {**scheduler.config, "_class_name": type(scheduler).__name__}
    x0 = to_x0(prediction_type_of(config), call.model_output, seen, alpha, sigma)
    return Moment(step, float(alpha), float(sigma), seen.cpu(), x0.to(seen.dtype).cpu())


def coefficients(scheduler: Any, timestep: Any) -> tuple[Tensor, Tensor]:
    """alpha and sigma, without dimensions, of what the network sees before the next step.

    Schedulers that count in sigmas keep noise / signal; on a straight path their sigma is t.
    """
    if hasattr(scheduler, "sigmas"):
        if scheduler.step_index is None:
            scheduler._init_step_index(timestep)
        sigma = scheduler.sigmas[scheduler.step_index].float()
        config = {**scheduler.config, "_class_name": type(scheduler).__name__}
        if is_flow(config):
            return 1 - sigma, sigma
        alpha = (1 + sigma**2).rsqrt()
        return alpha, sigma * alpha
    if hasattr(scheduler, "alphas_cumprod"):
        bar = scheduler.alphas_cumprod[int(timestep)].double()
        return alpha_t(bar).reshape(()), sigma_t(bar).reshape(())
    raise UnsupportedModel(f"{type(scheduler).__name__} tells no noise level of its steps")


@torch.inference_mode()
def decode(model: LoadedModel, latents: Tensor, height: int, width: int) -> Pixels:
    """Latents in the pipeline's layout to uint8 (H, W, 3), as most pipelines of diffusers do it."""
    pipeline = model.pipeline
    latents = latents.to(model.device)
    if hasattr(pipeline, "_unpack_latents"):
        latents = pipeline._unpack_latents(latents, height, width, pipeline.vae_scale_factor)
    latents = unscale_latents(latents, pipeline.vae.config).to(pipeline.vae.dtype)
    images: Tensor = pipeline.vae.decode(latents, return_dict=False)[0]
    images = (images.float() / 2 + 0.5).clamp(0, 1)[0].permute(1, 2, 0)
    pixels: Pixels = (images.nan_to_num() * 255).round().to(torch.uint8).cpu().numpy()
    return pixels


def _only_picture(sampler: Sampler, request: ImageRequest, params: SamplingParams) -> Pixels:
    batch = sampler.sample([request], params)
    if batch.faults[0] is not None:
        raise SamplingError(f"no picture came of it: {batch.faults[0]}")
    picture: Pixels = batch.pixels[0]
    return picture


def _require_known_decoding(model: LoadedModel, latents: Tensor | None, picture: Pixels) -> None:
    """Decoding is known where it makes the very picture that the pipeline made."""
    name = type(model.pipeline).__name__
    if latents is None or getattr(model.pipeline, "vae", None) is None:
        raise UnsupportedModel(f"{name}: its steps are not those of a latent diffusion model")
    ours = decode(model, latents, *picture.shape[:2])
    if np.abs(ours.astype(int) - picture.astype(int)).max() > 1:
        raise UnsupportedModel(f"{name} decodes its latents in a way of its own")
