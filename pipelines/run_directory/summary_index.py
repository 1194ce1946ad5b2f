"""The totals of all commits in one object, so that progress is read without opening each commit.

An entry counts only while its commit still has the recorded size. Every rewrite of a commit
makes it longer, so an entry that is out of date is always noticed, and so is a missing one: the
totals of those commits are read from their footers.
"""

import json
import threading
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
"""Seconds between two updates of the index while a run is running."""


@dataclass(frozen=True)
class CommitTotals:
    """The size of a commit and the totals of its rows."""

    num_bytes: int
    """Size of the metadata part."""
    summary: Summary


def read_totals(store: Store) -> dict[int, CommitTotals]:
    """Shard -> size and totals, for every committed shard.

    Raises:
        Damaged: a commit is not what was written.
        StoreError: the store failed.
    """
    sizes = commit_sizes(store)
    indexed = _read_index(store).items()
    known = {shard: each for shard, each in indexed if sizes.get(shard) == each.num_bytes}
    others = [shard for shard in sizes if shard not in known]
    with ThreadPoolExecutor(READ_THREADS) as pool:
        summaries = pool.map(lambda shard: read_summary(store, shard, sizes[shard]), others)
        return known | {
            shard: CommitTotals(sizes[shard], summary)
            for shard, summary in zip(others, summaries, strict=True)
        }


def write_summary_index(store: Store, totals: Mapping[int, CommitTotals]) -> None:
    """Write the index in place of an earlier one, unless that says the same."""
    entries = [
        [shard, totals[shard].num_bytes, totals[shard].summary.as_dict()]
        for shard in sorted(totals)
    ]
    index = json.dumps(entries, separators=(",", ":")).encode()
    if store.read_if_any(SUMMARY_INDEX) != index:
        store.put(SUMMARY_INDEX, index)


@contextmanager
def summary_index_kept(store: Store, update_s: float = UPDATE_S) -> Iterator[None]:
    """Update the index every `update_s` seconds, in a thread, while shards are committed."""
    ended = threading.Event()

    def update() -> None:
        while not ended.wait(update_s):
            with suppress(StoreError):  # readers and the next update can do without it
                write_summary_index(store, read_totals(store))

    thread = threading.Thread(target=update, name="summary-index", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()


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
