"""What a running shard reports: which call is sampling, and how long batches take."""

import time
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
import torch
import torch._dynamo
from support.fakes.fake_runs import FakeSampler, work_on

from nightpress.diffusion_core.acceleration.spec import SpeedSpec
from nightpress.diffusion_core.sampling.sampler import SampledBatch
from nightpress.pipelines.run_directory.record import RunRecord
from nightpress.pipelines.shards.batch_size_fallback import BatchSizeFallback
from nightpress.pipelines.shards.events import BatchDone, BatchSampled
from nightpress.pipelines.shards.runner import ShardRunner
from nightpress.pipelines.shards.timeline import Activity, Timeline
from nightpress.pipelines.storage import Store


def test_compilation_shows_in_the_timeline_of_the_first_batch_only(
    prepared: tuple[Store, RunRecord, pa.Table],
) -> None:
    store, record, rows = prepared
    torch._dynamo.reset()
    network = torch.compile(torch.nn.Linear(4, 4), backend="eager", dynamic=False)

    class Compiled(FakeSampler):
        def sample(self, requests, params, batch_size=None):  # type: ignore[no-untyped-def]
            network(torch.zeros(4, 4))
            return super().sample(requests, params, batch_size)

    model = record.spec.model.model_copy(update={"speed": SpeedSpec(compile="regional")})
    record = replace(record, spec=record.spec.model_copy(update={"model": model}))
    timeline = Timeline("here:1", max_spans=100)
    runner = ShardRunner(store, record, Compiled(), "here:1", timeline=timeline)  # type: ignore[arg-type]
    list(runner.run(work_on(rows), rows))
    runner.close()
    torch._dynamo.reset()
    spent = timeline.spent()
    activities = [span.activity for span in spent.spans if span.activity is not Activity.INPUT]
    first, second = (
        activities[: activities.index(Activity.OUTPUT)],
        activities[activities.index(Activity.OUTPUT) + 1 :],
    )
    assert Activity.COMPILING in first
    assert first[-1] is Activity.BUSY
    assert Activity.COMPILING not in second
    assert Activity.BUSY in second
    assert spent.seconds[Activity.COMPILING] > 0
    assert len(spent.between_batches_s) == 1


def test_the_reported_time_of_a_batch_does_not_include_storing_it(
    prepared: tuple[Store, RunRecord, pa.Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, record, rows = prepared
    create = Store.create

    def slowly(self: Store, name: str, data: bytes) -> bool:
        time.sleep(0.5)
        return create(self, name, data)

    monkeypatch.setattr(Store, "create", slowly)
    began = time.monotonic()
    runner = ShardRunner(store, record, FakeSampler(), "here:1")  # type: ignore[arg-type]
    events = list(runner.run(work_on(rows), rows))
    runner.close()
    took = [event.batch_s for event in events if isinstance(event, BatchSampled | BatchDone)]
    assert time.monotonic() - began > 0.5
    assert 0 < sum(took) < 0.5


def test_a_worker_that_stores_a_smaller_batch_size_is_not_sampling(
    prepared: tuple[Store, RunRecord, pa.Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, record, rows = prepared
    runner = ShardRunner(store, record, FakeSampler(fits=1), "here:1")  # type: ignore[arg-type]
    halve, seen = BatchSizeFallback.halve, []

    def noted(self: BatchSizeFallback, *args: Any) -> int:
        seen.append(runner.is_stuck(0))
        return halve(self, *args)

    monkeypatch.setattr(BatchSizeFallback, "halve", noted)
    list(runner.run(work_on(rows), rows))
    runner.close()
    assert seen
    assert not any(seen)


def test_of_two_parts_of_a_shard_only_the_one_in_a_batch_is_sampling(
    prepared: tuple[Store, RunRecord, pa.Table],
) -> None:
    store, record, rows = prepared
    seen: list[tuple[bool, bool]] = []

    class Asked(FakeSampler):
        def sample(self, *args: Any) -> SampledBatch:
            seen.append((runner.is_stuck(0), runner.is_stuck(1)))
            return super().sample(*args)

    runner = ShardRunner(store, record, Asked(), "here:1")  # type: ignore[arg-type]
    for start in (0, 3):
        list(runner.run(work_on(rows, start=start, stop=start + 3, commits=False), rows))
    runner.close()
    assert seen == [(True, False), (False, True)]
    assert not runner.is_stuck(0)
    assert not runner.is_stuck(2)
