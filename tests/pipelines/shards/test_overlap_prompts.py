"""Prompts are prefetched while the batch before theirs is sampled, and not earlier."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from support.fakes.fake_runs import FakeSampler, make_shard, prepare, rows_of, work_on

from nightpress.diffusion_core.errors import DeviceError, SamplingError
from nightpress.diffusion_core.sampling.request import ImageRequest, SamplingParams
from nightpress.diffusion_core.sampling.sampler import SampledBatch
from nightpress.pipelines.run_directory.commit import read_commit
from nightpress.pipelines.run_directory.record import RunRecord
from nightpress.pipelines.shards.batching import planned_images, with_next
from nightpress.pipelines.shards.events import ShardDone, ShardEvent
from nightpress.pipelines.shards.runner import ShardRunner
from nightpress.pipelines.storage import Store

PROMPTS = [f"picture {n}" for n in range(8)]
PATIENCE_S = 20.0


class Watched(FakeSampler):
    """Notes which prompts are prepared during each batch, which waits for those that it expects."""

    def __init__(self, expects: Callable[[int], Sequence[str]]) -> None:
        super().__init__()
        self._expects = expects
        self._changed = threading.Condition()
        self.samples = threading.Event()
        self.threads: set[str] = set()
        self.beside: list[list[str]] = []
        """For each batch, all prompts that were prepared by its end."""

    def prepare(self, requests: Sequence[ImageRequest], params: SamplingParams) -> None:
        with self._changed:
            super().prepare(requests, params)
            self.threads.add(threading.current_thread().name)
            self._changed.notify_all()

    def sample(self, *args: Any) -> SampledBatch:
        self.samples.set()
        wanted = set(self._expects(len(self.batches)))
        with self._changed:
            if not self._changed.wait_for(lambda: wanted <= set(self.prepared), PATIENCE_S):
                raise DeviceError(f"{wanted} were not prepared")  # which ends the shard at once
        made = super().sample(*args)
        self.beside.append(list(self.prepared))
        return made


@pytest.fixture
def prepared(tmp_path: Path) -> tuple[Store, RunRecord, pa.Table]:
    return prepare(tmp_path, PROMPTS, shard_size=4)


def events_of(runner: ShardRunner, rows: pa.Table, shard: int, **work: Any) -> list[ShardEvent]:
    own = rows_of(rows, shard)
    return list(runner.run(work_on(own, shard, **work), own))


@contextmanager
def running(store: Store, record: RunRecord, sampler: FakeSampler) -> Any:
    runner = ShardRunner(store, record, sampler, "here:1")  # type: ignore[arg-type]
    try:
        yield runner
    finally:
        runner.close()


def prompts_of(rows: pa.Table, shard: int) -> list[str]:
    return [image.prompt for image in planned_images(rows_of(rows, shard))]


def test_the_next_batch_of_a_shard_is_prefetched_while_this_one_is_sampled(tmp_path: Path) -> None:
    store, record, rows = prepare(tmp_path, PROMPTS)
    planned = [image.prompt for image in planned_images(rows)]
    sampler = Watched(lambda number: planned[: 8 if number == 0 else 4])
    assert make_shard(store, record, rows, sampler)[-1] == ShardDone(0, 8, 0)
    assert sampler.batches == [4, 4]
    assert sampler.beside[0] == planned
    assert {name.split("_")[0] for name in sampler.threads} == {"prompts"}


def test_the_first_batch_of_the_next_shard_is_prefetched_while_this_shard_is_sampled(
    prepared: tuple[Store, RunRecord, pa.Table],
) -> None:
    store, record, rows = prepared
    following = prompts_of(rows, 1)
    sampler = Watched(lambda number: following if number == 0 else [])
    with running(store, record, sampler) as runner, ThreadPoolExecutor(2) as threads:
        first = threads.submit(events_of, runner, rows, 0)
        assert sampler.samples.wait(PATIENCE_S)
        second = threads.submit(events_of, runner, rows, 1)
        assert [events.result(60)[-1].shard for events in (first, second)] == [0, 1]
    assert sampler.batches == [4, 4]
    assert set(following) <= set(sampler.beside[0])


@pytest.mark.parametrize("attempts", [(2, 1), (1, 2)])
def test_no_prompts_of_another_shard_are_prefetched_while_a_shard_is_retried(
    prepared: tuple[Store, RunRecord, pa.Table], attempts: tuple[int, int]
) -> None:
    """A prompt of the other shard that ended the process would be blamed on this one again."""
    store, record, rows = prepared
    waits, samples = threading.Event(), threading.Event()

    class Patient(FakeSampler):
        def sample(self, *args: Any) -> SampledBatch:
            samples.set()
            assert waits.wait(PATIENCE_S)
            time.sleep(0.2)
            self.beside = list(self.prepared) if not self.batches else self.beside
            return super().sample(*args)

    sampler = Patient()
    with running(store, record, sampler) as runner, ThreadPoolExecutor(2) as threads:
        lock, wait = runner.accelerator_lock, runner.accelerator_lock.wait

        def noted(number: int) -> None:
            if number:
                waits.set()
            wait(number)

        lock.wait = noted  # type: ignore[method-assign]
        first = threads.submit(events_of, runner, rows, 0, attempt=attempts[0])
        assert samples.wait(PATIENCE_S)
        second = threads.submit(events_of, runner, rows, 1, attempt=attempts[1])
        assert isinstance(first.result(60)[-1], ShardDone)
        assert isinstance(second.result(60)[-1], ShardDone)
    assert not set(prompts_of(rows, 1)) & set(sampler.beside)


def test_a_prompt_that_cannot_be_prefetched_fails_where_it_is_sampled(
    tmp_path: Path,
) -> None:
    prompts = ["a", "explode", "b", "c", "d", "e", "f", "g"]
    store, record, rows = prepare(tmp_path, prompts)
    tried: list[str] = []

    class Refusing(FakeSampler):
        def prepare(self, requests: Sequence[ImageRequest], params: SamplingParams) -> None:
            tried.extend(request.prompt for request in requests)
            raise SamplingError("no such letter")

    events = make_shard(store, record, rows, Refusing())
    assert events[-1] == ShardDone(0, num_ok=7, num_failed=1)
    (failed,) = [row for row in read_commit(store, 0).to_pylist() if row["status"] == "failed"]
    assert (failed["prompt"], failed["error"]) == ("explode", "SamplingError: it exploded")
    assert tried[:4] == [image.prompt for image in planned_images(rows)][:4]


def test_prefetching_does_not_change_the_batches(tmp_path: Path) -> None:
    class Idle(FakeSampler):
        def prepare(self, *_: Any) -> None:
            pass

    shas = []
    for number, sampler in enumerate((FakeSampler(fits=3), Idle(fits=3))):
        store, record, rows = prepare(tmp_path / str(number), PROMPTS)
        make_shard(store, record, rows, sampler)
        shas.append(read_commit(store, 0).select(["image_id", "sha256", "batch_size"]))
    assert shas[0].equals(shas[1])


def test_batches_are_paired_with_the_next_one_and_read_one_ahead(
    prepared: tuple[Store, RunRecord, pa.Table],
) -> None:
    images, asked = planned_images(prepared[2]), []

    def cut() -> Any:
        for image in images[:3]:
            asked.append(image)
            yield [image]

    pairs = with_next(cut())
    assert next(pairs) == ([images[0]], [images[1]])
    assert asked == images[:2]
    assert list(pairs) == [([images[1]], [images[2]]), ([images[2]], [])]
    assert list(with_next(iter([]))) == []
