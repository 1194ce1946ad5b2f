"""Dispatch with real actors in real processes: some die, hang or never start, some join."""

import os
import signal
import time
from collections.abc import Callable, Mapping
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest
from support.fakes.odd_actors import (
    BrokenActor,
    DeadlyActor,
    FactoryOf,
    FrozenActor,
    HangingActor,
    NeverCommittingActor,
    PoisonedActor,
    StuckActor,
    ThreadsActor,
    WaitingActor,
)
from support.run_files import PROMPTS, hashes, read_metadata

from nightpress import jobs
from nightpress.diffusion_core.models.loading import describe
from nightpress.jobs.dispatch import actor_pool
from nightpress.jobs.dispatch.actor import SamplerActor
from nightpress.jobs.dispatch.batch_size import resolve_batch_size
from nightpress.jobs.dispatch.config import DispatchConfig
from nightpress.jobs.dispatch.dispatcher import Dispatcher
from nightpress.jobs.errors import RunBlocked, RunStopped
from nightpress.jobs.progress.events import (
    ActorJoined,
    ActorLost,
    Event,
    Message,
    RowSetAside,
    ShardRetried,
)
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.models.location import locate
from nightpress.pipelines.planning import check, write_plan
from nightpress.pipelines.run_directory.commit import committed_shards, read_commit
from nightpress.pipelines.run_directory.metadata_rows import metadata_rows
from nightpress.pipelines.run_directory.record import RUN_FILE, RunRecord, new_record
from nightpress.pipelines.scoring.job_scorers import JobScorers, fingerprints_of
from nightpress.pipelines.shards.events import BatchDone, ShardDone
from nightpress.pipelines.storage import Store

MakeSpec = Callable[..., RunSpec]

pytestmark = pytest.mark.usefixtures("local_ray")


def begun(spec: RunSpec, scorers: Mapping[str, str] | None = None) -> tuple[Store, RunRecord]:
    """A run that is planned, with no image made."""
    store, model = Store(spec.url), describe(locate(spec.model, {}), spec.model)
    batch_size = resolve_batch_size(spec, "cpu")
    layout = check(spec, model, batch_size)
    record = new_record(spec, model, "cpu", batch_size, layout, scorers)
    store.create(RUN_FILE, record.to_json())
    list(write_plan(spec, model, layout, store))
    return store, record


def dispatcher_of(
    spec: RunSpec, store: Store, record: RunRecord, *kinds: type[SamplerActor], **values: Any
) -> Dispatcher:
    threads = values.pop("threads", 1)
    scorers = JobScorers.of(spec.scores, {})
    how = {"cpus": 1, "gpus": 0, "threads": threads, "scorers": scorers}
    factory = FactoryOf(spec.model, {}, **how, kinds=list(kinds))
    others = {name: values.pop(name) for name in ("room", "reason_to_stop") if name in values}
    values = {"min_actors": 1, "max_actors": 1, "max_attempts": 3, "look_first": False} | values
    return Dispatcher(store, record, factory, DispatchConfig(**values), **others)


@pytest.mark.chaos
def test_a_shard_whose_every_row_kills_its_process_fails_and_the_others_are_made(
    make_spec: MakeSpec,
) -> None:
    spec = make_spec(batch={"size": 2, "shard_size": 2})
    store, record = begun(spec)
    dispatcher = dispatcher_of(spec, store, record, DeadlyActor)
    seen: list[Event] = list(dispatcher.run(range(record.layout.num_shards)))
    dispatcher.close()
    assert committed_shards(store) == set(range(record.layout.num_shards))
    rows = [row for n in committed_shards(store) for row in read_commit(store, n).to_pylist()]
    failed = [row for row in rows if row["status"] == "failed"]
    assert len(rows) == PROMPTS
    assert len(failed) == 2
    assert {row["error_type"] for row in failed} == {"WorkerKilled"}
    assert {row["attempts"] for row in failed} == {4}
    parts = {n: read_commit(store, n) for n in committed_shards(store)}
    (deadly,) = [n for n, part in parts.items() if "failed" in part.column("status").to_pylist()]
    assert [event.shard for event in seen if isinstance(event, RowSetAside)] == [deadly] * 2
    retried = [event.shard for event in seen if isinstance(event, ShardRetried)]
    assert retried.count(deadly) == 4
    # A death may be blamed on the shard before, but only once.
    wrongly_blamed = [shard for shard in retried if shard != deadly]
    assert len(wrongly_blamed) == len(set(wrongly_blamed))
    assert sum(isinstance(event, ActorLost) for event in seen) - len(wrongly_blamed) == 6


