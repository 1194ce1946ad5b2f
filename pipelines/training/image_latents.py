"""Latents of training images, read from the cache in the run directory or encoded on demand."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from nightpress.diffusion_core.cache_folder import cache_folder
from nightpress.pipelines.storage import Store
from nightpress.pipelines.training.data import PackedImages
from nightpress.pipelines.training.events import LatentsCached
from nightpress.pipelines.training.latent_cache import CachedLatents, LatentCache
from nightpress.pipelines.training.recipes import load_images, to_tensor
from nightpress.pipelines.training.sample_order import BatchItem
from nightpress.pipelines.training.sections import OptimizationSpec


class ImageLatents:
    """Latents of the images of a data set.

    Args:
        data: the images.
        training: their resolution, and whether some are mirrored.
        encode: (B, 3, H, W) images in [-1, 1] to (B, ...) latents in CPU memory.
        encoder_fingerprint: fingerprint of the encoder's weights.
        cached: encode each image once, before the first step; otherwise in every batch.
        batch_size: images that are encoded together for the cache.
    """

    def __init__(
        self,
        data: PackedImages,
        training: OptimizationSpec,
        encode: Callable[[Tensor], Tensor],
        encoder_fingerprint: str,
        cached: bool,
        batch_size: int,
    ) -> None:
        self._data, self._training, self._encode = data, training, encode
        self._key = f"{data.fingerprint[:16]}-{encoder_fingerprint[:16]}-{training.resolution}"
        self._is_cached, self._batch_size = cached, batch_size
        self._latents: CachedLatents | None = None

    def prepare(self, store: Store, rank: int, world_size: int) -> Iterator[LatentsCached]:
        """Encode this worker's share of the images, if they are cached."""
        if self._is_cached:
            for num in self._cache(store).fill(self._encode_images, rank, world_size):
                yield LatentsCached(min(num * world_size, len(self._data)), len(self._data))

    def load_prepared(self, store: Store) -> None:
        """Open the cached latents of all workers; rows are read as batches need them."""
        if self._is_cached:
            self._latents = self._cache(store).open(cache_folder() / "latents")

    def batch(self, items: Sequence[BatchItem]) -> Tensor:
        """(B, ...) float32 latents of the items' images."""
        if self._latents is not None:
            return self._latents.rows([item.image for item in items]).float()
        options = self._training
        images = load_images(self._data, items, options.resolution, options.random_flip)
        return self._encode(to_tensor(images))

    def _cache(self, store: Store) -> LatentCache:
        return LatentCache(store, self._key, len(self._data))

    def _encode_images(self, indices: Sequence[int]) -> Tensor:
        size, resolution = self._batch_size, self._training.resolution
        chunks = (indices[start : start + size] for start in range(0, len(indices), size))
        images = (to_tensor([self._data.pixels(i, resolution) for i in chunk]) for chunk in chunks)
        return torch.cat([self._encode(batch) for batch in images])
