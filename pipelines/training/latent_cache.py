"""Latents of a data set, computed once and stored in chunks in the run directory.

The workers share the chunks, and a restart computes only those that are missing.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import safetensors.torch
import torch
from torch import Tensor

from nightpress.pipelines.storage import Store

CHUNK_IMAGES = 1024
"""Images per chunk; each chunk is one object."""


@dataclass(frozen=True)
class LatentCache:
    """Cached latents of `num_images` images; `key` identifies the images and their encoder."""

    store: Store
    key: str
    num_images: int

    def path(self, chunk: int) -> str:
        """The path of a chunk's object."""
        return f"cache/latents-{self.key}-{chunk:05d}.safetensors"

    def fill(
        self, encode: Callable[[Sequence[int]], Tensor], rank: int = 0, world_size: int = 1
    ) -> Iterator[int]:
        """Encode this worker's share of the missing chunks; yield the images encoded so far.

        `encode` returns the (B, C, h, w) latents of the images with the given indices.
        """
        present = self.store.list("cache")
        num = 0
        for chunk in range(rank, self.num_chunks, world_size):
            if self.path(chunk) in present:
                continue
            latents = encode(self._indices(chunk)).half().cpu().contiguous()
            self.store.create(self.path(chunk), safetensors.torch.save({"latents": latents}))
            num += len(latents)
            yield num

    def read(self) -> Tensor:
        """Read all chunks, none of which may be missing; (N, C, h, w) float16."""
        chunks = (self.store.read(self.path(chunk)) for chunk in range(self.num_chunks))
        return torch.cat([safetensors.torch.load(chunk)["latents"] for chunk in chunks])

    @property
    def num_chunks(self) -> int:
        """The number of chunks that hold all images."""
        return -(-self.num_images // CHUNK_IMAGES)

    def _indices(self, chunk: int) -> range:
        return range(chunk * CHUNK_IMAGES, min((chunk + 1) * CHUNK_IMAGES, self.num_images))
