"""The computations of one training step: losses, their weights, and the averaged weights.

A step is a function of its arguments: the caller provides batches, optimizers and random
generators.
"""

from nightpress.diffusion_core.training.ema import Ema
from nightpress.diffusion_core.training.objectives import (
    AutoencoderObjective,
    Denoiser,
    Objective,
    autoencoder_terms,
    denoising_loss,
    gradient_difference,
    image_gradients,
    kl_to_standard_normal,
)
from nightpress.diffusion_core.training.weighting import (
    TimeSampling,
    min_snr_weight,
    times_from_uniform,
)

__all__ = [
    "AutoencoderObjective",
    "Denoiser",
    "Ema",
    "Objective",
    "TimeSampling",
    "autoencoder_terms",
    "denoising_loss",
    "gradient_difference",
    "image_gradients",
    "kl_to_standard_normal",
    "min_snr_weight",
    "times_from_uniform",
]
