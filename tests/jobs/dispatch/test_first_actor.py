"""The first actor: one that is lost or stuck is replaced, up to a limit."""

from collections.abc import Callable, Generator
from typing import Any

import pytest
import ray
from support.fakes.odd_actors import FactoryOf, FallingActor, StuckActor

from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.jobs.dispatch.actor import SamplerActor
from nightpress.jobs.dispatch.first_actor import FirstActor
from nightpress.jobs.errors import ClusterError, RunStopped
from nightpress.jobs.progress.events import Event, Message
from nightpress.pipelines.job.spec import RunSpec

MakeSpec = Callable[..., RunSpec]

pytestmark = pytest.mark.usefixtures("local_ray")


def first_of(spec: RunSpec, *kinds: type[SamplerActor], **values: Any) -> FirstActor:
    factory = FactoryOf(spec.model, {}, cpus=1, gpus=0, threads=1, kinds=list(kinds))
    values = {"load_timeout_s": 60.0, "check": lambda: None} | values
    return FirstActor(factory, **values)


def start(first: FirstActor) -> tuple[ModelInfo, list[Event]]:
    """Start an actor and load its model, as a run does; returns the events as well."""

    def steps() -> Generator[Event, None, ModelInfo]:
        model = yield from first.start()
        loading = first.begin_loading(model.fingerprint, 2)
        yield from first.finish_loading(loading, model.fingerprint, 2)
        return model

    events: list[Event] = []
    started = steps()
    while True:
        try:
            events.append(next(started))
        except StopIteration as end:
            return end.value, events


def test_an_actor_that_is_killed_while_it_loads_is_replaced(make_spec: MakeSpec) -> None:
    first = first_of(make_spec(), FallingActor, SamplerActor)
    model, events = start(first)
    (lost,) = [event for event in events if isinstance(event, Message) and event.warning]
    assert lost.text.startswith("an actor failed to start: the cluster failed: ActorDiedError")
    assert ray.get(first.handle.describe.remote()) == model
    ray.kill(first.handle)


@pytest.mark.chaos
def test_the_run_stops_after_three_actors_failed_to_start(make_spec: MakeSpec) -> None:
    first = first_of(make_spec(), FallingActor)
    with pytest.raises(ClusterError, match="3 actors in a row failed to start"):
        start(first)


@pytest.mark.slow
def test_an_actor_that_is_stuck_is_replaced_after_the_load_timeout(make_spec: MakeSpec) -> None:
    first = first_of(make_spec(), StuckActor, SamplerActor, load_timeout_s=15.0)
    model, events = start(first)
    assert [event.text for event in events if isinstance(event, Message) and event.warning] == [
        "an actor failed to start: it did not load its model within 15 s"
    ]
    assert ray.get(first.handle.describe.remote()) == model
    ray.kill(first.handle)


def test_the_run_can_be_stopped_while_it_waits_for_an_actor(make_spec: MakeSpec) -> None:
    def check() -> None:
        raise RunStopped("the deadline came")

    first = first_of(make_spec(), StuckActor, check=check)
    with pytest.raises(RunStopped, match="the deadline came"):
        start(first)
    ray.kill(first.handle)
