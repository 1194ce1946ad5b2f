"""Whom a driver blames when an actor is gone, by what real streams had told by then."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from nightpress.jobs.dispatch.shard_queue import Piece
from nightpress.jobs.dispatch.workers import InFlightShard, Worker
from nightpress.pipelines.shards.runner import BatchDone, ShardBegun, ShardEvent

pytestmark = pytest.mark.usefixtures("local_ray")

FOUND = BatchDone(1, num_ok=2, num_failed=0, num_sampled=0)


def iter_of(events: list[ShardEvent]) -> Iterator[ShardEvent]:
    return (event for event in events)  # a generator, as Ray needs it


@ray.remote(num_cpus=0)
def telling(events: list[ShardEvent]) -> Iterator[ShardEvent]:
    yield from iter_of(events)
    raise RuntimeError("the process is gone")


def flight(shard: int, *events: ShardEvent) -> InFlightShard:
    """A piece whose actor told these things and ended."""
    stream = telling.options(num_returns="streaming").remote(list(events))
    ray.wait([stream.completed()], timeout=60)
    return InFlightShard(Piece(shard, 0, 4, attempt=2), stream, turn=shard)


@pytest.mark.parametrize(
    ("told", "blamed"),
    [((), 0), ((FOUND,), 0), ((ShardBegun(1),), 1), ((FOUND, ShardBegun(1)), 1)],
)
def test_the_last_that_the_accelerator_had_come_to_is_blamed(
    told: tuple[ShardEvent, ...], blamed: int
) -> None:
    flights = [flight(0), flight(1, *told)]
    worker = Worker(None, None, None, flights=flights)  # type: ignore[arg-type]
    assert worker.to_blame() is flights[blamed]


def test_what_is_committed_is_not_blamed() -> None:
    done, other = flight(0), flight(1)
    done.is_done = True
    worker = Worker(None, None, None, flights=[done, other])  # type: ignore[arg-type]
    assert worker.to_blame() is other
    other.is_done = True
    assert worker.to_blame() is None


def test_an_actor_is_asked_for_the_call_that_is_silent_and_not_for_its_shard() -> None:
    """Two pieces of one shard may be in hand: one that waits for the store, one that is sampled."""
    asked: list[int] = []

    def is_sampling(turn: int) -> Any:
        asked.append(turn)
        return ray.put(turn == 8)

    handle = SimpleNamespace(is_sampling=SimpleNamespace(remote=is_sampling))
    pieces = [
        InFlightShard(Piece(3, n, n + 1, attempt=2), stream=None, turn=7 + n) for n in range(2)
    ]
    worker = Worker(handle, None, None, flights=pieces)  # type: ignore[arg-type]
    assert not worker.hangs()
    assert asked == [7]
    worker.flights.pop(0)
    assert worker.hangs()
