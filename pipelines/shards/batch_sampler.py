"""Sampling one batch, whole if possible and otherwise in smaller ones, so that rows fail alone."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from nightpress.diffusion_core.acceleration.compilation import on_compilation
from nightpress.diffusion_core.conditioning import edits
from nightpress.diffusion_core.errors import DeviceError, OutOfMemory
from nightpress.diffusion_core.sampling.sampler import SampledBatch, Sampler
from nightpress.pipelines.inputs.preparing import NO_INPUTS, PreparedInputs
from nightpress.pipelines.planning.batch_sizes import ImageKind
from nightpress.pipelines.records import FailureType
from nightpress.pipelines.run_directory.record import RunRecord
from nightpress.pipelines.shards.batch_size_fallback import BatchSizeFallback
from nightpress.pipelines.shards.batching import PlannedImage
from nightpress.pipelines.shards.events import BatchSplit
from nightpress.pipelines.shards.in_flight import (
    ImagesInFlight,
    Outcome,
    SampledImages,
    UnsampledImage,
)
from nightpress.pipelines.shards.timeline import Activity, Timeline
from nightpress.pipelines.storage import Store

NONE_GIVEN: Mapping[str, PreparedInputs] = {}


@dataclass(frozen=True)
class QueuedBatch:
    """A batch that is queued on the device."""

    flight: ImagesInFlight
    inputs: Mapping[str, PreparedInputs]
    """Its pictures."""
    ticket: int
    """That of the shard in whose turn it was queued."""


class BatchSampler:
    """Samples the batches of one process, one at a time.

    A batch is queued on the device before it is done with the one before, which is then in flight.
    The last batch of a shard may be left in flight to the next shard.

    Args:
        sampler: samples a single batch.
        store, record: of the run.
        timeline: switched to `COMPILING` while torch compiles.
    """

    def __init__(
        self, sampler: Sampler, store: Store, record: RunRecord, timeline: Timeline
    ) -> None:
        self._sampler = sampler
        self._pipeline_class, self._model = record.model.pipeline, record.model_name
        self._sizes = BatchSizeFallback(store, record.batch_sizes, record.model_name)
        self._sizes.refresh()
        self._exact_sizes: dict[str, int] = {}
        self._inputs: Mapping[str, PreparedInputs] = {}
        self._may_compile = record.spec.model.ways.compile is not None
        self._timeline = timeline
        self._ticket = self._shard = 0
        self._splits: list[BatchSplit] = []
        self._in_flight: QueuedBatch | None = None
        self._left: QueuedBatch | None = None
        """What the shard before has left in flight, until it is settled."""
        self._last_ended = 0.0
        self._is_sampling = False
        self.num_settled = 0
        """Batches in flight that the device is done with."""

    def begin_shard(self, ticket: int, exact_sizes: Mapping[str, int], shard: int) -> None:
        """Start on a shard.

        Args:
            ticket: that of the shard.
            exact_sizes: image id -> the size of the batch it was first made in, for images that
                must get the same bits again.
            shard: its number.

        Raises:
            DeviceError: the device has failed in the last batch of the shard before.
        """
        if exact_sizes or self._exact_sizes:  # what must be repeated needs the sizes of its shard
            self.settle()
        self._ticket, self._exact_sizes, self._shard = ticket, dict(exact_sizes), shard

    def take_splits(self) -> list[BatchSplit]:
        """The batches that could not be sampled as a whole since the last call."""
        splits, self._splits = self._splits, []
        return splits

    @property
    def has_batch_in_flight(self) -> bool:
        """Whether the device may be at work on a batch that is not settled."""
        return self._in_flight is not None

    def is_sampling(self, ticket: int) -> bool:
        """Whether a shard with this ticket is being sampled at this moment; asked in any thread.

        Where the next shard has begun before the last batch of this one is settled, both are.
        """
        left = self._left
        by_left = left is not None and left.ticket == ticket and not left.flight.is_settled
        return self._is_sampling and (ticket == self._ticket or by_left)

    def planned_size(self, image: PlannedImage) -> int:
        """The size of a batch with the settings of an image, in any shard."""
        if not self._sampler.shares_batches or edits.samples_alone(
            self._pipeline_class, image.params.conditioning
        ):
            return 1
        return self._sizes.size_for(image.params)

    def size_for(self, image: PlannedImage) -> int:
        """The size of the batch that an image of this shard is sampled in."""
        return self._exact_sizes.get(image.image_id) or self.planned_size(image)

    def sample(
        self, images: Sequence[PlannedImage], inputs: Mapping[str, PreparedInputs] = NONE_GIVEN
    ) -> Iterator[Outcome]:
        """Sample images of equal settings.

        They form one batch, unless it does not fit in memory or fails as a whole.

        Args:
            images: what to sample.
            inputs: image id -> its pictures, for the images that have any.

        Raises:
            DeviceError: the device failed; no image is to blame.
        """
        self._inputs = inputs
        try:
            if images:
                yield from self._sample(images)
            else:
                self.settle()
        finally:  # the pictures are large
            self._inputs = NONE_GIVEN

    def join_pictures(
        self, images: Sequence[PlannedImage], inputs: Mapping[str, PreparedInputs]
    ) -> None:
        """Prepare the pictures of a later batch for their upload; called from any thread.

        Args:
            images: of the batch.
            inputs: image id -> its pictures.
        """
        requests = [each.request(inputs[each.image_id].images) for each in images]
        size = self.size_for(images[0])
        self._sampler.join_pictures(requests, images[0].params, size)

    def settle(self) -> None:
        """Wait until the device is done with the batch in flight; sample it again if it must be.

        Raises:
            DeviceError: the device failed; no image is to blame.
        """
        if self._in_flight is None:
            return
        queued, self._in_flight = self._in_flight, None
        flight = queued.flight
        self._is_sampling = True
        try:
            self._last_ended = flight.wait()
            self.num_settled += 1
            if flight.must_be_repeated:
                flight.repeated(self._sampled_again(flight.images, queued.inputs))
        except BaseException as error:  # whatever it is, those who wait for the images must know
            flight.close(error)
            raise
        finally:
            self._is_sampling = False
            if self._left is queued:
                self._left = None

    def leave(self) -> None:
        """Leave the batch in flight, if there is one, to the next shard, which settles it."""
        self._left = self._in_flight

    def settle_left(self) -> None:
        """Settle what the shard before has left in flight; see `settle`."""
        if self._in_flight is not None and self._in_flight.ticket != self._ticket:
            self.settle()

    def drop(self) -> None:
        """End a shard: forget its batch in flight unless it is left, and settle one left to it.

        A device that has failed is done with no batch.

        Raises:
            DeviceError: the device has failed in the batch that was left.
        """
        self.settle_left()
        queued = self._in_flight
        if queued is not None and queued is not self._left:
            queued.flight.close()
            self._in_flight = None

    def _sampled_again(
        self, images: Sequence[PlannedImage], inputs: Mapping[str, PreparedInputs]
    ) -> list[Outcome]:
        before, self._inputs = self._inputs, inputs
        try:
            outcomes = list(self._sample(images))
            self.settle()
        finally:
            self._inputs = before
        return outcomes

    def _queued(self, made: SampledImages, began: float) -> ImagesInFlight:
        """Note that a batch is in flight; what was in flight before is settled."""
        flight = ImagesInFlight(made, max(began, self._last_ended))
        self._in_flight = QueuedBatch(flight, self._inputs, self._ticket)
        return flight

    def _sample(self, images: Sequence[PlannedImage]) -> Iterator[Outcome]:
        size = self.size_for(images[0])
        if len(images) > size:  # the batch was cut before a smaller size was learnt
            yield from self._sample_in(images, size)
            return
        started_at, clock = time.time(), time.perf_counter()
        # Errors are kept as text: a traceback would keep alive what fills the memory.
        too_large = error_text = None
        try:
            sampled = self._sample_batch(images, size)
        except OutOfMemory as error:
            too_large = str(error)
        except DeviceError:
            raise
        except Exception as error:  # whatever a row does to the model, it must fail alone
            error_text = f"{type(error).__name__}: {error}"
        self.settle()  # in any case: those who wait for the batch before may wait for it in vain
        if too_large is None and error_text is None:
            share_s = (time.perf_counter() - clock) / len(images)
            infos = {each.image_id: self._inputs_of(each).infos for each in images}
            made = SampledImages(images, sampled, size, started_at, share_s, infos)
            yield made if sampled.is_done else self._queued(made, clock)
        if too_large is not None and size > 1:
            self._exact_sizes.clear()
            smaller = self._sizes.halve(images[0].params, size)
            self._note_split(images, size, smaller, too_large, did_not_fit=True)
            yield from self._sample_in(images, smaller)
        elif too_large is not None:
            yield self._unsampled(images[0], FailureType.OUT_OF_MEMORY, too_large)
        elif error_text is not None and len(images) > 1:
            self._note_split(images, size, 1, error_text, did_not_fit=False)
            yield from self._sample_in(images, 1)
        elif error_text is not None:
            yield self._unsampled(images[0], FailureType.SAMPLING, error_text)

    def _note_split(
        self,
        images: Sequence[PlannedImage],
        batch_size: int,
        size: int,
        error: str,
        did_not_fit: bool,
    ) -> None:
        kind, text = ImageKind.of(images[0].params).name, " ".join(error.split())
        self._splits.append(
            BatchSplit(
                self._shard, self._model, kind, len(images), batch_size, size, text, did_not_fit
            )
        )

    def _unsampled(self, image: PlannedImage, kind: FailureType, error: str) -> UnsampledImage:
        return UnsampledImage(image, kind, error, self._inputs_of(image).infos)

    def _sample_in(self, images: Sequence[PlannedImage], size: int) -> Iterator[Outcome]:
        """Sample images of equal settings, at most `size` at a time."""
        for start in range(0, len(images), size):
            yield from self._sample(images[start : start + size])

    def _sample_batch(self, images: Sequence[PlannedImage], size: int) -> SampledBatch:
        self._is_sampling = True
        try:
            with self._compilation_noted():
                requests = [each.request(self._inputs_of(each).images) for each in images]
                return self._sampler.sample(requests, images[0].params, size)
        finally:
            self._is_sampling = False

    def _inputs_of(self, image: PlannedImage) -> PreparedInputs:
        return self._inputs.get(image.image_id, NO_INPUTS)

    def _compilation_noted(self) -> AbstractContextManager[None]:
        """Switch the timeline while torch compiles, if it may."""
        if not self._may_compile:
            return nullcontext()
        switch = self._timeline.switch
        return on_compilation(lambda: switch(Activity.COMPILING), lambda: switch(Activity.BUSY))
