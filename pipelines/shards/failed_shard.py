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

MAX_REASON = 250
"""Characters of an error before what is said of the stored file."""

UNRECOGNIZED = (
    "a file is stored under its name, which provenance.embed: none leaves without anything to "
    "recognise it by; nightpress retry makes the image again and compares them"
)
UNJUDGED = (
    "a file is stored under its name, which only the job's scorers can judge; nightpress retry "
    "looks at it"
)


def fail_shard(
    store: Store,
    record: RunRecord,
    work: ShardWork,
    rows: pa.Table,
    error_type: FailureType,
    error: str,
) -> ShardDone:
    """Commit a shard that no worker survives: images not in the store are recorded as failed.

    The driver has neither the model nor the job's scorers. An image that is stored and that it
    cannot recognise or judge without them fails too, and its error says so; `nightpress retry`
    makes it again, and takes what is stored if it is the same.

    Args:
        rows: the plan's rows, all of the shard.
    """
    scores = ShardScores(ImageScorer(), record.spec.images, rows)
    attempt = Attempt(store, record.of_shard(work.shard), work, "driver", scores)
    images = planned_images(rows)
    found = _stored(attempt, images) if record.spec.gates is None else _drawn(attempt, images)
    others = [each for each in images if each.image_id not in found]
    left = _left(attempt, others)
    for each in others:
        reason = f"{error[:MAX_REASON]}; {left[each.image_id]}" if each.image_id in left else error
        found[each.image_id] = attempt.failed(each, error_type, reason)
    records = [found[each.image_id] for each in images]
    part = metadata_part(records, rows)
    return ShardDone.of(work.shard, commit_shard(store, work.shard, part))


def _stored(attempt: Attempt, images: Sequence[PlannedImage]) -> dict[str, ImageRecord]:
    """Image id -> the record of an image that is stored."""
    if attempt.record.spec.images.is_packed or attempt.record.file_format.tells_nothing:
        return {}
    adopted = (attempt.adopt_file(image, time.time()) for image in images)
    return {record.facts.image_id: record for record in adopted if record is not None}


def _drawn(attempt: Attempt, images: Sequence[PlannedImage]) -> dict[str, ImageRecord]:
    """Image id -> the record of an image whose draws are known as far as they decide.

    Without the job's scorers a stored image can be judged only by what every image is measured by.
    Another is left where it is.
    """
    gates = attempt.record.spec.gates
    assert gates is not None  # noqa: S101 - the run has gates
    judging = Judging(attempt.work.shard, Gates(gates), images)
    judging.recall(read_draws(attempt.store, attempt.work.shard).draws)
    if _can_judge(attempt):
        for record in _stored(attempt, images).values():
            judging.add_found(record)
    with ThreadPoolExecutor(1) as pool:
        sink = FileSink(attempt, pool)
        ends = ((image.image_id, judging.end(image.image_id)) for image in images)
        return {image_id: end.record(attempt, sink) for image_id, end in ends if end is not None}


def _can_judge(attempt: Attempt) -> bool:
    """Whether the job's gates, if it has any, judge by what every image is measured by alone."""
    gates = attempt.record.spec.gates
    return gates is None or set(gates.scores) <= set(MEASURED)


def _left(attempt: Attempt, images: Sequence[PlannedImage]) -> dict[str, str]:
    """Image id -> why the file that is stored under its name is not looked at."""
    spec, form = attempt.record.spec, attempt.record.file_format
    if spec.images.is_packed or (_can_judge(attempt) and not form.tells_nothing):
        return {}
    why = UNJUDGED if not form.tells_nothing else UNRECOGNIZED
    present = attempt.store.present([image.file for image in images])
    return {image.image_id: why for image in images if image.file in present}
