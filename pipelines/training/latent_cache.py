"""Latents of a data set, computed once and stored in chunks in the run directory.

The workers share the chunks, and a restart computes only those that are missing or damaged.
"""

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from nightpress.pipelines.storage import Store, is_local
from nightpress.pipelines.training.data.packing import cache_errors

CHUNK_IMAGES = 1024
"""Images per chunk; each chunk is one object."""

HEADER_BYTES = 4096
"""More than the header of a chunk takes, which names one tensor."""


@dataclass(frozen=True)
class CachedLatents:
    """The latents of all images, in files that are mapped into memory."""

    chunks: tuple[Tensor, ...]
    """(CHUNK_IMAGES, C, h, w) float16 each, the last with fewer images."""

    def rows(self, images: Sequence[int]) -> Tensor:
        """(B, C, h, w) float16 latents of some images."""
        places = (divmod(image, CHUNK_IMAGES) for image in images)
        return torch.stack([self.chunks[chunk][row] for chunk, row in places])


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

        A chunk that is damaged, as far as its header and its size tell, counts as missing.

        `encode` returns the (B, C, h, w) latents of the images with the given indices.
        """
        present = self.store.list("cache")
        num = 0
        for chunk in range(rank, self.num_chunks, world_size):
            path = self.path(chunk)
            if path in present and self._is_whole(chunk, present[path]):
                continue
            latents = encode(self._indices(chunk)).half().cpu().contiguous()
            write = self.store.put if path in present else self.store.create
            write(path, safetensors.torch.save({"latents": latents}))
            num += len(latents)
            yield num

    def _is_whole(self, chunk: int, num_bytes: int) -> bool:
        """Whether an object of this size has the header of the chunk, and the bytes that it says.

        Read against the format of safetensors: the header's length in 8 bytes, the header as JSON,
        and the tensors.
        """
        start = self.store.read_part(self.path(chunk), 0, HEADER_BYTES)
        length = int.from_bytes(start[:8], "little")
        try:
            latents = json.loads(start[8 : 8 + length])["latents"]
            (num_images, *_), (_, end) = latents["shape"], latents["data_offsets"]
        except (ValueError, LookupError, TypeError):
            return False
        return (num_images, 8 + length + end) == (len(self._indices(chunk)), num_bytes)

    def open(self, scratch: Path) -> "CachedLatents":
        """All chunks, none of which may be missing, without reading them.

        Args:
            scratch: a folder on this machine for copies of the chunks, if their store is elsewhere.

        Raises:
            DataError: the folder cannot be written.
        """
        return CachedLatents(tuple(self._mapped(chunk, scratch) for chunk in self._paths()))

    def _paths(self) -> Iterator[str]:
        return (self.path(chunk) for chunk in range(self.num_chunks))

    def _mapped(self, path: str, scratch: Path) -> Tensor:
        """The latents of a chunk in a file that is mapped into memory, page by page as used."""
        if is_local(self.store.url):
            return _latents(f"{self.store.url}/{path}")
        data = self.store.read(path)
        with cache_errors(scratch, "the latents"):
            scratch.mkdir(parents=True, exist_ok=True)
            # The mapping outlives the name, and the space is free again when this process ends.
            with tempfile.NamedTemporaryFile(dir=scratch, prefix="latents-") as file:
                file.write(data)
                file.flush()
                return _latents(file.name)

    @property
    def num_chunks(self) -> int:
        """The number of chunks that hold all images."""
        return -(-self.num_images // CHUNK_IMAGES)

    def _indices(self, chunk: int) -> range:
        return range(chunk * CHUNK_IMAGES, min((chunk + 1) * CHUNK_IMAGES, self.num_images))


def _latents(file: str) -> Tensor:
    latents: Tensor = safetensors.torch.load_file(file)["latents"]
    return latents
