"""A model's batches tried for a few steps: how long they take, and how much memory.

Owns what is sampled for that. What follows from it, `batch_knee` says.
"""

import time
from collections.abc import Callable
from dataclasses import replace

import torch

from nightpress.diffusion_core.sampling.request import ImageRequest, SamplingParams
from nightpress.diffusion_core.sampling.sampler import Sampler
from nightpress.diffusion_core.tuning.batch_size import Reading, Sample
from nightpress.diffusion_core.tuning.device_memory import HostMemory, Memory

TRIAL_STEPS = 4
"""Denoising steps of a trial, or fewer where the images have fewer. So the decoder weighs a little
more in it than in the images."""

ROUNDS = 2
"""Times that a size is sampled; the faster one counts, since the first one warms it up."""

PROMPT = "a photograph"


def trials(
    sampler: Sampler,
    params: SamplingParams,
    memory: Memory,
    steps: int = TRIAL_STEPS,
    rounds: int = ROUNDS,
) -> Sample:
    """What tries a number of images with these settings, for `batch_knee`.

    A compiled model is tried as it is uncompiled: each number would be compiled anew.
    """
    few = replace(params, num_inference_steps=min(steps, params.num_inference_steps))
    seconds = _clock(memory)

    def sample(size: int) -> Reading:
        requests = [ImageRequest(PROMPT, "", seed) for seed in range(size)]
        memory.forget()
        lasted = []
        with torch.compiler.set_stance("force_eager"):
            for _ in range(rounds):
                begun_at = seconds()
                sampler.sample(requests, few, size)
                lasted.append(seconds() - begun_at)
        return Reading(min(lasted), memory.peak_bytes())

    return sample


def _clock(memory: Memory) -> Callable[[], float]:
    """Seconds; of work where one thread does all of it, so that who shares its core counts less."""
    alone = isinstance(memory, HostMemory) and torch.get_num_threads() == 1
    return time.thread_time if alone else time.perf_counter