@pytest.mark.chaos
def test_the_images_of_a_shard_that_is_given_up_have_the_scores_of_the_job(
    make_spec: MakeSpec, tmp_path: Path
) -> None:
    code = "class Mean:\n    def score(self, image):\n        return image.pixels.mean()\n"
    (tmp_path / "mean.py").write_text(code)
    scores = {"mean": {"scorer": f"{tmp_path}/mean.py:Mean"}}
    spec = make_spec(batch={"size": 2, "shard_size": 2}, scores=scores)
    infos = JobScorers.of(spec.scores, {}).describe()
    store, record = begun(spec, fingerprints_of(infos))
    dispatcher = dispatcher_of(spec, store, record, NeverCommittingActor, max_attempts=1)
    seen: list[Event] = list(dispatcher.run(range(record.layout.num_shards)))
    dispatcher.close()
    retried = [event for event in seen if isinstance(event, ShardRetried) and event.shard == 1]
    assert [event.is_given_up for event in retried] == [False] * (len(retried) - 1) + [True]
    rows = metadata_rows(read_commit(store, 1))
    assert [row["status"] for row in rows] == ["ok", "ok"]
    assert "driver" not in {row["worker"] for row in rows}
    assert all(row["scores"]["mean"] > 0 for row in rows)


def test_actors_that_never_start_stop_the_run_with_their_error(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actor_pool, "MAX_WAIT_S", 0.0)
    spec = make_spec()
    store, record = begun(spec)
    dispatcher = dispatcher_of(spec, store, record, BrokenActor)
    with pytest.raises(RunBlocked, match="the weights on this node are not those of the run"):
        list(dispatcher.run(range(record.layout.num_shards)))
    dispatcher.close()
    assert committed_shards(store) == set()


def test_an_actor_that_cannot_start_does_not_stop_the_others(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actor_pool, "MAX_START_FAILURES", 1)
    spec = make_spec()
    store, record = begun(spec)
    dispatcher = dispatcher_of(spec, store, record, WaitingActor, BrokenActor, max_actors=2)
    said = []
    for event in dispatcher.run(range(record.layout.num_shards)):
        if isinstance(event, Message):
            said.append(event.text)
            store.put("go", b"")
    dispatcher.close()
    assert "the weights on this node are not those of the run" in said[0]
    assert committed_shards(store) == set(range(record.layout.num_shards))


@pytest.mark.chaos
def test_an_actor_that_never_loads_its_model_is_replaced(make_spec: MakeSpec) -> None:
    spec = make_spec()
    store, record = begun(spec)
    dispatcher = dispatcher_of(spec, store, record, StuckActor, SamplerActor, load_timeout_s=15.0)
    said = [event.text for event in dispatcher.run([0]) if isinstance(event, Message)]
    dispatcher.close()
    assert said == ["an actor failed to start: it did not load its model within 15 s"]
    assert committed_shards(store) == {0}


def test_actors_join_when_the_cluster_grows_and_the_bits_stay_the_same(
    make_spec: MakeSpec, finished: MakeSpec
) -> None:
    spec = make_spec(batch={"size": 4, "shard_size": 4})
    store, record = begun(spec)
    places = {"room": 1}
    dispatcher = dispatcher_of(
        spec, store, record, WaitingActor, max_actors=None, room=lambda *_: places["room"]
    )
    joined = 0
    for event in dispatcher.run(range(record.layout.num_shards)):
        if isinstance(event, ShardDone):
            places["room"] = 3
        joined += isinstance(event, ActorJoined)
        if joined == 3:
            store.put("go", b"")
    dispatcher.close()
    assert joined == 3
    assert len(set(read_metadata(spec).column("worker").to_pylist())) == 3
    assert hashes(spec) == hashes(finished())
    assert committed_shards(store) == set(range(record.layout.num_shards))


