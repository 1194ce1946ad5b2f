"""How fast a run goes: what may be expected of the next shard, and what is far too long.

Knows nothing of actors; whoever times them tells it.
"""

from collections import deque
from statistics import median

REMEMBERED = 100
"""Shards and batches whose time counts; the latest say most about the ones to come."""

STRAGGLING = 3.0
"""A shard that takes so many times what is expected is tried elsewhere as well."""
SHORTEST_STRAGGLING_S = 30.0

SILENT_BATCHES = 20.0
"""A worker that is silent for as long as so many of the slowest batches take hangs."""
SHORTEST_SILENCE_S = 300.0
FIRST_SILENCE_S = 3600.0
"""As long as no batch is done, nobody knows how long one takes."""


class ShardTiming:
    """Times of batches and shards.

    Args:
        spread: how many times longer than the easiest batch of a run its hardest may take.
    """

    def __init__(self, spread: float = 1.0) -> None:
        self._spread = spread
        self._row_s: deque[float] = deque(maxlen=REMEMBERED)
        self._batch_s: deque[float] = deque(maxlen=REMEMBERED)

    def batch_done(self, seconds: float) -> None:
        """A worker has sampled a batch in so long; what its store took is not part of it."""
        self._batch_s.append(seconds)

    def shard_done(self, num_rows: int, seconds: float) -> None:
        """A worker has made a whole shard in so long."""
        self._row_s.append(seconds / num_rows)

    def expected_s(self, num_rows: int) -> float | None:
        """What so many rows take one worker; None as long as nobody knows."""
        return median(self._row_s) * num_rows if self._row_s else None

    def is_straggling(self, num_rows: int, seconds: float) -> bool:
        """Whether a worker has been busy with so many rows for far too long."""
        if seconds <= SHORTEST_STRAGGLING_S:
            return False
        expected_s = self.expected_s(num_rows)
        return expected_s is not None and seconds > STRAGGLING * expected_s

    @property
    def longest_silence_s(self) -> float:
        """How long a worker may be silent before it is taken to hang."""
        if not self._batch_s:
            return FIRST_SILENCE_S
        return max(SHORTEST_SILENCE_S, SILENT_BATCHES * max(self._batch_s) * self._spread)
