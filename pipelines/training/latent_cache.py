"""Latents of a data set, computed once and kept in the run's store.

Owns how the work is cut into pieces that several workers share and a restart does not repeat.
Knows nothing of what encodes.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import safetensors.torch
import torch
from torch import Tensor

from nightpress.pipelines.storage import Store

PIECE = 1024
"""Pictures in one object."""


@dataclass(frozen=True)
class LatentCache:
    """Where the latents of `num_images` pictures lie; `key` names what they were made with."""

    store: Store
    key: str
    num_images: int

    def path(self, piece: int) -> str:
        """The object of a piece."""
        return f"cache/latents-{self.key}-{piece:05d}.safetensors"

    def fill(
        self, encode: Callable[[Sequence[int]], Tensor], rank: int = 0, world_size: int = 1
    ) -> Iterator[int]:
        """Encode this worker's share of what is missing; yields the pictures done by it so far.

        `encode` gives (B, C, h, w) latents of the pictures with these numbers.
        """
        present = self.store.list("cache")
        num = 0
        for piece in range(rank, self.num_pieces, world_size):
            if self.path(piece) in present:
                continue
            latents = encode(self._members(piece)).half().cpu().contiguous()
            self.store.create(self.path(piece), safetensors.torch.save({"latents": latents}))
            num += len(latents)
            yield num

    def read(self) -> Tensor:
        """(N, C, h, w) float16; every piece must be there."""
        pieces = (self.store.read(self.path(piece)) for piece in range(self.num_pieces))
        return torch.cat([safetensors.torch.load(piece)["latents"] for piece in pieces])

    @property
    def num_pieces(self) -> int:
        """How many objects there are in all."""
        return -(-self.num_images // PIECE)

    def _members(self, piece: int) -> range:
        return range(piece * PIECE, min((piece + 1) * PIECE, self.num_images))
