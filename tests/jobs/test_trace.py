"""What the actors did with their time, in shares and as a trace."""

import json

import pytest

from jobs.trace import chrome_trace, shares
from pipelines.timeline import Activity, Span, TimeSpent


def spent(worker: str, busy: float, waiting: float) -> TimeSpent:
    spans = (Span(Activity.BUSY, 100.0, busy), Span(Activity.INPUT, 100.0 + busy, waiting))
    seconds = dict.fromkeys(Activity, 0.0) | {Activity.BUSY: busy, Activity.INPUT: waiting}
    return TimeSpent(worker, seconds, spans)


def test_shares_are_of_the_time_of_all_actors() -> None:
    found = shares([spent("a:1", 3.0, 1.0), spent("b:1", 0.0, 4.0)])
    assert found["busy"] == pytest.approx(3 / 8)
    assert sum(found.values()) == pytest.approx(1.0)
    assert shares([]) == {}


def test_a_trace_has_a_row_for_each_actor_and_times_in_microseconds() -> None:
    events = json.loads(chrome_trace([spent("a:1", 3.0, 1.0), spent("b:1", 2.0, 4.0)]))
    names = [e["args"]["name"] for e in events["traceEvents"] if e["ph"] == "M"]
    assert names == ["a:1", "b:1"]
    (busy,) = [e for e in events["traceEvents"] if e["name"] == "busy" and e["tid"] == 1]
    assert (busy["ts"], busy["dur"]) == (100_000_000, 2_000_000)
