"""When a run has to stop: before its deadline, or within its budget; and what a stop means."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightpress.jobs.dispatch.config import GO_ON, DispatchConfig
from nightpress.jobs.dispatch.timing import ModelTimings, ShardTiming
from nightpress.jobs.errors import JobError, RunStopped, StoppedOnRequest

if TYPE_CHECKING:  # it imports torch, and commands that sample nothing start without it
    from nightpress.jobs.dispatch.actor_pool import ActorPool


@dataclass(frozen=True)
class StopReason:
    """Why a run stops early, and how it goes on; by default nothing is wrong."""

    text: str
    go_on: str = GO_ON
    is_wanted: bool = True
    """Whether someone asked for it: a person, a deadline or a budget."""

    def as_error(self) -> JobError:
        """The error that says so."""
        text = f"stopped: {self.text}; {self.go_on}"
        return StoppedOnRequest(text) if self.is_wanted else RunStopped(text)


class Limits:
    """Decides whether another shard fits before the deadline and within the budget.

    Args:
        config: the deadline and the budget.
        pool: the actors, which the budget pays for.
        timing: how long a shard takes.
        shard_size: images of a shard.
    """

    def __init__(
        self,
        config: DispatchConfig,
        pool: "ActorPool",
        timing: ModelTimings | ShardTiming,
        shard_size: int,
    ) -> None:
        self.config, self._pool = config, pool
        self._timing, self._shard_size = timing, shard_size

    def fits(self, num_before: int) -> bool:
        """Whether an actor can make a shard in time, after `num_before` others."""
        return self._fits_before_deadline(num_before) and self._fits_in_budget(num_before)

    def reason(self, num_waiting: int) -> StopReason | None:
        """Why nothing more can be done; None if something can.

        Args:
            num_waiting: how many pieces of work wait to be handed out.
        """
        config, pool = self.config, self._pool
        if config.deadline_at is None and config.budget is None:
            return None
        if config.deadline_at is not None and time.time() + config.drain_s >= config.deadline_at:
            return StopReason("the deadline is near")
        budget = config.budget
        if budget is not None and pool.actor_s() >= budget.actor_s:
            return StopReason(f"the budget of {budget.text} is spent", budget.go_on)
        busy = any(worker.awaited is not None for worker in pool.workers)
        if not (num_waiting and pool.workers) or busy:
            return None
        if not self._fits_before_deadline(0):
            return StopReason("the next shard would not be done before the deadline")
        if budget is not None and not self._fits_in_budget(0):
            return StopReason(
                f"the next shard would exceed the budget of {budget.text}", budget.go_on
            )
        return None

    def _fits_before_deadline(self, num_before: int) -> bool:
        deadline_at, expected_s = self.config.deadline_at, self._expected_s
        if deadline_at is None or expected_s is None:
            return True
        return time.time() + expected_s * (1 + num_before) < deadline_at

    def _fits_in_budget(self, num_before: int) -> bool:
        """Whether the budget lasts so long for all actors, which are paid for until the end."""
        budget, expected_s = self.config.budget, self._expected_s
        if budget is None or expected_s is None:
            return True
        lasts_s = (budget.actor_s - self._pool.actor_s()) / max(1, len(self._pool))
        return expected_s * (1 + num_before) < lasts_s

    @property
    def _expected_s(self) -> float | None:
        return self._timing.expected_s(self._shard_size)
