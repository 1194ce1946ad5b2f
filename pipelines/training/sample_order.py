"""Which pictures make up which step: passes over the data set, each in its own random order.

A pass is a permutation seeded by (seed, pass), so any step is known without walking to it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Generator, Tensor

from nightpress.diffusion_core.training.randomness import place_generator, strata


@dataclass(frozen=True)
class Pick:
    """One sample of a step."""

    image: int
    """Its number in the data set."""
    generator: Generator
    """The sample's own random numbers: caption, window, noise ..."""
    uniform: float
    """In [0, 1), stratified over the step's whole batch; becomes the sample's time."""


@dataclass(frozen=True)
class Order:
    """The samples of every step of a run."""

    seed: int
    num_images: int
    batch_size: int

    def images(self, step: int) -> list[int]:
        """Numbers of the pictures of a step; a pass may end in the midst of one."""
        first = step * self.batch_size
        places = range(first, first + self.batch_size)
        return [
            int(
                _permutation(self.seed, place // self.num_images, self.num_images)[
                    place % self.num_images
                ]
            )
            for place in places
        ]

    def picks(self, step: int, rank: int = 0, world_size: int = 1) -> Iterator[Pick]:
        """This worker's samples of a step: every `world_size`-th, from the `rank`-th on."""
        images: Sequence[int] = self.images(step)
        uniforms = strata(self.seed, step, self.batch_size)
        for index in range(rank, self.batch_size, world_size):
            generator = place_generator(self.seed, step, index)
            yield Pick(images[index], generator, float(uniforms[index]))


@lru_cache(maxsize=4)
def _permutation(seed: int, number: int, num_images: int) -> Tensor:
    # Passes and steps draw from different streams: a pass counts from the far end.
    return torch.randperm(num_images, generator=place_generator(seed, 2**31 - 1 - number, 1))
