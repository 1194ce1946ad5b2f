"""Which images of a shard must be made: those that are not stored yet, and were not set aside."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from nightpress.pipelines.records import ImageRecord
from nightpress.pipelines.shards.attempt import Attempt
from nightpress.pipelines.shards.batching import PlannedImage
from nightpress.pipelines.shards.in_flight import UnsampledImage
from nightpress.pipelines.shards.input_history import InputHistory
from nightpress.pipelines.shards.sinks import ImageSink


@dataclass(frozen=True)
class InHand:
    """The batch that is sampled next."""

    ids: Sequence[str]


@dataclass(frozen=True)
class Missing:
    """The images of a shard that must be made."""

    images: list[PlannedImage]
    history: InputHistory
    """What their pictures must be."""


def without(images: Sequence[PlannedImage], failed: Sequence[UnsampledImage]) -> list[PlannedImage]:
    """The images that have not failed."""
    ids = {each.image.image_id for each in failed}
    return [image for image in images if image.image_id not in ids]


def known_records(
    attempt: Attempt, sink: ImageSink, images: Mapping[int, PlannedImage]
) -> dict[int, ImageRecord]:
    """The records of images that need not be sampled: found by the sink, or set aside.

    A row that was set aside may have been stored by the attempt that it was blamed for.

    Args:
        images: row -> image.
    """
    found = sink.find(list(images.values()))
    known = {n: found[image.image_id] for n, image in images.items() if image.image_id in found}
    for row in attempt.work.set_aside:
        if row.row in images and row.row not in known:
            known[row.row] = attempt.set_aside(images[row.row], row)
    return known


def batch_sizes(part: pa.Table | None) -> dict[str, int]:
    """Image id -> the size of its batch, in a metadata part."""
    if part is None:
        return {}
    ids, sizes = (part.column(name).to_pylist() for name in ("image_id", "batch_size"))
    return dict(zip(ids, sizes, strict=True))
