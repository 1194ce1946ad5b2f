"""What the actors of a run did with their time: in shares, and as a trace that Chrome draws."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.timeline import Activity, TimeSpent


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


def chrome_trace(spent: Sequence[TimeSpent]) -> str:
    """JSON in the Trace Event Format, for chrome://tracing or ui.perfetto.dev: a row an actor."""
    return json.dumps({"traceEvents": list(_events(spent)), "displayTimeUnit": "ms"})


def _events(spent: Sequence[TimeSpent]) -> Iterator[dict[str, Any]]:
    for row, each in enumerate(spent):
        place = {"pid": 0, "tid": row}
        yield {"ph": "M", "name": "thread_name", "args": {"name": each.worker}, **place}
        for span in each.spans:
            yield {
                "ph": "X",
                "name": str(span.activity),
                "ts": round(span.began * 1e6),
                "dur": round(span.seconds * 1e6),
                **place,
            }