def test_an_actor_killed_in_the_middle_of_a_shard_costs_no_image(
    make_spec: MakeSpec, finished: MakeSpec
) -> None:
    spec = make_spec()
    store, record = begun(spec)
    dispatcher = dispatcher_of(spec, store, record, WaitingActor)
    lost: list[ActorLost] = []
    retried: list[ShardRetried] = []
    for event in dispatcher.run(range(record.layout.num_shards)):
        if isinstance(event, ShardDone) and not lost:
            _kill_the_one_that_waits(store)
        if isinstance(event, ActorLost):
            lost.append(event)
            store.put("go", b"")
        if isinstance(event, ShardRetried):
            retried.append(event)
    dispatcher.close()

    assert len(lost) == 1
    assert [(event.shard, event.attempt) for event in retried] == [(1, 1)]
    assert hashes(spec) == hashes(finished())
    assert len(read_metadata(spec)) == PROMPTS
    assert {row["attempts"] for row in read_commit(store, 1).to_pylist()} == {2}
    assert {row["attempts"] for row in read_commit(store, 2).to_pylist()} == {1}


def test_a_row_that_hangs_is_set_aside_and_the_others_are_made(make_spec: MakeSpec) -> None:
    spec = make_spec(batch={"size": 2, "shard_size": 4})
    store, record = begun(spec)
    dispatcher = dispatcher_of(spec, store, record, HangingActor, watchdog_s=3.0, max_attempts=1)
    list(dispatcher.run(range(record.layout.num_shards)))
    dispatcher.close()
    rows = read_metadata(spec).to_pylist()
    failed = [(row["id"], row["error_type"]) for row in rows if row["status"] == "failed"]
    assert failed == [("00000003", "Timeout")]
    assert len(rows) == PROMPTS


@pytest.mark.slow
def test_a_frozen_actor_is_replaced_and_the_loop_never_waits_for_it(make_spec: MakeSpec) -> None:
    spec = make_spec(batch={"size": 2, "shard_size": 4})
    store, record = begun(spec)
    looks: list[float] = []

    def note_the_time() -> None:
        looks.append(time.monotonic())

    dispatcher = dispatcher_of(
        spec, store, record, FrozenActor, watchdog_s=3.0, reason_to_stop=note_the_time
    )
    events = dispatcher.run(range(record.layout.num_shards))
    lost = next(event for event in events if isinstance(event, ActorLost))
    dispatcher.close()
    assert lost.reason == "it was in one batch for more than 3 s"
    assert looks[-1] - looks[0] > 8.0  # the watchdog's seconds, and those of its question
    assert max(after - before for before, after in pairwise(looks)) < 3.0


FEW_DEATHS = (4, 5)
"""A fifth process dies if the machine is so busy that the last word of another comes too late."""


def deaths_of_a_poisoned_run(spec: RunSpec) -> int:
    """Make a run in which row 3 kills its process; returns how many processes died of it."""
    store, record = begun(spec)
    dispatcher = dispatcher_of(spec, store, record, PoisonedActor)
    seen = list(dispatcher.run(range(record.layout.num_shards)))
    dispatcher.close()
    rows = read_metadata(spec).to_pylist()
    (failed,) = [row for row in rows if row["status"] == "failed"]
    assert (failed["id"], failed["error_type"]) == ("00000003", "WorkerKilled")
    assert "SIGKILL" in failed["error"] or "died" in failed["error"]
    deaths = [event for event in seen if isinstance(event, ActorLost)]
    assert failed["attempts"] == len(deaths)
    (aside,) = [event for event in seen if isinstance(event, RowSetAside)]
    assert aside.reason.startswith(failed["error"])  # which has at most 500 characters
    return len(deaths)


