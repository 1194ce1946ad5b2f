"""Committing a shard that no worker survives."""

import time

import pyarrow as pa

from nightpress.pipelines.records import FailureType
from nightpress.pipelines.run_directory.commit import commit_shard, metadata_part
from nightpress.pipelines.run_directory.record import RunRecord
from nightpress.pipelines.scoring.image_scorer import ImageScorer
from nightpress.pipelines.shards.attempt import Attempt
from nightpress.pipelines.shards.batching import planned_images
from nightpress.pipelines.shards.events import ShardDone
from nightpress.pipelines.shards.shard_scores import ShardScores
from nightpress.pipelines.shards.work import ShardWork
from nightpress.pipelines.storage import Store


def fail_shard(
    store: Store,
    record: RunRecord,
    work: ShardWork,
    rows: pa.Table,
    error_type: FailureType,
    error: str,
) -> ShardDone:
    """Commit a shard that no worker survives: images not in the store are recorded as failed.

    Args:
        rows: the plan's rows, all of the shard.
    """
    scores = ShardScores(ImageScorer(), record.spec.images, rows)
    attempt = Attempt(store, record, work, "driver", scores)
    packed = record.spec.images.is_packed
    records = [
        (None if packed else attempt.adopt_file(image, time.time()))
        or attempt.failed(image, error_type, error)
        for image in planned_images(rows)
    ]
    part = metadata_part(records, rows)
    return ShardDone.of(work.shard, commit_shard(store, work.shard, part))
