"""What a job asks for and the cluster does not have is said within seconds, or refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray

from nightpress import jobs
from nightpress.jobs.cluster import capacity
from nightpress.jobs.cluster.capacity import (
    FIRST_NOTICE_S,
    MOST_APART_S,
    Notices,
    require_room,
    resources,
    waiting_line,
)
from nightpress.jobs.cluster.connection import draining_nodes, tells_draining_nodes
from nightpress.jobs.dispatch.actor import ActorFactory
from nightpress.jobs.dispatch.first_actor import FirstActor
from nightpress.jobs.errors import ClusterError
from nightpress.jobs.progress.events import Message
from nightpress.pipelines.job.spec import RunSpec

MakeSpec = Callable[..., RunSpec]


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make the cluster have nodes with these CPUs and GPUs, to which others may or may not join."""

    def have(*sizes: tuple[float, float], grows: bool) -> None:
        free = {"CPU": 1.0}
        monkeypatch.setattr(capacity, "node_resources", lambda: list(sizes))
        monkeypatch.setattr(capacity, "can_grow", lambda: grows)
        monkeypatch.setattr(capacity.ray, "available_resources", lambda: free)
        monkeypatch.setattr(
            capacity,
            "room",
            lambda cpus, gpus: sum(has[0] >= cpus and has[1] >= gpus for has in sizes),
        )

    return have


@pytest.mark.parametrize(
    ("cpus", "gpus", "text"),
    [
        (1, 0, "1 CPU and no GPU"),
        (2, 1, "2 CPUs and 1 GPU"),
        (2.0, 0.5, "2 CPUs and 0.5 GPUs"),
        (0, 0, "no CPU and no GPU"),
    ],
)
def test_resources_are_named_as_a_person_would(cpus: float, gpus: float, text: str) -> None:
    assert resources(cpus, gpus) == text


@pytest.mark.parametrize(("cpus", "gpus"), [(1, 1.0), (9, 0.0), (4, 2.0)])
def test_what_a_fixed_cluster_can_never_hold_is_refused(
    nodes: Callable[..., None], cpus: float, gpus: float
) -> None:
    nodes((8, 0), (2, 0), grows=False)
    with pytest.raises(ClusterError) as caught:
        require_room("cluster.cpus_per_actor", cpus, gpus, "an actor")
    assert resources(cpus, gpus) in str(caught.value)
    assert "2 nodes, each up to 8 CPUs and no GPU" in str(caught.value)


@pytest.mark.parametrize(("grows", "cpus"), [(True, 9), (False, 8)])
def test_what_fits_or_may_fit_later_is_waited_for(
    nodes: Callable[..., None], grows: bool, cpus: float
) -> None:
    nodes((8, 0), grows=grows)
    require_room("cluster.cpus_per_actor", cpus, 0.0, "an actor")


def test_a_wait_says_what_is_asked_and_what_the_cluster_has(nodes: Callable[..., None]) -> None:
    nodes((8, 0), grows=True)
    assert waiting_line("an actor", 1, 1.0) == (
        "waiting for an actor to start: it needs 1 CPU and 1 GPU on one node; the cluster has one "
        "node, with 8 CPUs and no GPU; free now: 1 CPU and no GPU; no node is large enough, so "
        "this waits for one to join"
    )
    assert "large enough" not in waiting_line("an actor", 2, 0.0)
    nodes(grows=True)
    assert "the cluster has no node" in waiting_line("an actor", 2, 0.0)


def test_a_wait_is_reported_again_and_again_at_a_calm_pace() -> None:
    notices = Notices(now=100.0)
    seen = [second for second in range(100, 100 + 7200) if notices.due(second)]
    pauses = [later - earlier for earlier, later in zip([100, *seen], seen, strict=False)]
    assert pauses[:3] == [FIRST_NOTICE_S, 60, 120]
    assert max(pauses) == MOST_APART_S
    assert len(seen) > 10


def test_a_job_that_no_node_can_ever_hold_is_refused_before_anything_is_written(
    make_spec: MakeSpec, local_ray: None
) -> None:
    for asked in ({"gpus_per_actor": 1}, {"cpus_per_actor": 64}, {"gpus_per_actor": 0.5}):
        spec = make_spec(cluster=asked)
        for call in (jobs.run, lambda spec: jobs.preview(spec, 2)):
            with pytest.raises(ClusterError, match="on one node, but the cluster has one node"):
                call(spec)
        assert not Path(spec.url).exists()


def test_an_actor_that_waits_for_a_node_to_join_says_so_within_seconds(
    make_spec: MakeSpec, local_ray: None
) -> None:
    factory = ActorFactory(make_spec().model, {}, cpus=1, gpus=1, threads=1)
    first = FirstActor(factory, 60.0, lambda: None)
    events: Any = first.start()
    said = next(events)
    ray.kill(first.handle)
    assert isinstance(said, Message)
    assert said.warning
    assert said.text.startswith("waiting for the first actor to start: it needs 1 CPU and 1 GPU")
    assert "no GPU" in said.text


def test_a_ray_without_the_private_function_is_used_as_if_no_node_ever_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert tells_draining_nodes()
    monkeypatch.delattr(type(ray._private.state.state), "get_draining_nodes")
    assert not tells_draining_nodes()
    assert draining_nodes() == set()
    monkeypatch.delattr(ray._private.state, "state")
    assert draining_nodes() == set()
