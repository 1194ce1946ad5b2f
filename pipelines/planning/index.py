"""The index of a plan: which shard holds an image, found by one small read per plan part.

Each plan part has an index of its images: sorted 64-bit integers in a NumPy file. The upper 40 bits
of each are a hash of the image's id, the lower 24 bits the number of its shard within the part.
Hashes are spread evenly, so an entry's position is known closely enough to read only the
bytes around it.
"""

import io
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nightpress.pipelines.errors import StoreMissing
from nightpress.pipelines.hashing import GOLDEN, Hashes, hash64, mix64
from nightpress.pipelines.planning.layout import PlanLayout, PlanPart
from nightpress.pipelines.storage import READ_THREADS, Store

if TYPE_CHECKING:  # it imports what reads manifests, and who looks an image up needs none of that
    from nightpress.pipelines.planning.images import Images

INDEX_FOLDER = ".index"
"""Lookup tables made from `plan/` and `metadata/`; without them, lookups are slow but correct."""

SHARD_BITS = 24
SHARD_MASK = np.uint64(2**SHARD_BITS - 1)

HEADER_BYTES = 128
"""The header of a NumPy file that holds one array of one dimension."""

ENTRY_BYTES = 8

MAX_VARIANT_DIGITS = 9


def index_path(part: PlanPart) -> str:
    """`.index/part-00000.npy` for `plan/part-00000.parquet`."""
    return f"{INDEX_FOLDER}/{PurePosixPath(part.path).stem}.npy"


def encoded_index(images: "Images", shard_size: int) -> bytes:
    """The index of a part, from its images in sampling order; equal images give equal bytes."""
    shards = np.arange(len(images), dtype=np.uint64) // np.uint64(shard_size)
    hashes = _image_hashes(images.id_hashes[images.row_indices], images.variants)
    file = io.BytesIO()
    np.save(file, np.sort(hashes | shards))
    return file.getvalue()


def candidate_shards(store: Store, layout: PlanLayout, run_seed: int, image_id: str) -> list[int]:
    """The shards that may hold an image: almost always one, or none if it is not planned.

    Every shard of a part whose index is missing or damaged is a candidate.

    Raises:
        StoreError: the store failed.
    """
    wanted = _image_hash(image_id, run_seed)
    if wanted is None:
        return []
    with ThreadPoolExecutor(READ_THREADS) as pool:
        found = pool.map(partial(_shards_in_part, store, wanted), layout.parts)
        return [shard for shards in found for shard in shards]


class PlanIndex:
    """A whole index in memory, 8 bytes an image: for many lookups in one run.

    Args:
        store, layout, run_seed: of the run.
        entries: the entries of each part; None where its index is missing or damaged.
    """

    def __init__(
        self, store: Store, layout: PlanLayout, run_seed: int, entries: Sequence[Hashes | None]
    ) -> None:
        self._store, self._layout, self._run_seed = store, layout, run_seed
        self._entries = entries

    @classmethod
    def read(cls, store: Store, layout: PlanLayout, run_seed: int) -> Self:
        """Read the index of every part.

        Raises:
            StoreError: the store failed.
        """

        def whole(part: PlanPart) -> Hashes | None:
            return _read_entries(store, part, 0, part.num_images)

        with ThreadPoolExecutor(READ_THREADS) as pool:
            return cls(store, layout, run_seed, list(pool.map(whole, layout.parts)))

    def shards_of(self, image_id: str) -> list[int]:
        """The shards that may hold an image; see `candidate_shards`."""
        wanted = _image_hash(image_id, self._run_seed)
        if wanted is None:
            return []
        bounds = np.array([wanted, wanted | int(SHARD_MASK)], np.uint64)
        shards: list[int] = []
        for part, entries in zip(self._layout.parts, self._entries, strict=True):
            if entries is None:
                shards += range(part.first_shard, part.first_shard + part.num_shards)
                continue
            first = np.searchsorted(entries, bounds[0], "left")
            end = np.searchsorted(entries, bounds[1], "right")
            shards += (part.first_shard + (entries[first:end] & SHARD_MASK)).astype(int).tolist()
        return shards


def _image_hash(image_id: str, run_seed: int) -> int | None:
    """The hash of an image in the index; None for what is no image's id."""
    row_id, _, variant = image_id.rpartition("_")
    if not variant.isdecimal() or len(variant) > MAX_VARIANT_DIGITS:
        return None
    id_hash = hash64(pa.array([row_id], pa.string()), run_seed)
    return int(_image_hashes(id_hash, np.array([int(variant)]))[0])


def _shards_in_part(store: Store, wanted: int, part: PlanPart) -> list[int]:
    entries = _entries_near(store, wanted, part)
    if entries is None:
        return list(range(part.first_shard, part.first_shard + part.num_shards))
    offsets = entries[_upper(entries) == wanted] & SHARD_MASK
    return [part.first_shard + offset for offset in offsets.tolist()]


def _entries_near(store: Store, wanted: int, part: PlanPart) -> Hashes | None:
    """The entries of a part's index around a hash; None if the index is missing or damaged."""
    expected = part.num_images * wanted // 2**64
    margin = 3 * math.isqrt(part.num_images) + 16  # six standard deviations
    first, end = max(0, expected - margin), min(part.num_images, expected + margin)
    entries = _read_entries(store, part, first, end)
    if entries is None or not len(entries):
        return None
    begins_before = first == 0 or entries[0] < wanted
    ends_behind = end == part.num_images or entries[-1] > wanted | int(SHARD_MASK)
    if begins_before and ends_behind:
        return entries
    return _read_entries(store, part, 0, part.num_images)


def _read_entries(store: Store, part: PlanPart, first: int, end: int) -> Hashes | None:
    try:
        data = store.read_part(
            index_path(part), HEADER_BYTES + first * ENTRY_BYTES, (end - first) * ENTRY_BYTES
        )
    except StoreMissing:
        return None
    return np.frombuffer(data, "<u8") if len(data) == (end - first) * ENTRY_BYTES else None


def _image_hashes(id_hashes: Hashes, variants: NDArray[np.int64]) -> Hashes:
    """Hash images by the hash of their row's id and their variant; the lower bits are 0."""
    return _upper(mix64(id_hashes + variants.astype(np.uint64) * GOLDEN))


def _upper(values: Hashes) -> Hashes:
    """Keep the bits of the hash and clear those of the shard."""
    return values & ~SHARD_MASK
