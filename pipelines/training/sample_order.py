"""Which images make up which step: epochs over the data set, each in its own random order.

An epoch is a permutation seeded by (seed, epoch), so any step can be computed directly.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Generator, Tensor

from nightpress.diffusion_core.training.randomness import place_generator, strata


@dataclass(frozen=True)
class BatchItem:
    """One image of a step's batch, with the random numbers that belong to it."""

    image: int
    """Index of the image in the data set."""
    generator: Generator
    """Draws what is random about this item: its caption, window, noise ..."""
    uniform: float
    """In [0, 1), stratified over the step's whole batch; determines the item's diffusion time."""


@dataclass(frozen=True)
class SampleOrder:
    """The batch items of every step of a training run."""

    seed: int
    num_images: int
    batch_size: int

    def images(self, step: int) -> list[int]:
        """Image indices of a step; an epoch may end in the middle of it."""
        first = step * self.batch_size
        positions = range(first, first + self.batch_size)
        return [
            int(
                _permutation(self.seed, position // self.num_images, self.num_images)[
                    position % self.num_images
                ]
            )
            for position in positions
        ]

    def batch_items(self, step: int, rank: int = 0, world_size: int = 1) -> Iterator[BatchItem]:
        """This worker's items of a step: every `world_size`-th, starting at `rank`."""
        images: Sequence[int] = self.images(step)
        uniforms = strata(self.seed, step, self.batch_size)
        for index in range(rank, self.batch_size, world_size):
            generator = place_generator(self.seed, step, index)
            yield BatchItem(images[index], generator, float(uniforms[index]))


@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, num_images: int) -> Tensor:
    # Epochs count down from 2^31 - 1, so that their random streams differ from those of steps.
    return torch.randperm(num_images, generator=place_generator(seed, 2**31 - 1 - epoch, 1))
