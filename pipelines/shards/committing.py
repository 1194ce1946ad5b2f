"""Committing what an attempt at a shard has made, or amending what is committed of it."""

from collections.abc import Mapping

import pyarrow as pa

from nightpress.pipelines.records import ImageRecord
from nightpress.pipelines.run_directory.commit import (
    amend_commit,
    commit_shard,
    metadata_part,
    read_commit_if_any,
    recommit_shard,
)
from nightpress.pipelines.run_directory.embeddings import write_records_embeddings
from nightpress.pipelines.shards.attempt import Attempt
from nightpress.pipelines.shards.events import ShardDone
from nightpress.pipelines.shards.input_history import kept_rows
from nightpress.pipelines.shards.sinks import ImageSink


def commit_work(
    attempt: Attempt,
    sink: ImageSink,
    made: Mapping[int, ImageRecord],
    rows: pa.Table,
    committed: pa.Table | None,
) -> ShardDone:
    """Store what is left of images and thumbnails; then commit a shard, or amend its commit.

    Args:
        attempt: the attempt; all of its images are made.
        sink: where its images go.
        made: row -> the record of its image.
        rows: the plan's rows, all of the shard.
        committed: the shard's metadata, if it is committed.

    Raises:
        StoreError: the store failed; nothing is committed.
        LeaseLost: another process has taken over the run; nothing is committed.
    """
    thumbs = (0, None) if attempt.thumbs is None else attempt.thumbs.finish(made.values())
    return _commit_records(attempt, sink, made, rows, committed).with_thumbs(*thumbs)


def _commit_records(
    attempt: Attempt,
    sink: ImageSink,
    made: Mapping[int, ImageRecord],
    rows: pa.Table,
    committed: pa.Table | None,
) -> ShardDone:
    store, shard, amends = attempt.store, attempt.work.shard, attempt.work.amends
    # If another attempt was faster, a second pack would be an orphan.
    if attempt.record.spec.images.is_packed and amends is None:
        winner = read_commit_if_any(store, shard)
        if winner is not None:
            return ShardDone.of(shard, winner)
    records = sink.flush(made, rows)
    if attempt.fence is not None:
        attempt.fence.require(store)
    stored = list(records.values())
    write_records_embeddings(store, shard, stored, attempt.record.scorers)
    if amends is not None and not amends.recommits:
        return _amend(attempt, records, kept_rows(made, committed))
    part = metadata_part(stored, rows)
    if amends is None:
        part = commit_shard(store, shard, part)
    else:
        recommit_shard(store, shard, part, attempt.fence)
    return ShardDone.of(shard, part)


def _amend(
    attempt: Attempt, records: Mapping[int, ImageRecord], kept: Mapping[int, ImageRecord]
) -> ShardDone:
    """Amend a commit, which keeps the rows that could not be made again as they were."""
    shard, amends = attempt.work.shard, attempt.work.amends
    assert amends is not None  # noqa: S101 - the caller has looked
    changed = {row: record for row, record in records.items() if row not in kept}
    part = amend_commit(attempt.store, shard, changed, attempt.fence)
    done = ShardDone.of(shard, part.take(list(amends.rows)))
    if not kept:
        return done
    errors = [str(record.error) for record in kept.values()]
    return done.with_unmade(errors, ShardDone.of(shard, part.take(list(kept))).num_ok)
