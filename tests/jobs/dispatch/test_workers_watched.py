"""The lookout: many are looked at rarely, and nobody's news are lost."""

from collections.abc import Sequence
from typing import Any

import pytest

from nightpress.jobs.dispatch import workers
from nightpress.jobs.dispatch.workers import LONGEST_PAUSE_S, LOOKING_SHARE, WorkerWatch


class Ray:
    """Answers waits as it is told, and takes so much of the thread's time for each."""

    def __init__(self, *answers: Sequence[str], cost_s: float = 0.0) -> None:
        self._answers, self._cost_s, self._spent_s = list(answers), cost_s, 0.0
        self.waits: list[tuple[int, float]] = []
        """How many were waited for, and for how long at most."""

    def wait(
        self, waiting: list[str], num_returns: int, timeout: float, fetch_local: bool
    ) -> tuple[list[str], list[str]]:
        self.waits.append((num_returns, timeout))
        self._spent_s += self._cost_s
        ready = list(self._answers.pop(0))
        return ready, [each for each in waiting if each not in ready]

    def thread_time(self) -> float:
        return self._spent_s


def watched(monkeypatch: pytest.MonkeyPatch, fake: Ray) -> WorkerWatch:
    monkeypatch.setattr(workers, "ray", fake)
    monkeypatch.setattr(workers.time, "thread_time", fake.thread_time)
    return WorkerWatch()


def test_all_that_have_news_are_told_by_one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Ray(["a", "c"])
    assert watched(monkeypatch, fake).ready(["a", "b", "c"], 1.0) == ["a", "c"]
    assert fake.waits == [(3, 0.0)]


def test_where_none_has_news_the_first_one_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Ray([], ["b"], [], [])
    look = watched(monkeypatch, fake)
    assert look.ready(["a", "b"], 1.0) == ["b"]
    assert look.ready(["a", "b"], 1.0) == []
    assert fake.waits == [(2, 0.0), (1, 1.0)] * 2


@pytest.mark.parametrize("cost_s", [0.001, 0.004, 60.0])
def test_the_dearer_a_look_the_longer_news_gather_before_the_next(
    monkeypatch: pytest.MonkeyPatch, cost_s: float
) -> None:
    fake = Ray(["a"], ["b"], cost_s=cost_s)
    look = watched(monkeypatch, fake)
    told: list[Any] = [look.ready(["a", "b"], 1.0) for _ in range(2)]
    assert told == [["a"], ["b"]]
    assert fake.waits == [(2, 0.0), (2, min(LONGEST_PAUSE_S, cost_s / LOOKING_SHARE))]
