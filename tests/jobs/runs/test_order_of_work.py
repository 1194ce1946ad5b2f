"""The order of work in whole runs: what is made first, and what a start says about its deadline."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.plans import MODEL, job, write
from support.run_files import hashes, read_metadata

from nightpress import jobs
from nightpress.jobs.cluster import connection
from nightpress.jobs.dispatch.actor import ActorFactory
from nightpress.jobs.progress.events import Event, Message
from nightpress.jobs.runs import forecast, runner, shared
from nightpress.jobs.runs.forecast import UNMEASURED, forecast_messages
from nightpress.jobs.runs.shared import ordered_shards
from nightpress.pipelines.errors import PlanDamaged
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.planning import check, units, write_plan
from nightpress.pipelines.run_directory.estimate import Rate, RateKey
from nightpress.pipelines.run_directory.lease import acquire
from nightpress.pipelines.run_directory.record import RunRecord, new_record
from nightpress.pipelines.shards.events import ShardDone
from nightpress.pipelines.storage import Store

MakeSpec = Callable[..., RunSpec]


def prioritized(spec: RunSpec, folder: Path) -> RunSpec:
    """The job with a priority in each row, the highest in the last rows."""
    rows = [json.loads(line) for line in Path(str(spec.manifest)).read_text().splitlines()]
    path = folder / "urgent.jsonl"
    lines = [json.dumps(row | {"priority": number // 7}) for number, row in enumerate(rows)]
    path.write_text("".join(f"{line}\n" for line in lines))
    return spec.model_copy(update={"manifest": str(path)})


@pytest.mark.usefixtures("local_ray")
def test_a_run_makes_important_rows_first_with_the_same_names_and_bits(
    finished: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "MAX_PART_IMAGES", 12)
    monkeypatch.setattr(runner, "planning_mapper", lambda spec: map)
    spec = prioritized(finished(name="urgent", batch={"size": 4, "shard_size": 4}), tmp_path)
    events: list[Event] = []
    jobs.run(spec, events.append, deadline_at=time.time() + 3600)
    assert hashes(spec) == hashes(finished())
    metadata = read_metadata(spec)
    assert set(metadata["priority"].to_pylist()) == {0, 1, 2}
    parts = sorted(Path(spec.url, "plan").iterdir())
    assert len(parts) == 2
    best: dict[int, int] = {}
    for row in pa.concat_tables(map(pq.read_table, parts)).to_pylist():
        best[row["shard"]] = max(best.get(row["shard"], 0), row["priority"])
    done = [best[event.shard] for event in events if isinstance(event, ShardDone)]
    assert done == sorted(done, reverse=True)
    assert len(set(done)) > 1
    told = [event.text for event in events if isinstance(event, Message)]
    assert "by the deadline: all 21 images on 1 actor, for sampling alone" in told


def planned_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Store, RunRecord]:
    """A run of two parts that is planned, with an hour for each of its images."""
    monkeypatch.setattr(units, "MAX_PART_IMAGES", 4)
    monkeypatch.setattr(connection, "room", lambda cpus, gpus, memory_bytes: 2)
    rates = {RateKey(128, 96, 20, True): Rate(3600.0, 1e3)}
    monkeypatch.setattr(forecast, "rates_of_models", lambda spec, infos: rates)
    rows = [{"prompt": "p", "priority": int(n > 4)} for n in range(8)]
    batch = {"size": 2, "shard_size": 2}
    spec = job(folder, write(folder / "m.jsonl", rows), batch=batch)
    layout, store = check(spec, MODEL, 2), Store(spec.url)
    list(write_plan(spec, MODEL, layout, store))
    return store, new_record(spec, MODEL, "cpu", 2, layout)


def test_a_part_of_the_plan_that_is_damaged_is_written_again_for_its_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, record = planned_run(tmp_path, monkeypatch)
    lease = acquire(store)
    try:
        assert ordered_shards(store, record, lease) == [2, 3, 0, 1]
        whole = store.read("plan/part-00001.parquet")
        store.put("plan/part-00001.parquet", b"cut")
        assert ordered_shards(store, record, lease) == [2, 3, 0, 1]
        assert store.read("plan/part-00001.parquet") == whole
        store.put("plan/part-00001.parquet", b"cut")
        monkeypatch.setattr(shared, "repair_plan", lambda *arguments: None)
        with pytest.raises(PlanDamaged):
            ordered_shards(store, record, lease)
    finally:
        lease.release()


def said(store: Store, record: RunRecord, committed: set[int], hours: float | None) -> list[str]:
    factory = ActorFactory(record.spec.model, {}, cpus=1, gpus=0, threads=1)
    until = None if hours is None else time.time() + 3600 * hours + 60
    return [each.text for each in forecast_messages(store, record, factory, committed, until)]


def test_a_start_says_what_its_deadline_leaves_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, record = planned_run(tmp_path, monkeypatch)
    assert said(store, record, set(), 2.5) == [
        "by the deadline: about 5 of 8 images on 2 actors, for sampling alone",
        "not reached: about 3 images: priority 0 (3 of 5)",
    ]
    assert said(store, record, {2, 3}, 2.5) == [
        "by the deadline: all 4 images on 2 actors, for sampling alone"
    ]
    assert said(store, record, {0, 1, 2, 3}, 2.5) == []
    assert said(store, record, set(), None) == []
    monkeypatch.setattr(forecast, "rates_of_models", lambda spec, infos: {})
    assert said(store, record, set(), 2.5) == [f"by the deadline: unknown: {UNMEASURED}"]


def test_a_start_whose_store_does_not_answer_says_that_it_does_not_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, record = planned_run(tmp_path, monkeypatch)
    store.delete("plan/part-00001.parquet")
    (line,) = said(store, record, set(), 2.5)
    assert line.startswith("what will be done by the deadline is unknown: ")
