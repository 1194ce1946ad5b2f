"""The draws that a commit names, for images that are made again just as they were."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pyarrow as pa

from nightpress.pipelines.records import ImageRecord
from nightpress.pipelines.run_directory.commit import metadata_columns
from nightpress.pipelines.shards.batching import PlannedImage

COLUMNS = ("draw", "draws", "gate")


def as_committed(
    images: Sequence[PlannedImage], rows: Sequence[int], committed: pa.Table | None
) -> list[PlannedImage]:
    """The images with the seeds of the draws that were taken.

    Args:
        images: as planned.
        rows: the row of each in the shard.
        committed: the metadata of the shard; None for images that are not made again.
    """
    if committed is None:
        return list(images)
    draws = metadata_columns(committed, ["draw"]).column("draw").take(list(rows)).to_pylist()
    return [image.drawn(draw or 0) for image, draw in zip(images, draws, strict=True)]


def with_committed_draws(
    records: Mapping[int, ImageRecord], committed: pa.Table | None
) -> dict[int, ImageRecord]:
    """The records of images that were made again, with what their commit says of their draws.

    Args:
        records: row in the shard -> its new record.
        committed: the metadata of the shard; None for images that are not made again.
    """
    if committed is None:
        return dict(records)
    before = metadata_columns(committed, COLUMNS).take(list(records)).to_pylist()
    return {
        row: replace(record, **values)
        for (row, record), values in zip(records.items(), before, strict=True)
    }
