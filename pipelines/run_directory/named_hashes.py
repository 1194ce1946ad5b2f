"""Hashes of what the commits of a run name, 8 bytes each, to look millions of names up in."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Self

import numpy as np

from nightpress.pipelines.hashing import Hashes
from nightpress.pipelines.manifest.row_problems import Mask
from nightpress.pipelines.run_directory.map_ahead import map_ahead
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.storage import READ_THREADS


class NamedHashes:
    """A set of 64-bit hashes as one sorted array.

    Args:
        hashes: (n,) in any order; sorted in place.
    """

    def __init__(self, hashes: Hashes) -> None:
        hashes.sort()
        self._hashes = hashes

    @classmethod
    def of_commits(cls, run: Run, of_shard: Callable[[int], Hashes]) -> Self:
        """The hashes that a function gives for each committed shard, read a few ahead.

        They are written into one array as they come, so memory holds them once.
        """
        joined, end = np.empty(run.record.layout.num_images, np.uint64), 0
        with ThreadPoolExecutor(READ_THREADS) as pool:
            for hashes in map_ahead(pool, of_shard, run.committed, READ_THREADS):
                if end + len(hashes) > len(joined):  # a clip names its first frame, too
                    more = np.empty(len(joined) + len(hashes), np.uint64)
                    joined = np.concatenate([joined[:end], more])
                joined[end : end + len(hashes)] = hashes
                end += len(hashes)
        return cls(joined[:end])

    def include(self, hashes: Hashes) -> Mask:
        """Which of some hashes are in the set; (n,)."""
        if not len(self._hashes):
            return np.zeros(len(hashes), np.bool_)
        places = np.searchsorted(self._hashes, hashes)
        found: Mask = self._hashes[np.minimum(places, len(self._hashes) - 1)] == hashes
        return found
