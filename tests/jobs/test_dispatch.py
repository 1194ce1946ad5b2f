"""Dispatch with real actors in real processes: the ones that die, and the ones that join."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
from conftest import PROMPTS, hashes, read_metadata

import jobs
from diffusion_core.errors import ModelError
from jobs.actors import ActorFactory, Assignment, SamplerActor
from jobs.dispatch import Dispatcher
from jobs.errors import RunStopped
from jobs.events import ActorJoined, ActorLost, Event, ShardRetried
from pipelines.commit import committed_shards, read_commit
from pipelines.run_record import RunRecord, require_record
from pipelines.shard import ShardDone
from pipelines.spec import RunSpec
from pipelines.storage import Store

MakeSpec = Callable[..., RunSpec]

pytestmark = pytest.mark.usefixtures("local_ray")


class DeadlyActor(SamplerActor):
    """Its process dies, as of a segmentation fault, whenever it is given shard 1."""

    def run_shard(self, assignment: Assignment) -> Iterator[Any]:
        if assignment.shard == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        yield from super().run_shard(assignment)


class BrokenActor(SamplerActor):
    """Its node has no usable model."""

    def load(self, fingerprint: str, batch_size: int) -> None:
        raise ModelError("the weights on this node are not those of the run")


@dataclass(frozen=True)
class FactoryOf(ActorFactory):
    """Starts actors of another class."""

    kind: type[SamplerActor] = SamplerActor

    def start(self) -> Any:
        return (
            ray.remote(self.kind)
            .options(num_cpus=self.cpus, max_restarts=0)
            .remote(self.spec, self.options, self.device, self.threads)
        )


def begun(spec: RunSpec) -> tuple[Store, RunRecord]:
    """A run that is planned, and of which nothing is committed."""
    jobs.run(spec)
    store = Store(spec.url)
    for shard in committed_shards(store):
        store.delete(f"metadata/shard-{shard:05d}.parquet")
    for name in store.list("images"):
        store.delete(name)
    return store, require_record(store)


def dispatcher(
    spec: RunSpec, store: Store, record: RunRecord, kind: type[SamplerActor], **values: Any
) -> Dispatcher:
    factory = FactoryOf(spec.model, {}, cpus=1, gpus=0, threads=1, kind=kind)
    values = {"min_actors": 1, "max_actors": 1, "max_attempts": 3, "look_first": False} | values
    return Dispatcher(store, record, factory, **values)


def test_a_shard_that_kills_every_worker_fails_and_the_others_are_made(
    make_spec: MakeSpec,
) -> None:
    spec = make_spec(batch={"size": 4, "shard_size": 4})
    store, record = begun(spec)
    press = dispatcher(spec, store, record, DeadlyActor)
    seen: list[Event] = list(press.run(range(record.layout.num_shards)))
    press.close()
    assert committed_shards(store) == set(range(record.layout.num_shards))
    rows = [row for n in committed_shards(store) for row in read_commit(store, n).to_pylist()]
    failed = [row for row in rows if row["status"] == "failed"]
    assert len(rows) == PROMPTS
    assert len(failed) == 4
    assert {row["error_type"] for row in failed} == {"WorkerLost"}
    assert {row["attempts"] for row in failed} == {3}
    assert sum(isinstance(event, ActorLost) for event in seen) == 3
    assert sum(isinstance(event, ShardRetried) for event in seen) == 2


def test_actors_that_never_start_stop_the_run_with_their_reason(make_spec: MakeSpec) -> None:
    spec = make_spec()
    store, record = begun(spec)
    press = dispatcher(spec, store, record, BrokenActor)
    with pytest.raises(RunStopped, match="the weights on this node are not those of the run"):
        list(press.run(range(record.layout.num_shards)))
    press.close()
    assert committed_shards(store) == set()


def test_actors_join_when_room_appears(make_spec: MakeSpec) -> None:
    spec = make_spec(batch={"size": 1, "shard_size": 1})
    store, record = begun(spec)
    places = {"room": 1}
    press = dispatcher(
        spec, store, record, SamplerActor, max_actors=None, room=lambda cpus, gpus: places["room"]
    )
    joined = 0
    for event in press.run(range(record.layout.num_shards)):
        if isinstance(event, ShardDone):
            places["room"] = 3
            time.sleep(0.2)  # shards of a tiny model are done before an actor can start
        joined += isinstance(event, ActorJoined)
    press.close()
    assert joined > 1
    assert committed_shards(store) == set(range(record.layout.num_shards))


def test_an_actor_killed_in_mid_shard_costs_nothing(make_spec: MakeSpec) -> None:
    undisturbed = make_spec(name="undisturbed", sampling=SLOW)
    jobs.run(undisturbed)
    spec = make_spec(name="disturbed", sampling=SLOW, cluster={"actors": 2})
    lost: list[ActorLost] = []

    def kill_one_then_watch(event: Event) -> None:
        if isinstance(event, ActorLost):
            lost.append(event)
        if isinstance(event, ActorJoined) and event.num_actors == 2:
            threading.Timer(0.3, _kill_an_actor).start()

    result = jobs.run(spec, kill_one_then_watch)
    assert len(lost) == 1
    assert result.num_ok == PROMPTS
    assert hashes(spec) == hashes(undisturbed)
    assert len(list((Path(spec.url) / "images").iterdir())) == PROMPTS
    assert len(read_metadata(spec)) == PROMPTS


SLOW = {"num_inference_steps": 60, "height": 64, "guidance_scale": 3.0}
"""Long enough that a shard is in hand when its actor dies."""


def _kill_an_actor() -> None:
    """SIGKILL the process of one actor of this session's Ray."""
    actor = next(
        actor
        for actor in ray.util.state.list_actors()
        if actor.state == "ALIVE" and actor.class_name == "SamplerActor"
    )
    os.kill(actor.pid, signal.SIGKILL)
