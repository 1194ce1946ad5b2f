"""The totals of all commits in one object, so that progress is read without opening each commit.

An entry counts only while its commit still has the recorded size. Every rewrite of a commit
makes it longer, so an entry that is out of date is always noticed, and so is a missing one: the
totals of those commits are read from their footers.
"""

import json
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from nightpress.pipelines.errors import StoreError
from nightpress.pipelines.planning.index import INDEX_FOLDER
from nightpress.pipelines.run_directory.commit import commit_sizes, read_summary
from nightpress.pipelines.run_directory.summary import Summary
from nightpress.pipelines.storage import READ_THREADS, Store

SUMMARY_INDEX = f"{INDEX_FOLDER}/commits.json"

UPDATE_S = 120.0
"""Seconds between two updates of the index while a run is running, at least."""

MAX_UPDATE_SHARE = 0.02
"""The most of the time in which the index is being updated. Without it, the updates of a run would
cost the square of its commits."""


@dataclass(frozen=True)
class CommitTotals:
    """The size of a commit and the totals of its rows."""

    num_bytes: int
    """Size of the metadata part."""
    summary: Summary


def read_totals(
    store: Store, known: Mapping[int, CommitTotals] | None = None
) -> dict[int, CommitTotals]:
    """Shard -> size and totals, for every committed shard.

    Args:
        store: of the run.
        known: what was read before, used in place of the index.

    Raises:
        Damaged: a commit is not what was written.
        StoreError: the store failed.
    """
    sizes = commit_sizes(store)
    earlier = (_read_index(store) if known is None else known).items()
    kept = {shard: each for shard, each in earlier if sizes.get(shard) == each.num_bytes}
    others = [shard for shard in sizes if shard not in kept]
    with ThreadPoolExecutor(READ_THREADS) as pool:
        summaries = pool.map(lambda shard: read_summary(store, shard, sizes[shard]), others)
        return kept | {
            shard: CommitTotals(sizes[shard], summary)
            for shard, summary in zip(others, summaries, strict=True)
        }


def write_summary_index(store: Store, totals: Mapping[int, CommitTotals]) -> None:
    """Write the index in place of an earlier one, unless that says the same."""
    index = _encoded(totals)
    if store.read_if_any(SUMMARY_INDEX) != index:
        store.put(SUMMARY_INDEX, index)


@contextmanager
def summary_index_kept(store: Store, update_s: float = UPDATE_S) -> Iterator[None]:
    """Update the index every `update_s` seconds, in a thread, while shards are committed.

    An update takes the longer the more commits there are, so a pause in proportion follows it.
    """
    ended = threading.Event()

    def keep() -> None:
        totals: dict[int, CommitTotals] | None = None
        pause_s = update_s
        while not ended.wait(pause_s):
            began = time.monotonic()
            with suppress(StoreError):  # readers and the next update can do without it
                totals = _updated(store, totals)
            pause_s = pause_after(time.monotonic() - began, update_s)

    thread = threading.Thread(target=keep, name="summary-index", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()


def pause_after(took_s: float, update_s: float = UPDATE_S) -> float:
    """The seconds between an update that took `took_s` and the next one."""
    return max(update_s, took_s / MAX_UPDATE_SHARE)


def _updated(store: Store, known: dict[int, CommitTotals] | None) -> dict[int, CommitTotals]:
    """Write the index if there are new commits; returns the totals that it then holds."""
    totals = read_totals(store, known)
    if totals != known:
        store.put(SUMMARY_INDEX, _encoded(totals))
    return totals


def _encoded(totals: Mapping[int, CommitTotals]) -> bytes:
    entries = [
        [shard, totals[shard].num_bytes, totals[shard].summary.as_dict()]
        for shard in sorted(totals)
    ]
    return json.dumps(entries, separators=(",", ":")).encode()


def _read_index(store: Store) -> dict[int, CommitTotals]:
    """Shard -> its entry in the index; empty if there is no readable index."""
    try:
        entries = json.loads(store.read_if_any(SUMMARY_INDEX) or b"[]")
        return {
            shard: CommitTotals(num_bytes, Summary.from_dict(values))
            for shard, num_bytes, values in entries
        }
    except (ValueError, TypeError, KeyError):
        return {}
