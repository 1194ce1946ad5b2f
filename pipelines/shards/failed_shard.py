"""Committing a shard that no worker survives."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from nightpress.pipelines.job.scores_section import MEASURED
from nightpress.pipelines.records import FailureType, ImageRecord
from nightpress.pipelines.run_directory.commit import commit_shard, metadata_part
from nightpress.pipelines.run_directory.draws import read_draws
from nightpress.pipelines.run_directory.record import RunRecord
from nightpress.pipelines.scoring.gates import Gates
from nightpress.pipelines.scoring.image_scorer import ImageScorer
from nightpress.pipelines.shards.attempt import Attempt
from nightpress.pipelines.shards.batching import PlannedImage, planned_images
from nightpress.pipelines.shards.events import ShardDone
from nightpress.pipelines.shards.judging import Judging
from nightpress.pipelines.shards.shard_scores import ShardScores
from nightpress.pipelines.shards.sinks import FileSink
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
    images = planned_images(rows)
    found = _stored(attempt, images) if record.spec.gates is None else _drawn(attempt, images)
    records = [
        found.get(each.image_id) or attempt.failed(each, error_type, error) for each in images
    ]
    part = metadata_part(records, rows)
    return ShardDone.of(work.shard, commit_shard(store, work.shard, part))


def _stored(attempt: Attempt, images: Sequence[PlannedImage]) -> dict[str, ImageRecord]:
    """Image id -> the record of an image that is stored."""
    if attempt.record.spec.images.is_packed:
        return {}
    adopted = (attempt.adopt_file(image, time.time()) for image in images)
    return {record.facts.image_id: record for record in adopted if record is not None}


def _drawn(attempt: Attempt, images: Sequence[PlannedImage]) -> dict[str, ImageRecord]:
    """Image id -> the record of an image whose draws are known as far as they decide.

    Without the job's scorers a stored image can be judged only by what every image is measured by.
    Another is left where it is: `nightpress retry` finds it.
    """
    gates = attempt.record.spec.gates
    assert gates is not None  # noqa: S101 - the run has gates
    judging = Judging(attempt.work.shard, Gates(gates), images)
    judging.recall(read_draws(attempt.store, attempt.work.shard).draws)
    if set(gates.scores) <= set(MEASURED):
        for record in _stored(attempt, images).values():
            judging.add_found(record)
    with ThreadPoolExecutor(1) as pool:
        sink = FileSink(attempt, pool)
        ends = ((image.image_id, judging.end(image.image_id)) for image in images)
        return {image_id: end.record(attempt, sink) for image_id, end in ends if end is not None}
