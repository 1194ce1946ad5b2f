"""The first actor: who is lost or stuck is replaced, and at some point it is enough."""

from collections.abc import Callable, Generator
from typing import Any

import pytest
import ray
from support.fakes.odd_actors import FactoryOf, FallingActor, StuckActor

from nightpress.diffusion_core.models.loading import ModelInfo
from nightpress.jobs.dispatch.actor import SamplerActor
from nightpress.jobs.dispatch.first_actor import FirstActor
from nightpress.jobs.errors import RunStopped
from nightpress.jobs.progress.events import Event, Message
from nightpress.pipelines.job.spec import RunSpec

MakeSpec = Callable[..., RunSpec]

pytestmark = pytest.mark.usefixtures("local_ray")


def first_of(spec: RunSpec, *kinds: type[SamplerActor], **values: Any) -> FirstActor:
    factory = FactoryOf(spec.model, {}, cpus=1, gpus=0, threads=1, kinds=list(kinds))
    values = {"load_timeout_s": 60.0, "go_on": lambda: None} | values
    return FirstActor(factory, **values)


def start(first: FirstActor) -> tuple[ModelInfo, list[Event]]:
    """Describe and load, as a run does; what was said meanwhile."""

    def story() -> Generator[Event, None, ModelInfo]:
        model = yield from first.described()
        loading = first.load(model.fingerprint, 2)
        yield from first.loaded(loading, model.fingerprint, 2)
        return model

    said: list[Event] = []
    steps = story()
    while True:
        try:
            said.append(next(steps))
        except StopIteration as end:
            return end.value, said


def test_one_that_is_killed_while_it_loads_is_replaced(make_spec: MakeSpec) -> None:
    first = first_of(make_spec(), FallingActor, SamplerActor)
    model, said = start(first)
    (lost,) = [event for event in said if isinstance(event, Message) and event.warning]
    assert lost.text.startswith("an actor did not start: the cluster failed: ActorDiedError")
    assert ray.get(first.handle.describe.remote()) == model
    ray.kill(first.handle)


@pytest.mark.chaos
def test_after_three_of_them_the_run_stops(make_spec: MakeSpec) -> None:
    first = first_of(make_spec(), FallingActor)
    with pytest.raises(RunStopped, match="3 actors in a row did not start"):
        start(first)


def test_one_that_is_stuck_is_replaced_after_a_while(make_spec: MakeSpec) -> None:
    first = first_of(make_spec(), StuckActor, SamplerActor, load_timeout_s=15.0)
    model, said = start(first)
    assert [event.text for event in said if isinstance(event, Message) and event.warning] == [
        "an actor did not start: its model was not loaded in 15 s"
    ]
    assert ray.get(first.handle.describe.remote()) == model
    ray.kill(first.handle)


def test_while_one_is_waited_for_the_run_may_be_stopped(make_spec: MakeSpec) -> None:
    def go_on() -> None:
        raise RunStopped("the deadline came")

    first = first_of(make_spec(), StuckActor, go_on=go_on)
    with pytest.raises(RunStopped, match="the deadline came"):
        start(first)
    ray.kill(first.handle)
