"""Batch sizes that fit in memory: those of the run, made smaller where a batch did not fit.

Smaller sizes are stored with the run, so that other workers and later starts use them from the
beginning.
"""

import json
import re

from nightpress.diffusion_core.sampling.request import SamplingParams
from nightpress.pipelines.planning.batch_sizes import BatchSizes, ImageKind
from nightpress.pipelines.storage import Store

FOLDER = "batch"

_SIZE_FILE = re.compile(r"(\d+x\d+-(?:un)?guided)-(\d+)\.json")


class BatchSizeFallback:
    """The batch size that fits, for each kind of batch of a run.

    Args:
        store: the run's store.
        sizes: the batch sizes that the run began with.
        model: the name of the model, if the run has several.
    """

    def __init__(self, store: Store, sizes: BatchSizes, model: str | None = None) -> None:
        self._store = store
        self._folder = FOLDER if model is None else f"{FOLDER}/{model}"
        self._sizes = sizes
        self._smaller: dict[str, int] = {}

    def refresh(self) -> None:
        """Read the smaller sizes that other workers have stored."""
        for name in self._store.list(self._folder):
            match = _SIZE_FILE.fullmatch(name.removeprefix(f"{self._folder}/"))
            if match:
                self._lower(match.group(1), int(match.group(2)))

    def size_for(self, params: SamplingParams) -> int:
        """The size of a batch with these settings."""
        kind = ImageKind.of(params)
        planned = self._sizes.of(kind)
        return min(planned, self._smaller.get(kind.name, planned))

    def halve(self, params: SamplingParams, too_large: int) -> int:
        """Record that `too_large` images did not fit; returns the size to try instead."""
        self.refresh()
        kind, size = ImageKind.of(params).name, max(1, too_large // 2)
        if self.size_for(params) > size:
            facts = {"kind": kind, "batch_size": size, "too_large": too_large}
            self._store.create(f"{self._folder}/{kind}-{size}.json", json.dumps(facts).encode())
            self._lower(kind, size)
        return self.size_for(params)

    def _lower(self, kind: str, size: int) -> None:
        self._smaller[kind] = min(size, self._smaller.get(kind, size))
