"""What the actors of a run did with their time: in shares, in words, and as a trace for Chrome."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nightpress.pipelines.shards.timeline import Activity, Span, TimeSpent


def shares(spent: Iterable[TimeSpent]) -> dict[str, float]:
    """Activity -> its share of the time of all actors; empty where no time was spent."""
    seconds = dict.fromkeys(Activity, 0.0)
    for each in spent:
        for activity, value in each.seconds.items():
            seconds[activity] += value
    total = sum(seconds.values())
    return {str(name): value / total for name, value in seconds.items()} if total else {}


@dataclass(frozen=True)
class BetweenBatches:
    """From the end of an actor's batch to the beginning of its next, by the host's clock."""

    median_ms: float
    p95_ms: float
    """95 of 100 are shorter."""


def between_batches(spent: Iterable[TimeSpent]) -> BetweenBatches | None:
    """Of the latest batches of all actors; None where no batch followed another."""
    pauses_ms = [1000 * pause for each in spent for pause in each.between_batches_s]
    if not pauses_ms:
        return None
    median, p95 = np.percentile(pauses_ms, [50, 95])
    return BetweenBatches(float(median), float(p95))


def time_lines(shares: Mapping[str, float], between: BetweenBatches | None) -> list[str]:
    """`actors: busy 93.1%, waiting for input 4.2%, ...`; nothing where none worked."""
    parts = [f"{name} {share:.1%}" for name, share in shares.items() if share]
    lines = [f"actors: {', '.join(parts)}"] if parts else []
    if between is not None:
        lines.append(f"between batches: {between.median_ms:.1f} ms (median)")
    return lines


def chrome_trace(spent: Sequence[TimeSpent]) -> str:
    """JSON in the Trace Event Format, for chrome://tracing or ui.perfetto.dev: a row an actor.

    Where an actor's timeline was longer than what is kept of it, an instant event says so.
    """
    return json.dumps({"traceEvents": list(_events(spent)), "displayTimeUnit": "ms"})


def _events(spent: Sequence[TimeSpent]) -> Iterator[dict[str, Any]]:
    for row, each in enumerate(spent):
        place = {"pid": 0, "tid": row}
        yield {"ph": "M", "name": "thread_name", "args": {"name": each.worker}, **place}
        for span in each.spans:
            yield {
                "ph": "X",
                "name": str(span.activity),
                "ts": _us(span.began),
                "dur": _us(span.seconds),
                **place,
            }
        if each.num_dropped and each.spans:
            yield _cut(each.spans[-1], each.num_dropped) | place


def _cut(last: Span, num_dropped: int) -> dict[str, Any]:
    name = f"cut here: {num_dropped:,} later stretches are not kept"
    return {"ph": "i", "s": "t", "name": name, "ts": _us(last.began + last.seconds)}


def _us(seconds: float) -> int:
    return round(seconds * 1e6)
