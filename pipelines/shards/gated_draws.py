"""The draws of a shard in a gated run: judged, recorded where they lose, stored where they win.

Draws are encoded and scored in threads, and judged in the thread of the shard. What lost is
recorded before what won is stored.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from itertools import chain

from nightpress.pipelines.image_files.thumbnails import thumbnail
from nightpress.pipelines.job.gates_section import GatesSpec
from nightpress.pipelines.records import ImageRecord
from nightpress.pipelines.run_directory.draws import LostDraw, read_draws, store_draws
from nightpress.pipelines.scoring.gates import Gates
from nightpress.pipelines.shards.attempt import Attempt, EncodedImage
from nightpress.pipelines.shards.batching import PlannedImage
from nightpress.pipelines.shards.draw_queue import DrawQueue
from nightpress.pipelines.shards.drawn import Drawn, Ended
from nightpress.pipelines.shards.events import DrawsJudged
from nightpress.pipelines.shards.image_source import PENDING_BATCHES, Encode, Size
from nightpress.pipelines.shards.in_flight import (
    ImagesInFlight,
    Outcome,
    SampledImages,
    UnsampledImage,
    known,
)
from nightpress.pipelines.shards.judging import JudgedBatch, Judging
from nightpress.pipelines.shards.sinks import ImageSink

STORING_BATCHES = 2
"""Batches whose winners may wait for their upload before judging waits for them."""


@dataclass(frozen=True)
class Storing:
    """What the threads store of a batch."""

    recorded: Future[None]
    """The draws that lost; the others wait for it."""
    ended: Sequence[Future[ImageRecord]]


class GatedDraws:
    """The draws of the images of one attempt at a shard; an `ImageSource`.

    Args:
        attempt: the attempt.
        sink: where the winners go.
        encode: encodes and scores a draw.
        pool: threads that encode and store.
        spec: the job's gates.
    """

    def __init__(
        self, attempt: Attempt, sink: ImageSink, encode: Encode, pool: Executor, spec: GatesSpec
    ) -> None:
        self._attempt, self._sink, self._encode, self._pool = attempt, sink, encode, pool
        self._gates = Gates(spec)
        self._keeps_thumbnails = spec.keep_rejected == "thumbnails"
        self._judging = Judging(attempt.work.shard, self._gates, ())
        self._open: list[str] = []
        self._queue = DrawQueue((), self._gates.rule, lambda image: 1)
        self._pending = deque[list[Future[Drawn]]]()
        self._storing = deque[Storing]()
        self._events: list[DrawsJudged] = []

    def known(self, images: Mapping[int, PlannedImage]) -> dict[int, ImageRecord]:
        """See `ImageSource`: the images whose draws are known as far as they decide.

        An image that is found counts as any other draw. So one that does not pass, or that comes
        after draws of which nothing is known, is not adopted before these are made.
        """
        work = self._attempt.work
        self._judging = Judging(work.shard, self._gates, images.values())
        if work.look_first or work.amends is not None:
            self._recall()
        for record in self._sink.find(list(images.values())).values():
            self._judging.add_found(record)
        aside, known = {each.row: each for each in work.set_aside}, {}
        for row, image in images.items():
            if (end := self._judging.end(image.image_id)) is not None:
                known[row] = end.record(self._attempt, self._sink)
            elif row in aside:
                known[row] = self._attempt.set_aside(image, aside[row])
            else:
                self._open.append(image.image_id)
        return known

    def _recall(self) -> None:
        shard = self._attempt.work.shard
        found = read_draws(self._attempt.store, shard)
        self._judging.recall(found.draws)
        if found.damaged:
            self._events.append(DrawsJudged(shard, 0, damaged=tuple(found.damaged)))

    def begin(self, size: Size, supports_per_image_guidance: bool) -> None:
        """See `ImageSource`."""
        places = [self._judging.places[image_id] for image_id in self._open]
        singly = self._attempt.work.singly
        self._queue = DrawQueue(places, self._gates.rule, size, supports_per_image_guidance, singly)

    @property
    def is_finished(self) -> bool:
        """See `ImageSource`."""
        return self._queue.is_finished

    def next_batch(self) -> list[PlannedImage]:
        """See `ImageSource`."""
        return [draw.image for draw in self._queue.next_batch()]

    def coming(self) -> list[PlannedImage]:
        """See `ImageSource`."""
        return [draw.image for draw in self._queue.coming()]

    def take(self, outcomes: Iterable[Outcome]) -> None:
        """See `ImageSource`."""
        # map, unlike a loop variable, does not keep pixels alive while more are sampled.
        self._pending.append(list(chain.from_iterable(map(self._submit, outcomes))))

    @property
    def num_pending(self) -> int:
        """See `ImageSource`."""
        return len(self._pending)

    @property
    def must_settle(self) -> bool:
        """See `ImageSource`: after so many batches, whatever the threads have done by then.

        Which draws are made next depends on it.
        """
        return len(self._pending) > PENDING_BATCHES

    def settle(self) -> list[ImageRecord]:
        """See `ImageSource`: judge the oldest batch, record what lost, and store what won."""
        batch = [future.result() for future in self._pending.popleft()]
        judged = self._judging.judge(batch, self._queue)
        self._events.append(judged.event)
        self._storing.append(self._store(judged))
        return self._stored(STORING_BATCHES)

    def finish(self) -> list[ImageRecord]:
        """See `ImageSource`."""
        return self._stored(0)

    def judged(self) -> Iterator[DrawsJudged]:
        """See `ImageSource`."""
        events, self._events = self._events, []
        yield from events

    def _submit(self, outcome: Outcome) -> list[Future[Drawn]]:
        if isinstance(outcome, UnsampledImage):
            return [self._pool.submit(self._failed, outcome)]
        numbers = range(len(outcome.images))
        return [self._pool.submit(self._draw, outcome, number) for number in numbers]

    def _failed(self, unsampled: UnsampledImage) -> Drawn:
        image, number = unsampled.image, self._judging.draw_of(unsampled.image)
        failure = unsampled.error_type, unsampled.error, unsampled.inputs
        return Drawn(number, self._attempt.failed(image, *failure))

    def _draw(self, images: SampledImages | ImagesInFlight, index: int) -> Drawn:
        outcome = known(images, index)
        if isinstance(outcome, UnsampledImage):
            return self._failed(outcome)
        (sampled, index), number = outcome, self._judging.draw_of(images.images[index])
        made = self._encode(sampled, index)
        keeps = self._keeps_thumbnails and isinstance(made, EncodedImage)
        return Drawn(number, made, thumbnail(sampled.batch.pixels[index]) if keeps else None)

    def _store(self, judged: JudgedBatch) -> Storing:
        """Have the threads record the draws that lost, and store those that won after that."""
        recorded = self._pool.submit(self._record, judged.lost)
        return Storing(
            recorded, [self._pool.submit(self._end, each, recorded) for each in judged.ended]
        )

    def _record(self, lost: Sequence[LostDraw]) -> None:
        if lost:
            store_draws(self._attempt.store, self._attempt.work.shard, lost)

    def _end(self, end: Ended, recorded: Future[None]) -> ImageRecord:
        recorded.result()  # it was submitted before, so a thread is at work on it
        return end.record(self._attempt, self._sink)

    def _stored(self, num_left: int) -> list[ImageRecord]:
        """Wait for the winners of all batches but the latest ones; returns their records."""
        records: list[ImageRecord] = []
        while len(self._storing) > num_left:
            storing = self._storing.popleft()
            storing.recorded.result()
            records += [future.result() for future in storing.ended]
        return records
