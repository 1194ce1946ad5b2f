"""Which actor gets which model: rarely another one, and no actor waits while work does."""

from collections import Counter
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import hypothesis.strategies as st
from hypothesis import given

from nightpress.jobs.dispatch.assignment import first_model, is_near_the_end, next_model
from nightpress.jobs.dispatch.shard_queue import ShardQueue
from nightpress.jobs.dispatch.workers import Worker
from nightpress.pipelines.shards.work import ShardWork


def queue_of(*models: str | None) -> ShardQueue:
    """A queue of one shard for each of these models."""
    return ShardQueue(
        range(len(models)),
        lambda shard: ShardWork(shard, 0, 1),
        max_attempts=3,
        model_of=lambda shard: models[shard],
    )


@dataclass
class FakeWorker:
    """As much of a worker as the choice looks at."""

    model: str | None
    is_leaving: bool = False
    is_placed: bool = True
    left: int = 0
    num_loads: int = field(default=1)


def choose(queue: ShardQueue, *workers: FakeWorker, is_new: bool = False) -> str | None:
    return next_model(queue, cast("list[Worker]", list(workers)), is_new)


def test_new_actors_are_shared_out_by_the_work_of_each_model() -> None:
    queue = queue_of(*"aaaaaabbb")
    workers: list[FakeWorker] = []
    for _ in range(3):
        workers.append(FakeWorker(choose(queue, *workers, is_new=True)))
    assert Counter(worker.model for worker in workers) == {"a": 2, "b": 1}


def test_equal_work_goes_to_the_model_whose_shards_come_first() -> None:
    assert choose(queue_of(*"bbaa"), is_new=True) == "b"


def test_an_actor_helps_only_where_more_waits_than_others_will_take() -> None:
    queue = queue_of(*"bb")
    assert choose(queue, FakeWorker("a"), FakeWorker("b")) == "b"
    assert choose(queue, FakeWorker("a"), FakeWorker("b"), FakeWorker("b")) is None
    gone = FakeWorker("b", is_leaving=True), FakeWorker("b", is_placed=False)
    assert choose(queue, FakeWorker("a"), *gone) == "b"


def test_a_run_with_one_model_never_changes_it() -> None:
    queue = queue_of(None, None, None)
    assert choose(queue, FakeWorker(None)) is None
    assert choose(queue, is_new=True) is None
    assert queue.take().shard == 0


def test_the_queue_hands_out_work_by_model_and_retries_of_it_first() -> None:
    queue = queue_of(*"abab")
    first = queue.take("a")
    queue.requeue(first.next_attempt())
    assert (queue.waiting("a"), queue.waiting("b"), len(queue)) == (2, 2, 4)
    assert [queue.take("b").shard, queue.take("a").shard, queue.take("a").shard] == [1, 0, 2]
    assert queue.take_shared("a") is None
    assert is_near_the_end(queue, [cast("Worker", FakeWorker("b"))] * 2, "b")


def test_the_first_actor_keeps_what_it_has_loaded_if_that_has_work() -> None:
    models = ["a", "b", "b"]
    record = cast("Any", SimpleNamespace(layout=SimpleNamespace(model_of=models.__getitem__)))
    assert first_model(record, [0, 1, 2], None) == "b"
    assert first_model(record, [0, 1, 2], "a") == "a"
    assert first_model(record, [1, 2], "a") == "b"


@given(
    shards=st.dictionaries(st.sampled_from("abcd"), st.integers(1, 12), min_size=1),
    seconds=st.dictionaries(st.sampled_from("abcd"), st.integers(1, 9)),
    num_workers=st.integers(1, 6),
)
def test_every_shard_is_made_and_an_actor_loads_no_model_twice(
    shards: dict[str, int], seconds: dict[str, int], num_workers: int
) -> None:
    """In a night without failures, whatever a shard of each model takes."""
    queue = queue_of(*(model for model, number in shards.items() for _ in range(number)))
    workers: list[FakeWorker] = []
    for _ in range(num_workers):
        workers.append(FakeWorker(choose(queue, *workers, is_new=True)))
    made: Counter[str] = Counter()
    loaded: list[set[str | None]] = [{worker.model} for worker in workers]
    for _ in range(1000):
        for number, worker in enumerate(workers):
            worker.left -= 1
            if worker.left > 0 or not queue:
                continue
            if not queue.waiting(worker.model):
                model = choose(queue, *workers)
                if model is None:
                    continue
                assert model not in loaded[number]
                loaded[number].add(model)
                worker.model = model
            work = queue.take(worker.model)
            queue.complete(work)
            made[str(worker.model)] += 1
            worker.left = seconds.get(str(worker.model), 1)
        if queue.is_finished:
            break
    assert made == shards
    if num_workers == 1:
        assert len(loaded[0]) == len(shards)
