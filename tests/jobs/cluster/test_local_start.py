"""A Ray that starts in a thread: what waits for it, how it ends, and when none is started."""

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from types import SimpleNamespace

import pytest
import ray

from nightpress.jobs.cluster import connection, worker_template
from nightpress.jobs.cluster.connection import ClusterAddress
from nightpress.jobs.cluster.local_start import LocalStart
from nightpress.jobs.errors import ClusterUnavailable

HERE = SimpleNamespace(address=None, ship_package=False)


class FakeRay:
    """Stands for `cluster`: it starts once it may, and notes the threads it is used in."""

    def __init__(self, error: Exception | None = None) -> None:
        self.may_start, self._error = threading.Event(), error
        self.done: list[tuple[str, threading.Thread]] = []

    @contextmanager
    def cluster(self, spec: ClusterAddress) -> Iterator[bool]:
        self.may_start.wait()
        if self._error is not None:
            raise self._error
        self.done.append(("started", threading.current_thread()))
        yield True
        self.done.append(("stopped", threading.current_thread()))


@pytest.fixture(autouse=True)
def _no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has joined no Ray and has begun no template."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(worker_template, "begin", lambda: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    made = FakeRay()
    monkeypatch.setattr(connection, "cluster", made.cluster)
    return made


def test_ray_is_started_and_stopped_by_one_other_thread_which_lives_as_long(fake: FakeRay) -> None:
    with closing(LocalStart(HERE)) as start:
        start.begin()
        assert fake.done == []
        fake.may_start.set()
        assert start.wait()
        ((_, thread),) = fake.done
        assert thread is not threading.current_thread()
        assert thread.is_alive(), "Linux would end Ray's processes with it"
    assert fake.done == [("started", thread), ("stopped", thread)]
    assert not thread.is_alive()


def test_a_ray_that_still_starts_when_the_checks_fail_is_stopped(fake: FakeRay) -> None:
    def check() -> None:
        with closing(LocalStart(HERE)) as start:
            start.begin()
            threading.Timer(0.05, fake.may_start.set).start()
            raise ValueError("the job is wrong")

    with pytest.raises(ValueError, match="the job is wrong"):
        check()
    assert [what for what, _ in fake.done] == ["started", "stopped"]


def test_a_ray_that_does_not_start_says_so_to_who_waits_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake = FakeRay(ClusterUnavailable("Ray on this machine did not start in time"))
    monkeypatch.setattr(connection, "cluster", fake.cluster)
    fake.may_start.set()
    with closing(LocalStart(HERE)) as start:
        start.begin()
        with pytest.raises(ClusterUnavailable, match="did not start in time"):
            start.wait()


def test_what_is_begun_twice_or_closed_twice_starts_and_stops_once(fake: FakeRay) -> None:
    fake.may_start.set()
    start = LocalStart(HERE)
    start.begin()
    start.begin()
    start.wait()
    start.close()
    start.close()
    assert [what for what, _ in fake.done] == ["started", "stopped"]


@pytest.mark.parametrize("where", ["job", "RAY_ADDRESS", "joined"])
def test_no_ray_is_started_where_a_cluster_is_named_or_joined(
    where: str, fake: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.may_start.set()
    spec = HERE
    match where:
        case "job":
            spec = SimpleNamespace(address="head:6379", ship_package=False)
        case "RAY_ADDRESS":
            monkeypatch.setenv("RAY_ADDRESS", "head:6379")
        case _:
            monkeypatch.setattr(ray, "is_initialized", lambda: True)
    with closing(LocalStart(spec)) as start:
        start.begin()
        assert not start.wait()
    assert fake.done == []
