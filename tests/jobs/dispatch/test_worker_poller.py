"""The worker poller: polling many workers costs little, and no news is lost."""

from collections.abc import Sequence

import pytest

from nightpress.jobs.dispatch import workers
from nightpress.jobs.dispatch.workers import MAX_PAUSE_S, MAX_POLL_SHARE, Worker, WorkerPoller


class FakeRay:
    """Answers `ray.wait` with prepared answers; each call takes `cost_s` of the thread's time."""

    def __init__(self, *answers: Sequence[str], cost_s: float = 0.0) -> None:
        self._answers, self._cost_s, self._spent_s = list(answers), cost_s, 0.0
        self.waits: list[tuple[int, float]] = []
        """`num_returns` and `timeout` of each call."""

    def wait(
        self, waiting: list[str], num_returns: int, timeout: float, fetch_local: bool
    ) -> tuple[list[str], list[str]]:
        self.waits.append((num_returns, timeout))
        self._spent_s += self._cost_s
        ready = list(self._answers.pop(0))
        return ready, [each for each in waiting if each not in ready]

    def thread_time(self) -> float:
        return self._spent_s


def poll(monkeypatch: pytest.MonkeyPatch, ray: FakeRay, names: str, times: int) -> list[list[str]]:
    """Poll workers with these names several times; returns the names of those with news."""
    monkeypatch.setattr(workers, "ray", ray)
    monkeypatch.setattr(workers.time, "thread_time", ray.thread_time)
    poller = WorkerPoller()
    polled = [Worker(None, name, None) for name in names]  # type: ignore[arg-type]
    answers = [poller.with_news(polled, 1.0) for _ in range(times)]
    return [[worker.pending_begin for worker in answer] for answer in answers]


def test_one_poll_finds_all_workers_with_news(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = FakeRay(["a", "c"])
    assert poll(monkeypatch, ray, "abc", times=1) == [["a", "c"]]
    assert ray.waits == [(3, 0.0)]


def test_without_news_the_first_news_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = FakeRay([], ["b"], [], [])
    assert poll(monkeypatch, ray, "ab", times=2) == [["b"], []]
    assert ray.waits == [(2, 0.0), (1, 1.0)] * 2


@pytest.mark.parametrize("cost_s", [0.001, 0.004, 60.0])
def test_the_more_a_poll_costs_the_longer_the_pause_before_the_next(
    monkeypatch: pytest.MonkeyPatch, cost_s: float
) -> None:
    ray = FakeRay(["a"], ["b"], cost_s=cost_s)
    assert poll(monkeypatch, ray, "ab", times=2) == [["a"], ["b"]]
    assert ray.waits == [(2, 0.0), (2, min(MAX_PAUSE_S, cost_s / MAX_POLL_SHARE))]
