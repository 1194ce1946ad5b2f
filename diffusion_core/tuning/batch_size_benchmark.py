"""Measure batches of a model for a few steps: how long they take and how much memory they need.

`batch_size.py` decides which sizes to measure and what follows from the result.
"""

from dataclasses import replace

import torch

from nightpress.diffusion_core.sampling.request import ImageRequest, SamplingParams
from nightpress.diffusion_core.sampling.sampler import Sampler
from nightpress.diffusion_core.tuning.batch_size import MeasureBatch, Measurement
from nightpress.diffusion_core.tuning.benchmark import clock_for
from nightpress.diffusion_core.tuning.device_memory import DeviceMemory, HostMemory

TRIAL_STEPS = 4
"""Denoising steps of a trial, or fewer if the images have fewer. With so few steps, decoding takes
a slightly larger share of the time than it does in real images."""

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

    Compiled models run uncompiled here, because each batch size would be compiled again.
    """
    trial_params = replace(params, num_inference_steps=min(steps, params.num_inference_steps))
    clock = clock_for("cpu" if isinstance(memory, HostMemory) else "cuda")

    def measure(size: int) -> Measurement:
        requests = [ImageRequest(PROMPT, "", seed) for seed in range(size)]
        memory.reset_peak()
        seconds = []
        with torch.compiler.set_stance("force_eager"):
            for _ in range(rounds):
                started_at = clock()
                sampler.sample(requests, trial_params, size)
                seconds.append(clock() - started_at)
        return Measurement(min(seconds), memory.peak_bytes())

    return measure
