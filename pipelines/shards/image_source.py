"""Where the batches of a shard come from, and what becomes of the images that are sampled."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future
from itertools import chain
from typing import Protocol

from nightpress.pipelines.records import ImageRecord
from nightpress.pipelines.shards.attempt import Attempt, EncodedImage
from nightpress.pipelines.shards.batch_sampler import SampledImages, UnsampledImage
from nightpress.pipelines.shards.batching import PlannedImage, batches
from nightpress.pipelines.shards.events import DrawsJudged
from nightpress.pipelines.shards.missing import known_records
from nightpress.pipelines.shards.sinks import ImageSink

Outcome = SampledImages | UnsampledImage

Encode = Callable[[SampledImages, int], EncodedImage | ImageRecord]
"""Encodes and scores one image of a batch; returns its record if it fails."""

Size = Callable[[PlannedImage], int]
"""The size of the batch that an image is sampled in."""


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

    def settle(self) -> list[ImageRecord]:
        """Wait for the oldest batch; returns records that are complete by then."""
        ...

    def finish(self) -> list[ImageRecord]:
        """Wait for what is left when no batch is pending; returns the records of that."""
        ...

    def judged(self) -> Iterator[DrawsJudged]:
        """What the gates have said since the last call."""
        ...


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
        self._pending = deque[list[Future[ImageRecord]]]()

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
        # map, unlike a loop variable, does not keep pixels alive while more are sampled.
        self._pending.append(list(chain.from_iterable(map(self._submit, outcomes))))

    @property
    def num_pending(self) -> int:
        """See `ImageSource`."""
        return len(self._pending)

    def settle(self) -> list[ImageRecord]:
        """See `ImageSource`."""
        return [future.result() for future in self._pending.popleft()]

    def finish(self) -> list[ImageRecord]:
        """See `ImageSource`."""
        return []

    def judged(self) -> Iterator[DrawsJudged]:
        """See `ImageSource`."""
        yield from ()

    def _submit(self, outcome: Outcome) -> list[Future[ImageRecord]]:
        if isinstance(outcome, UnsampledImage):
            failure = outcome.image, outcome.error_type, outcome.error, outcome.inputs
            return [self._pool.submit(self._attempt.failed, *failure)]
        numbers = range(len(outcome.images))
        return [self._pool.submit(self._make, outcome, number) for number in numbers]

    def _make(self, sampled: SampledImages, index: int) -> ImageRecord:
        encoded = self._encode(sampled, index)
        return encoded if isinstance(encoded, ImageRecord) else self._sink.store(encoded)
