"""Batch sizes that fit: the run's own, until a batch of some kind was too large for the memory.

What was learnt is kept with the run, so that other workers and later starts need not learn it
again. Knows nothing of what a batch is made of.
"""

import json
import re

from nightpress.diffusion_core.sampling.request import SamplingParams
from nightpress.pipelines.planning.batch_sizes import BatchSizes, ImageKind
from nightpress.pipelines.storage import Store

FOLDER = "batch"

_SIZE_FILE = re.compile(r"batch/(\d+x\d+-(?:un)?guided)-(\d+)\.json")


class WorkingSizes:
    """The batch size of each kind of batch of one run.

    Args:
        store: of the run.
        sizes: those that it began with.
    """

    def __init__(self, store: Store, sizes: BatchSizes) -> None:
        self._store = store
        self._first = sizes
        self._smaller: dict[str, int] = {}

    def refresh(self) -> None:
        """Read what others have learnt."""
        for name in self._store.list(FOLDER):
            match = _SIZE_FILE.fullmatch(name)
            if match:
                self._note(match.group(1), int(match.group(2)))

    def of(self, params: SamplingParams) -> int:
        """The size that a batch with these settings has."""
        kind = ImageKind.of(params)
        first = self._first.of(kind)
        return min(first, self._smaller.get(kind.name, first))

    def halve(self, params: SamplingParams, failed: int) -> int:
        """Learn that `failed` images at once were too many; returns what is tried instead."""
        self.refresh()
        kind, size = ImageKind.of(params).name, max(1, failed // 2)
        if self.of(params) > size:
            facts = {"kind": kind, "batch_size": size, "too_large": failed}
            self._store.create(f"{FOLDER}/{kind}-{size}.json", json.dumps(facts).encode())
            self._note(kind, size)
        return self.of(params)

    def _note(self, kind: str, size: int) -> None:
        self._smaller[kind] = min(size, self._smaller.get(kind, size))
