"""Prompts of the next batch are encoded while this one is sampled, and no others too early."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from support.fakes.fake_press import FakeSampler, prepare, run

from nightpress.diffusion_core.errors import DeviceError, SamplingError
from nightpress.diffusion_core.sampling.request import ImageRequest, SamplingParams
from nightpress.diffusion_core.sampling.sampler import SampledBatch
from nightpress.pipelines.run_directory.commit import read_commit
from nightpress.pipelines.run_directory.record import RunRecord
from nightpress.pipelines.shards.batching import planned_images, with_the_next
from nightpress.pipelines.shards.runner import ShardDone, ShardRunner, ShardWork
from nightpress.pipelines.storage import Store

PROMPTS = [f"picture {n}" for n in range(8)]
PATIENCE_S = 20.0


class Watched(FakeSampler):
    """Notes what is prepared while which batch is sampled; a batch waits for what it expects."""

    def __init__(self, expects: Callable[[int], Sequence[str]]) -> None:
        super().__init__()
        self._expects = expects
        self._changed = threading.Condition()
        self.samples = threading.Event()
        self.threads: set[str] = set()
        self.beside: list[list[str]] = []
        """Of each batch: all that was prepared by its end."""

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


def work_of(rows: pa.Table, shard: int, **values: Any) -> ShardWork:
    return ShardWork(shard, rows.filter(pc.equal(rows.column("shard"), shard)), **values)


@contextmanager
def running(store: Store, record: RunRecord, sampler: FakeSampler) -> Any:
    runner = ShardRunner(store, record, sampler, "here:1")  # type: ignore[arg-type]
    try:
        yield runner
    finally:
        runner.close()


def prompts_of(rows: pa.Table, shard: int) -> list[str]:
    return [image.prompt for image in planned_images(work_of(rows, shard).rows)]


def test_the_next_batch_of_a_shard_is_prepared_while_this_one_is_sampled(tmp_path: Path) -> None:
    store, record, rows = prepare(tmp_path, PROMPTS)
    planned = [image.prompt for image in planned_images(rows)]
    sampler = Watched(lambda number: planned[: 8 if number == 0 else 4])
    assert run(store, record, ShardWork(0, rows), sampler)[-1] == ShardDone(0, 8, 0)
    assert sampler.batches == [4, 4]
    assert sampler.beside[0] == planned
    assert {name.split("_")[0] for name in sampler.threads} == {"prompts"}


def test_the_first_batch_of_the_next_shard_is_prepared_while_this_shard_is_sampled(
    prepared: tuple[Store, RunRecord, pa.Table],
) -> None:
    store, record, rows = prepared
    following = prompts_of(rows, 1)
    sampler = Watched(lambda number: following if number == 0 else [])
    with running(store, record, sampler) as runner, ThreadPoolExecutor(2) as threads:
        first = threads.submit(lambda: list(runner.run(work_of(rows, 0))))
        assert sampler.samples.wait(PATIENCE_S)
        second = threads.submit(lambda: list(runner.run(work_of(rows, 1))))
        assert [events.result(60)[-1].shard for events in (first, second)] == [0, 1]
    assert sampler.batches == [4, 4]
    assert set(following) <= set(sampler.beside[0])


@pytest.mark.parametrize("attempts", [(2, 1), (1, 2)])
def test_beside_a_shard_that_is_tried_again_no_other_shard_is_prepared(
    prepared: tuple[Store, RunRecord, pa.Table], attempts: tuple[int, int]
) -> None:
    """If a prompt of the other ended the process, this shard would be blamed for it once more."""
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
        turn, wait = runner.turns, runner.turns.wait

        def told(number: int) -> None:
            if number:
                waits.set()
            wait(number)

        turn.wait = told  # type: ignore[method-assign]
        first = threads.submit(lambda: list(runner.run(work_of(rows, 0, attempt=attempts[0]))))
        assert samples.wait(PATIENCE_S)
        second = threads.submit(lambda: list(runner.run(work_of(rows, 1, attempt=attempts[1]))))
        assert isinstance(first.result(60)[-1], ShardDone)
        assert isinstance(second.result(60)[-1], ShardDone)
    assert not set(prompts_of(rows, 1)) & set(sampler.beside)


def test_what_cannot_be_prepared_stops_nothing_and_is_told_where_it_is_sampled(
    tmp_path: Path,
) -> None:
    prompts = ["a", "explode", "b", "c", "d", "e", "f", "g"]
    store, record, rows = prepare(tmp_path, prompts)
    tried: list[str] = []

    class Refusing(FakeSampler):
        def prepare(self, requests: Sequence[ImageRequest], params: SamplingParams) -> None:
            tried.extend(request.prompt for request in requests)
            raise SamplingError("no such letter")

    events = run(store, record, ShardWork(0, rows), Refusing())
    assert events[-1] == ShardDone(0, num_ok=7, num_failed=1)
    (failed,) = [row for row in read_commit(store, 0).to_pylist() if row["status"] == "failed"]
    assert (failed["prompt"], failed["error"]) == ("explode", "SamplingError: it exploded")
    assert tried[:4] == [image.prompt for image in planned_images(rows)][:4]


def test_with_and_without_preparing_the_batches_are_the_same(tmp_path: Path) -> None:
    class Idle(FakeSampler):
        def prepare(self, *_: Any) -> None:
            pass

    shas = []
    for number, sampler in enumerate((FakeSampler(fits=3), Idle(fits=3))):
        store, record, rows = prepare(tmp_path / str(number), PROMPTS)
        run(store, record, ShardWork(0, rows), sampler)
        shas.append(read_commit(store, 0).select(["image_id", "sha256", "batch_size"]))
    assert shas[0].equals(shas[1])


def test_each_batch_comes_beside_the_next_and_only_one_is_asked_for_ahead(
    prepared: tuple[Store, RunRecord, pa.Table],
) -> None:
    images, asked = planned_images(prepared[2]), []

    def cut() -> Any:
        for image in images[:3]:
            asked.append(image)
            yield [image]

    pairs = with_the_next(cut())
    assert next(pairs) == ([images[0]], [images[1]])
    assert asked == images[:2]
    assert list(pairs) == [([images[1]], [images[2]]), ([images[2]], [])]
    assert list(with_the_next(iter([]))) == []
