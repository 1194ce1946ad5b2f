"""Whether another shard fits before the deadline and within the budget."""

import time
from dataclasses import dataclass, field
from typing import Any, cast

from nightpress.jobs.dispatch.actor_pool import ActorPool
from nightpress.jobs.dispatch.config import Budget, DispatchConfig
from nightpress.jobs.dispatch.limits import Limits
from nightpress.jobs.dispatch.timing import ShardTiming


@dataclass
class FakeWorker:
    """A worker that waits for something, or is idle."""

    awaited: object | None = None


@dataclass
class FakePool:
    """Actors that have cost so many seconds."""

    spent_s: float = 0.0
    workers: list[FakeWorker] = field(default_factory=lambda: [FakeWorker(), FakeWorker()])

    def __len__(self) -> int:
        return len(self.workers)

    def actor_s(self) -> float:
        return self.spent_s


def limits(pool: FakePool, shard_s: float | None = 10.0, **config: Any) -> Limits:
    timing = ShardTiming(1.0)
    if shard_s is not None:
        timing.add_shard(16, shard_s)
    settings = DispatchConfig(
        min_actors=1, max_actors=None, max_attempts=3, look_first=False, drain_s=5.0, **config
    )
    return Limits(settings, cast("ActorPool", pool), timing, 16)


BUDGET = Budget(actor_s=100.0, text="40.00 EUR")


def text(found: Limits, num_waiting: int = 5) -> str | None:
    reason = found.reason(num_waiting)
    return None if reason is None else reason.text


def test_without_limits_everything_fits() -> None:
    found = limits(FakePool(1e9))
    assert found.fits(100)
    assert found.reason(5) is None


def test_a_shard_fits_while_the_budget_pays_all_actors_until_its_end() -> None:
    assert limits(FakePool(70.0), budget=BUDGET).fits(0)  # 30 s for two actors
    assert not limits(FakePool(70.0), budget=BUDGET).fits(1)
    assert not limits(FakePool(85.0), budget=BUDGET).fits(0)
    assert limits(FakePool(85.0), shard_s=None, budget=BUDGET).fits(0)  # nothing is known yet


def test_the_run_stops_between_two_shards_when_the_next_one_costs_too_much() -> None:
    pool = FakePool(85.0, [FakeWorker(awaited=object()), FakeWorker()])
    found = limits(pool, budget=BUDGET)
    assert text(found) is None  # a shard is in hand
    pool.workers[0].awaited = None
    assert text(found, num_waiting=0) is None
    reason = found.reason(5)
    assert reason is not None
    assert reason.text == "the next shard would exceed the budget of 40.00 EUR"
    assert "--budget" in reason.go_on


def test_a_spent_budget_stops_the_shards_in_hand() -> None:
    pool = FakePool(100.0, [FakeWorker(awaited=object())])
    assert text(limits(pool, budget=BUDGET)) == "the budget of 40.00 EUR is spent"


def test_a_deadline_stops_likewise() -> None:
    now = time.time()
    assert text(limits(FakePool(), deadline_at=now + 2)) == "the deadline is near"
    late = limits(FakePool(), deadline_at=now + 8)
    assert not late.fits(0)
    assert text(late) == "the next shard would not be done before the deadline"
    assert text(limits(FakePool(), deadline_at=now + 60)) is None
