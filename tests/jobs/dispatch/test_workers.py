"""What the driver blames for the loss of an actor, by the events in real Ray streams."""

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from nightpress.jobs.dispatch import workers
from nightpress.jobs.dispatch.workers import InFlightShard, Worker
from nightpress.pipelines.shards.events import BatchDone, BatchSampled, ShardBegun, ShardEvent
from nightpress.pipelines.shards.work import ShardWork

pytestmark = pytest.mark.usefixtures("local_ray")

FOUND = BatchDone(1, num_ok=2, num_failed=0, num_sampled=0)


def iter_of(events: list[ShardEvent]) -> Iterator[ShardEvent]:
    return (event for event in events)  # a generator, as Ray needs it


@ray.remote(num_cpus=0)
def reporting(events: list[ShardEvent]) -> Iterator[ShardEvent]:
    yield from iter_of(events)
    raise RuntimeError("the process is gone")


def in_flight(shard: int, *events: ShardEvent) -> InFlightShard:
    """Work whose actor sent these events and then ended."""
    stream = reporting.options(num_returns="streaming").remote(list(events))
    ray.wait([stream.completed()], timeout=60)
    return InFlightShard(ShardWork(shard, 0, 4, attempt=2), stream, ticket=shard)


@pytest.mark.parametrize(
    ("events", "culprit"),
    [((), 0), ((FOUND,), 0), ((ShardBegun(1),), 1), ((FOUND, ShardBegun(1)), 1)],
)
def test_the_last_work_that_reached_the_accelerator_is_blamed(
    events: tuple[ShardEvent, ...], culprit: int
) -> None:
    held = [in_flight(0), in_flight(1, *events)]
    worker = Worker(None, None, None, held=held)  # type: ignore[arg-type]
    assert worker.find_culprit() is held[culprit]


def test_committed_work_is_not_blamed() -> None:
    done, other = in_flight(0), in_flight(1)
    done.is_done = True
    worker = Worker(None, None, None, held=[done, other])  # type: ignore[arg-type]
    assert worker.find_culprit() is other
    other.is_done = True
    assert worker.find_culprit() is None


def test_a_worker_is_asked_about_the_silent_call_and_not_about_its_shard() -> None:
    """It may hold two parts of one shard: one that waits for the store, one that is sampled."""
    asked: list[int] = []

    def is_stuck(ticket: int, scoring_limit_s: float | None) -> Any:
        asked.append(ticket)
        return ray.put(ticket == 8)

    handle = SimpleNamespace(is_stuck=SimpleNamespace(remote=is_stuck))
    parts = [
        InFlightShard(ShardWork(3, n, n + 1, attempt=2), stream=None, ticket=7 + n)
        for n in range(2)
    ]
    worker = Worker(handle, None, None, held=parts)  # type: ignore[arg-type]
    assert not worker.is_hung()
    assert asked == [7]
    worker.held.pop(0)
    assert worker.is_hung()


def test_actors_that_do_not_answer_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a frozen node: the lease and SIGTERM wait for the same loop."""
    handle = SimpleNamespace(
        is_stuck=SimpleNamespace(remote=lambda ticket, limit_s: never.remote()),
        time_spent=SimpleNamespace(remote=lambda: never.remote()),
    )
    frozen = [
        Worker(handle, None, None, held=[InFlightShard(ShardWork(n, 0, 4), stream=None, ticket=n)])  # type: ignore[arg-type]
        for n in range(20)
    ]
    began = time.monotonic()
    assert {worker.is_hung() for worker in frozen} == {None}
    assert [worker.last_words() for worker in frozen] == [None] * 20
    assert time.monotonic() - began < 2.0
    monkeypatch.setattr(workers, "ANSWER_S", 0.0)
    frozen[0].held[0].heard_at += 1.0  # it was heard in between, so it is asked anew
    assert frozen[0].is_hung() is True
    assert frozen[1].is_hung() is None
    late = Worker(handle, None, None, held=[])  # type: ignore[arg-type]
    assert late.last_words() == []


@ray.remote(num_cpus=100)
def never() -> None:
    """A task for which there is never room."""


def test_a_shard_with_rejected_images_tells_how_long_a_shard_takes() -> None:
    work = InFlightShard(ShardWork(3, 0, 4), stream=None)
    work.note_done(BatchDone(3, num_ok=0, num_failed=1, num_sampled=0, num_rejected=1))
    assert work.num_made == 0  # its draws were recorded by an earlier start
    work.has_begun = True
    work.note_sampled(BatchSampled(3, batch_s=2.0, scoring_s=5.0))
    told = work.note_done(BatchDone(3, 2, 0, 2, batch_s=1.0, scoring_s=0.5))
    assert (told.batch_s, told.scoring_s) == (3.0, 5.5)
    told = work.note_done(BatchDone(3, 0, 2, 0, num_rejected=2))
    assert (told.batch_s, told.scoring_s) == (0.0, 0.0)
    assert work.made_all
