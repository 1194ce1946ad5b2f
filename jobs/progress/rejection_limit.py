"""The rejection limit: a run whose gates reject too many draws is stopped early."""

from collections import Counter

from nightpress.jobs.progress.events import Event
from nightpress.pipelines.shards.events import DrawsJudged

MIN_DRAWS = 50
"""Draws that must be judged before the limit applies."""


class RejectionLimit:
    """Counts the draws of one start that gates did not let pass.

    Args:
        limit: a share of all draws that count, such as `70%`, or None.
    """

    def __init__(self, limit: str | None) -> None:
        self._limit = limit
        self.num_draws = self.num_rejected = self.num_unused = 0
        self._failed: Counter[str] = Counter()
        """Condition -> draws that do not meet it."""

    def add(self, event: Event) -> None:
        """Count an event."""
        if isinstance(event, DrawsJudged):
            self.num_draws += event.num_draws
            self.num_rejected += event.num_draws - event.num_passed
            self.num_unused += event.num_unused
            self._failed.update(dict(event.failed))

    @property
    def exceeded(self) -> str | None:
        """Why the run should stop; None if it should not."""
        if self._limit is None or self.num_draws < MIN_DRAWS:
            return None
        if self.num_rejected <= float(self._limit.removesuffix("%")) / 100 * self.num_draws:
            return None
        return (
            f"{self.num_rejected:,} of {self.num_draws:,} draws were rejected, {self.reasons()}, "
            f"and gates.max_rejected is {self._limit}"
        )

    def reasons(self, most: int = 3) -> str:
        """`301 by sharpness > 40 and 12 by nsfw < 0.2`: the conditions that reject most."""
        named = [f"{count:,} by {name}" for name, count in self._failed.most_common(most)]
        return " and ".join(filter(None, (", ".join(named[:-1]), *named[-1:])))
