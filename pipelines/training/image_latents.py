"""The pictures of a data set as latents, from the cache in the run's store or made when drawn.

Owns how recipes that train on latents get them. What encodes is handed in.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from nightpress.pipelines.storage import Store
from nightpress.pipelines.training.data import PackedImages
from nightpress.pipelines.training.events import LatentsCached
from nightpress.pipelines.training.latents import LatentCache
from nightpress.pipelines.training.order import Pick
from nightpress.pipelines.training.recipes import drawn_pictures, to_tensor
from nightpress.pipelines.training.sections import OptimizationSpec


class EncodedPictures:
    """Latents of pictures.

    Args:
        data: the pictures.
        training: their size, and whether some are mirrored.
        encode: (B, ...) latents in CPU memory of (B, 3, H, W) pictures in [-1, 1].
        made_by: fingerprint of what encodes.
        cached: whether each picture is encoded once; else whenever it is drawn.
        batch_size: pictures that are encoded together for the cache.
    """

    def __init__(
        self,
        data: PackedImages,
        training: OptimizationSpec,
        encode: Callable[[Tensor], Tensor],
        made_by: str,
        cached: bool,
        batch_size: int,
    ) -> None:
        self._data, self._training, self._encode = data, training, encode
        self._key = f"{data.fingerprint[:16]}-{made_by[:16]}-{training.resolution}"
        self._is_cached, self._batch_size = cached, batch_size
        self._latents: Tensor | None = None

    def prepare(self, store: Store, rank: int, world_size: int) -> Iterator[LatentsCached]:
        """Encode this worker's share of the pictures, if they are cached."""
        if self._is_cached:
            for num in self._cache(store).fill(self._encoded, rank, world_size):
                yield LatentsCached(min(num * world_size, len(self._data)), len(self._data))

    def ready(self, store: Store) -> None:
        """Fetch what all workers have encoded."""
        if self._is_cached:
            self._latents = self._cache(store).read()

    def of(self, picks: Sequence[Pick]) -> Tensor:
        """(B, ...) float32 latents of the picks."""
        if self._latents is not None:
            return self._latents[[pick.image for pick in picks]].float()
        options = self._training
        pictures = drawn_pictures(self._data, picks, options.resolution, options.random_flip)
        return self._encode(to_tensor(pictures))

    def _cache(self, store: Store) -> LatentCache:
        return LatentCache(store, self._key, len(self._data))

    def _encoded(self, numbers: Sequence[int]) -> Tensor:
        size, resolution = self._batch_size, self._training.resolution
        chunks = (numbers[start : start + size] for start in range(0, len(numbers), size))
        pictures = (to_tensor([self._data.pixels(n, resolution) for n in c]) for c in chunks)
        return torch.cat([self._encode(batch) for batch in pictures])
