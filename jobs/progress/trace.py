"""What the actors of a run did with their time: as shares, as text, and as a Chrome trace."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nightpress.pipelines.shards.timeline import Activity, Span, TimeSpent


def shares(spent: Iterable[TimeSpent]) -> dict[str, float]:
    """Activity -> its share of the time of all actors; empty if no time was spent."""
    totals = dict.fromkeys(Activity, 0.0)
    for actor in spent:
        for activity, seconds in actor.seconds.items():
            totals[activity] += seconds
    all_s = sum(totals.values())
    return {str(activity): seconds / all_s for activity, seconds in totals.items()} if all_s else {}


@dataclass(frozen=True)
class BetweenBatches:
    """Pauses from the end of an actor's batch to the start of its next, by the host's clock."""

    median_ms: float
    p95_ms: float
    """95th percentile."""


def between_batches(spent: Iterable[TimeSpent]) -> BetweenBatches | None:
    """The pauses between the latest batches of all actors; None if no batch followed another."""
    pauses_ms = [1000 * pause for actor in spent for pause in actor.between_batches_s]
    if not pauses_ms:
        return None
    median, p95 = np.percentile(pauses_ms, [50, 95])
    return BetweenBatches(float(median), float(p95))


def time_lines(shares: Mapping[str, float], between: BetweenBatches | None) -> list[str]:
    """`actors: busy 93.1%, waiting for input 4.2%, ...`; no lines if no actor worked."""
    parts = [f"{name} {share:.1%}" for name, share in shares.items() if share]
    lines = [f"actors: {', '.join(parts)}"] if parts else []
    if between is not None:
        lines.append(f"between batches: {between.median_ms:.1f} ms (median)")
    return lines


def chrome_trace(spent: Sequence[TimeSpent]) -> str:
    """JSON in the Trace Event Format, one row per actor, for chrome://tracing or ui.perfetto.dev.

    If only the start of an actor's timeline was kept, an instant event says so.
    """
    return json.dumps({"traceEvents": list(_events(spent)), "displayTimeUnit": "ms"})


def _events(spent: Sequence[TimeSpent]) -> Iterator[dict[str, Any]]:
    for row, actor in enumerate(spent):
        thread = {"pid": 0, "tid": row}
        yield {"ph": "M", "name": "thread_name", "args": {"name": actor.worker}, **thread}
        for span in actor.spans:
            yield {
                "ph": "X",
                "name": str(span.activity),
                "ts": _us(span.began),
                "dur": _us(span.seconds),
                **thread,
            }
        if actor.num_dropped and actor.spans:
            yield _truncation(actor.spans[-1], actor.num_dropped) | thread


def _truncation(last: Span, num_dropped: int) -> dict[str, Any]:
    name = f"timeline cut here: {num_dropped:,} later spans were not kept"
    return {"ph": "i", "s": "t", "name": name, "ts": _us(last.began + last.seconds)}


def _us(seconds: float) -> int:
    return round(seconds * 1e6)