@pytest.mark.slow
def test_a_row_that_kills_its_process_is_named_by_the_batch_in_hand(
    make_spec: MakeSpec, finished: MakeSpec
) -> None:
    spec = make_spec(batch={"size": 4, "shard_size": PROMPTS})
    assert deaths_of_a_poisoned_run(spec) in FEW_DEATHS
    (failed,) = [name for name in hashes(finished()) if "00000003" in name]
    assert hashes(spec) == hashes(finished()) | {failed: None}  # all others have their own bits


@pytest.mark.chaos
def test_in_a_shard_of_1024_a_row_that_kills_its_process_costs_four_processes(
    make_spec: MakeSpec, tmp_path: Path
) -> None:
    manifest = tmp_path / "many.csv"
    manifest.write_text("prompt\n" + "".join(f"picture number {n}\n" for n in range(1024)))
    settings = {"width": 32, "height": 32, "num_inference_steps": 2}
    spec = make_spec(
        manifest=str(manifest), sampling=settings, batch={"size": 4, "shard_size": 1024}
    )
    assert deaths_of_a_poisoned_run(spec) in FEW_DEATHS
    assert len(read_metadata(spec)) == 1024


def test_a_run_that_is_asked_to_stop_stores_its_current_batch_and_can_be_resumed(
    make_spec: MakeSpec, finished: MakeSpec
) -> None:
    spec = make_spec(batch={"size": 4, "shard_size": 21})
    store, record = begun(spec)
    asked: list[str] = []
    dispatcher = dispatcher_of(
        spec, store, record, SamplerActor, reason_to_stop=lambda: asked[0] if asked else None
    )
    events = dispatcher.run(range(record.layout.num_shards))
    asked += ["tired" for event in islice(events, 3) if isinstance(event, BatchDone)]
    with pytest.raises(RunBlocked, match=r"stopped: tired \(what is committed is kept\)"):
        list(events)
    dispatcher.close()
    there = store.list("images")
    assert 0 < len(there) < PROMPTS
    assert committed_shards(store) == set()
    assert jobs.run(spec).num_made == PROMPTS - len(there)
    assert hashes(spec) == hashes(finished())


def test_before_a_deadline_only_shards_that_will_be_done_are_begun(make_spec: MakeSpec) -> None:
    spec = make_spec(batch={"size": 2, "shard_size": 2})
    store, record = begun(spec)
    dispatcher = dispatcher_of(
        spec, store, record, SamplerActor, deadline_at=time.time() + 100.0, drain_s=1.0
    )
    dispatcher._timings.of(None).add_shard(1, 60.0)  # a minute per image: nothing is done in time
    with pytest.raises(RunStopped, match="would not be done before the deadline"):
        list(dispatcher.run(range(record.layout.num_shards)))
    dispatcher.close()
    assert committed_shards(store) == set()


def test_a_truncated_plan_is_written_again_and_used(make_spec: MakeSpec) -> None:
    spec = make_spec()
    store, record = begun(spec)
    part = record.layout.parts[0].path
    whole = store.read(part)
    store.put(part, whole[:100])
    assert jobs.run(spec).num_ok == PROMPTS
    assert store.read(part) == whole


@pytest.mark.slow
def test_shards_are_made_with_the_number_of_threads_of_the_run(make_spec: MakeSpec) -> None:
    spec = make_spec()
    store, record = begun(spec)
    dispatcher = dispatcher_of(
        spec, store, record, ThreadsActor, threads=2
    )  # Ray sets 1 for one CPU
    list(dispatcher.run([0]))
    dispatcher.close()
    assert store.read("threads") == b"2"


def _kill_the_one_that_waits(store: Store) -> None:
    """SIGKILL the actor's process once it works on shard 1."""
    store.delete("pid")
    while store.size("pid") is None:
        time.sleep(0.05)
    os.kill(int(store.read("pid")), signal.SIGKILL)
