"""Measure batches of a model for a few steps: how long they take and how much memory they need.

`batch_size.py` decides which sizes to measure and what follows from the result.
"""

import math
from dataclasses import replace

import numpy as np
import torch

from nightpress.diffusion_core.conditioning.spec import NO_IMAGES, ConditionImages
from nightpress.diffusion_core.sampling.request import ImageRequest, SamplingParams
from nightpress.diffusion_core.sampling.sampler import Sampler
from nightpress.diffusion_core.tuning.batch_size import MeasureBatch, Measurement
from nightpress.diffusion_core.tuning.benchmark import clock_for
from nightpress.diffusion_core.tuning.device_memory import DeviceMemory, HostMemory

TRIAL_STEPS = 4
"""Denoising steps of a trial, or fewer if the images have fewer. With so few steps, decoding takes
a larger share of the time than it does in real images."""

ROUNDS = 2
"""How often each batch size is sampled; the fastest round counts, since the first warms up."""

PROMPT = "a photograph"


def batch_benchmark(
    sampler: Sampler,
    params: SamplingParams,
    memory: DeviceMemory,
    steps: int = TRIAL_STEPS,
    rounds: int = ROUNDS,
) -> MeasureBatch:
    """A function that samples a batch with these settings and measures it.

    Compiled models run uncompiled here, because each batch size would be compiled again. Of a walk,
    whose frames are still images, a batch of frames is measured.
    """
    trial_params, prompt = trial_settings(params, steps), PROMPT
    if sampler.clips is None:
        trial_params = replace(trial_params, num_frames=None)
    elif not sampler.clips.takes_prompt:
        prompt = ""
    pictures = trial_pictures(params)
    clock = clock_for("cpu" if isinstance(memory, HostMemory) else "cuda")

    def measure(size: int) -> Measurement:
        requests = [ImageRequest(prompt, "", seed, images=pictures) for seed in range(size)]
        memory.reset_peak()
        seconds = []
        with torch.compiler.set_stance("force_eager"):
            for _ in range(rounds):
                started_at = clock()
                sampler.sample(requests, trial_params, size).settled()
                seconds.append(clock() - started_at)
        return Measurement(min(seconds), memory.peak_bytes())

    return measure


def trial_settings(params: SamplingParams, steps: int) -> SamplingParams:
    """The settings of a trial: each time that the image is sampled, a few steps at most are taken.

    Of the steps of an image that is made from another, only the share `strength` is taken.
    """

    def few(num_inference_steps: int, strength: float | None) -> int:
        most = steps if strength is None else math.ceil(steps / strength) + 1
        return min(num_inference_steps, most)

    passes = tuple(
        replace(each, num_inference_steps=few(each.num_inference_steps, each.strength))
        for each in params.passes
    )
    own = few(params.num_inference_steps, params.conditioning.strength)
    return replace(params, num_inference_steps=own, passes=passes)


def trial_pictures(params: SamplingParams) -> ConditionImages:
    """Grey pictures and a half mask, as many as the settings ask for."""
    conditioning, shape = params.conditioning, (params.height, params.width)
    base = conditioning.base
    if conditioning.mode == "text":
        return NO_IMAGES
    grey = np.full((*shape, 3), 128, np.uint8)
    mask = np.zeros(shape, np.uint8)
    mask[:, params.width // 2 :] = 255
    return ConditionImages(
        init_image=grey if base != "text" else None,
        last_image=grey if base == "first-last" else None,
        mask_image=mask if base in ("inpaint", "outpaint") else None,
        control_images=(grey,) * len(conditioning.controls),
        reference_images=tuple((grey,) * number for number in conditioning.num_references),
    )
