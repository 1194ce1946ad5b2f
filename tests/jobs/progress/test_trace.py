"""What the actors did with their time, as shares and as a trace."""

import json
from dataclasses import asdict, replace

import pytest

from nightpress.jobs.progress.trace import (
    BetweenBatches,
    between_batches,
    chrome_trace,
    shares,
    time_lines,
)
from nightpress.pipelines.shards.timeline import Activity, Span, TimeSpent


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


def test_a_trace_says_where_it_was_cut() -> None:
    whole, longer = spent("a:1", 3.0, 1.0), spent("b:1", 2.0, 4.0)
    events = json.loads(chrome_trace([whole, replace(longer, num_dropped=1234)]))["traceEvents"]
    (cut,) = [event for event in events if event["ph"] == "i"]
    assert cut["name"] == "timeline cut here: 1,234 later spans were not kept"
    assert (cut["tid"], cut["ts"]) == (1, 106_000_000)  # where the last that is kept ends


def test_pauses_between_batches_are_of_all_actors_and_in_milliseconds() -> None:
    pauses = [n / 1000 for n in range(1, 102)]
    some = TimeSpent("a:1", {}, (), tuple(pauses[:30]))
    others = TimeSpent("b:1", {}, (), tuple(pauses[30:]))
    found = between_batches([others, some])
    assert found is not None
    assert asdict(found) == pytest.approx({"median_ms": 51.0, "p95_ms": 96.0})
    assert between_batches([TimeSpent("a:1", {}, ())]) is None


def told(seconds: dict[Activity, float], between: BetweenBatches | None) -> list[str]:
    """What a run prints about its actors' time."""
    spent = TimeSpent("a:1", dict.fromkeys(Activity, 0.0) | seconds, ())
    return time_lines(shares([spent]), between)


def test_a_run_lists_only_the_activities_that_its_actors_had() -> None:
    seconds = {Activity.LOADING: 1.0, Activity.COMPILING: 2.0, Activity.BUSY: 7.0}
    assert told(seconds, BetweenBatches(2.345, 9.0)) == [
        "actors: loading the model 10.0%, compiling 20.0%, busy 70.0%",
        "between batches: 2.3 ms (median)",
    ]
    assert told({Activity.BUSY: 1.0}, None) == ["actors: busy 100.0%"]
    assert told({}, None) == []
