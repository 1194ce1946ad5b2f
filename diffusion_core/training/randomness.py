"""Random numbers that depend only on the position in a training run.

A restarted run, or a run with another number of workers, draws the same numbers for each sample.
"""

import torch
from torch import Generator, Tensor

STEP_STRIDE = 2**32
"""Distance between the random streams of two steps; larger than any batch."""


def place_generator(seed: int, step: int, index: int = 0) -> Generator:
    """The random generator of sample `index` in the global batch of `step`.

    The three numbers are mixed by splitmix64 (Steele et al. 2014), so that neighbouring streams are
    not correlated.
    """
    return Generator().manual_seed(place_seed(seed, step, index))


def place_seed(seed: int, step: int, index: int = 0) -> int:
    """The seed of `place_generator`, below 2^64."""
    return _mix(_mix(seed) ^ (step * STEP_STRIDE + index))


def strata(seed: int, step: int, batch_size: int) -> Tensor:
    """(B,) uniform numbers in [0, 1), one from each of B equal strata, in random order.

    Used for the times of a batch, because stratification lowers the variance of its loss at no
    cost; Kingma et al. 2021, appendix I.
    """
    generator = place_generator(seed, step, STEP_STRIDE - 1)
    offsets = torch.rand(batch_size, generator=generator)
    order = torch.randperm(batch_size, generator=generator)
    return (order + offsets).div(batch_size).clamp(max=1 - 2**-24)


def normal(shape: tuple[int, ...], generators: list[Generator]) -> Tensor:
    """(B, *shape) standard normal numbers, sample i from generator i."""
    return torch.stack([torch.randn(shape, generator=generator) for generator in generators])


def _mix(value: int) -> int:
    mask = 2**64 - 1
    value = (value + 0x9E3779B97F4A7C15) & mask
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
    return value ^ (value >> 31)
