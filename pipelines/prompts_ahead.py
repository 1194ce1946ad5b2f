"""Prompts of batches to come, encoded in a thread beside the one that samples.

Knows nothing of turns or shards: which batch comes next, its caller says.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from diffusion_core.sampling import Sampler
from pipelines.batching import PlannedImage


class PromptsAhead:
    """One thread, which has the sampler encode what it is told of, in that order."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prompts")

    def begin(self, batch: Sequence[PlannedImage]) -> None:
        """Encode the prompts of a batch, and do not wait for it; nothing to do for an empty one.

        What fails here fails again where the batch is sampled, and is told there, row by row: so
        the outcome is nobody's to ask for, and the thread goes on.
        """
        if batch:
            requests = [image.request for image in batch]
            self._thread.submit(self._sampler.prepare, requests, batch[0].params)

    def close(self) -> None:
        """End the thread; what is in hand is finished, and nothing else begun."""
        self._thread.shutdown(cancel_futures=True)
