"""Where the batches of a shard come from, and what becomes of the images that are sampled."""

import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

from nightpress.pipelines.records import ImageRecord
from nightpress.pipelines.shards.attempt import Attempt, EncodedImage
from nightpress.pipelines.shards.batching import PlannedImage, batches
from nightpress.pipelines.shards.events import DrawsJudged
from nightpress.pipelines.shards.in_flight import (
    ImagesInFlight,
    Outcome,
    SampledImages,
    UnsampledImage,
    known,
)
from nightpress.pipelines.shards.missing import known_records
from nightpress.pipelines.shards.sinks import ImageSink

Encode = Callable[[SampledImages, int], EncodedImage | ImageRecord]
"""Encodes and scores one image of a batch; returns its record if it fails."""

PENDING_BATCHES = 2
"""Batches that may always wait until they are stored, before sampling waits for them."""

PENDING_S = 2.0
"""More may wait if all of them together took no longer than this to sample: at a high rate, a
request of the store that takes long must not stop the sampling."""

PENDING_BYTES = 512 * 2**20
"""And if their pixels take no more memory than this."""

Size = Callable[[PlannedImage], int]
"""The size of the batch that an image is sampled in."""


@dataclass(frozen=True)
class PendingBatch:
    """A batch that was sampled, and that threads encode and store."""

    records: Sequence[Future[ImageRecord]]
    seconds: float = 0.0
    """What it took to sample."""
    num_bytes: int = 0
    """How many bytes its pixels take."""

    @property
    def is_done(self) -> bool:
        """Whether all of its images are stored, or have failed."""
        return all(record.done() for record in self.records)


def pixel_bytes(image: PlannedImage) -> int:
    """The bytes of the pixels of an image, or of all frames of a clip."""
    return 3 * image.width * image.height * (1 if image.clip is None else image.clip.num_frames)


def waits_too_long(pending: Collection[PendingBatch]) -> bool:
    """Whether so much waits to be stored that sampling must wait for it.

    So at most the pixels of PENDING_BYTES, or of PENDING_BATCHES if these are more, wait in memory,
    and of what is sampled, at most PENDING_S or so many batches are lost with the process.
    """
    if len(pending) <= PENDING_BATCHES:
        return False
    seconds = sum(batch.seconds for batch in pending)
    return seconds > PENDING_S or sum(batch.num_bytes for batch in pending) > PENDING_BYTES


class ImageSource(Protocol):
    """The images of one attempt at a shard, in the order in which they are sampled."""

    def known(self, images: Mapping[int, PlannedImage]) -> dict[int, ImageRecord]:
        """The records of the images that need not be sampled; called once, before all else.

        Args:
            images: row -> image.
        """
        ...

    def begin(self, size: Size, supports_per_image_guidance: bool) -> None:
        """Get ready to hand out the batches of the other images.

        Args:
            size: asked again for each batch, since it may shrink.
            supports_per_image_guidance: whether guidance scales may differ within a batch.
        """
        ...

    @property
    def is_finished(self) -> bool:
        """Whether no further batch will come."""
        ...

    def next_batch(self) -> list[PlannedImage]:
        """Take the next batch; none if the oldest one must be settled first."""
        ...

    def coming(self) -> list[PlannedImage]:
        """The images that come next, as far as that is known; to prepare for them."""
        ...

    def take(self, outcomes: Iterable[Outcome]) -> None:
        """Have the threads deal with what becomes of a batch."""
        ...

    @property
    def num_pending(self) -> int:
        """How many batches were taken and not settled."""
        ...

    @property
    def must_settle(self) -> bool:
        """Whether the oldest batch must be settled before another is sampled."""
        ...

    def settle(self) -> list[ImageRecord]:
        """Wait for the oldest batch; returns records that are complete by then."""
        ...

    def finish(self) -> list[ImageRecord]:
        """Wait for what is left when no batch is pending; returns the records of that."""
        ...

    def judged(self) -> Iterator[DrawsJudged]:
        """What the gates have said since the last call."""
        ...


