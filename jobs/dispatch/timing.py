"""How long batches and shards take: what to expect of the next shard, and what takes too long."""

from collections import deque
from collections.abc import Mapping
from statistics import median

NUM_REMEMBERED = 100
"""How many of the latest shards and batches are remembered; older ones say less about the next."""

STRAGGLER_FACTOR = 3.0
"""A shard that takes this many times as long as expected is tried on another actor as well."""
MIN_STRAGGLER_S = 30.0

HANG_FACTOR = 20.0
"""A worker counts as hung if it is silent for this many times as long as the slowest batch took."""
MIN_HANG_S = 300.0
FIRST_BATCH_HANG_S = 3600.0
"""The limit until the first batch is done, while it is unknown how long one takes."""


class ModelTimings:
    """The times of each model of a run.

    Args:
        cost_ratios: for each model, as `ShardTiming` takes it.
    """

    def __init__(self, cost_ratios: Mapping[str | None, float]) -> None:
        self._timings = {model: ShardTiming(ratio) for model, ratio in cost_ratios.items()}

    def of(self, model: str | None) -> "ShardTiming":
        """The times of one model."""
        return self._timings.setdefault(model, ShardTiming())

    def expected_s(self, num_rows: int) -> float | None:
        """The seconds that one worker needs for a number of rows of the slowest known model."""
        found = (timing.expected_s(num_rows) for timing in self._timings.values())
        return max((seconds for seconds in found if seconds is not None), default=None)


class ShardTiming:
    """Times of batches and shards.

    Args:
        cost_ratio: how many times as long as a run's cheapest batch its most expensive one takes.
    """

    def __init__(self, cost_ratio: float = 1.0) -> None:
        self._cost_ratio = cost_ratio
        self._row_s: deque[float] = deque(maxlen=NUM_REMEMBERED)
        self._batch_s: deque[float] = deque(maxlen=NUM_REMEMBERED)

    def add_batch(self, seconds: float) -> None:
        """Add the time that a batch took to sample, without the time to store it."""
        self._batch_s.append(seconds)

    def add_shard(self, num_rows: int, seconds: float) -> None:
        """Add the time that one worker took for a whole shard."""
        self._row_s.append(seconds / num_rows)

    def expected_s(self, num_rows: int) -> float | None:
        """The seconds that one worker needs for a number of rows; None before any shard is done."""
        return median(self._row_s) * num_rows if self._row_s else None

    def is_straggling(self, num_rows: int, seconds: float) -> bool:
        """Whether `seconds` is far too long for a number of rows."""
        if seconds <= MIN_STRAGGLER_S:
            return False
        expected_s = self.expected_s(num_rows)
        return expected_s is not None and seconds > STRAGGLER_FACTOR * expected_s

    @property
    def hang_timeout_s(self) -> float:
        """How long a worker may be silent before it counts as hung."""
        if not self._batch_s:
            return FIRST_BATCH_HANG_S
        return max(MIN_HANG_S, HANG_FACTOR * max(self._batch_s) * self._cost_ratio)