def settled(source: ImageSource) -> list[ImageRecord]:
    """The records of the batches that must be settled before another is sampled."""
    records: list[ImageRecord] = []
    while source.must_settle:
        records += source.settle()
    return records


class PlannedImages:
    """The images of an attempt as they are planned; each is stored as soon as it is encoded.

    Args:
        attempt: the attempt.
        sink: where the images go.
        encode: encodes and scores an image.
        pool: threads that encode and store.
    """

    def __init__(self, attempt: Attempt, sink: ImageSink, encode: Encode, pool: Executor) -> None:
        self._attempt, self._sink = attempt, sink
        self._encode, self._pool = encode, pool
        self._missing: list[PlannedImage] = []
        self._batches: Iterator[list[PlannedImage]] = iter(())
        self._next: list[PlannedImage] = []
        self._pending = deque[PendingBatch]()

    def known(self, images: Mapping[int, PlannedImage]) -> dict[int, ImageRecord]:
        """See `ImageSource`."""
        known = known_records(self._attempt, self._sink, images)
        self._missing = [image for row, image in images.items() if row not in known]
        return known

    def begin(self, size: Size, supports_per_image_guidance: bool) -> None:
        """See `ImageSource`."""
        cut = batches(self._missing, size, supports_per_image_guidance)
        if self._attempt.work.singly:
            cut = ([image] for batch in cut for image in batch)
        self._batches = iter(cut)
        self._next = next(self._batches, [])

    @property
    def is_finished(self) -> bool:
        """See `ImageSource`."""
        return not self._next

    def next_batch(self) -> list[PlannedImage]:
        """See `ImageSource`."""
        batch, self._next = self._next, next(self._batches, [])
        return batch

    def coming(self) -> list[PlannedImage]:
        """See `ImageSource`."""
        return self._next

    def take(self, outcomes: Iterable[Outcome]) -> None:
        """See `ImageSource`."""
        began = time.perf_counter()
        # map, unlike a loop variable, does not keep pixels alive while more are sampled.
        submitted = list(map(self._submit, outcomes))
        records = list(chain.from_iterable(each.records for each in submitted))
        seconds = time.perf_counter() - began
        self._pending.append(PendingBatch(records, seconds, sum(b.num_bytes for b in submitted)))

    @property
    def num_pending(self) -> int:
        """See `ImageSource`."""
        return len(self._pending)

    @property
    def must_settle(self) -> bool:
        """See `ImageSource`: it is stored, or too much waits."""
        pending = self._pending
        return bool(pending) and (pending[0].is_done or waits_too_long(pending))

    def settle(self) -> list[ImageRecord]:
        """See `ImageSource`."""
        return [future.result() for future in self._pending.popleft().records]

    def finish(self) -> list[ImageRecord]:
        """See `ImageSource`."""
        return []

    def judged(self) -> Iterator[DrawsJudged]:
        """See `ImageSource`."""
        yield from ()

    def _submit(self, outcome: Outcome) -> PendingBatch:
        """Have the threads deal with a batch, or with an image that was not sampled."""
        if isinstance(outcome, UnsampledImage):
            failure = outcome.image, outcome.error_type, outcome.error, outcome.inputs
            return PendingBatch([self._pool.submit(self._attempt.failed, *failure)])
        numbers = range(len(outcome.images))
        records = [self._pool.submit(self._make, outcome, number) for number in numbers]
        return PendingBatch(records, num_bytes=sum(map(pixel_bytes, outcome.images)))

    def _make(self, sampled: SampledImages | ImagesInFlight, index: int) -> ImageRecord:
        made = known(sampled, index)
        if isinstance(made, UnsampledImage):
            return self._attempt.failed(made.image, made.error_type, made.error, made.inputs)
        encoded = self._encode(*made)
        return encoded if isinstance(encoded, ImageRecord) else self._sink.store(encoded)
