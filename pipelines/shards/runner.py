"""The whole story of one shard: look, sample, encode, store, commit.

Sampling runs in the calling thread. In threads beside it the prompts of the batch after it are
encoded, and those before it are copied off the device, made into files and uploaded. Knows nothing
of clusters: whoever calls it may be an actor or a test.
"""

import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext

import pyarrow as pa

from nightpress.diffusion_core.acceleration.compilation import on_compilation
from nightpress.diffusion_core.errors import DeviceError, OutOfMemory
from nightpress.diffusion_core.sampling.sampler import Fault, SampledBatch, Sampler
from nightpress.pipelines.image_files.encoding import encode
from nightpress.pipelines.records import FailureType, ImageRecord
from nightpress.pipelines.run_directory.commit import (
    amend_commit,
    commit_shard,
    metadata_part,
    read_commit_if_any,
    recommit_shard,
)
from nightpress.pipelines.run_directory.lease import FencingToken
from nightpress.pipelines.run_directory.record import RunRecord
from nightpress.pipelines.shards.batch_size_fallback import WorkingSizes
from nightpress.pipelines.shards.batching import (
    PlannedImage,
    batches,
    planned_images,
    with_the_next,
)
from nightpress.pipelines.shards.outcomes import adopt, failed_record, image_facts
from nightpress.pipelines.shards.overlap import PromptPrefetcher, TicketLock
from nightpress.pipelines.shards.sinks import Attempt, Files, ImageSink, MadeImage, Packs
from nightpress.pipelines.shards.timeline import Activity, Timeline
from nightpress.pipelines.shards.work import (
    Amendment,
    BatchDone,
    BatchSampled,
    SetAside,
    ShardBegun,
    ShardDone,
    ShardEvent,
    ShardLeft,
    ShardWork,
)
from nightpress.pipelines.storage import Store

__all__ = [
    "Amendment",
    "BatchDone",
    "BatchSampled",
    "SetAside",
    "ShardBegun",
    "ShardDone",
    "ShardEvent",
    "ShardLeft",
    "ShardRunner",
    "ShardWork",
    "fail_shard",
    "shard_done",
]

PENDING_BATCHES = 2
"""Batches that may wait for their upload before sampling waits for them."""

FAILURES = {
    Fault.NON_FINITE: FailureType.NON_FINITE,
    Fault.BLANK: FailureType.BLANK,
    Fault.FLAGGED: FailureType.FLAGGED,
}


class ShardRunner:
    """Runs shards of one run with one sampler, in one process."""

    def __init__(
        self,
        store: Store,
        record: RunRecord,
        sampler: Sampler,
        worker: str,
        fence: FencingToken | None = None,
        threads: int = 4,
        timeline: Timeline | None = None,
    ) -> None:
        self.store = store
        self.record = record
        self.sampler = sampler
        self.worker = worker
        self._fence = fence
        self._sizes = WorkingSizes(store, record.batch_sizes)
        self._sizes.refresh()
        self._recorded: dict[str, int] = {}
        """Image id -> the size of the batch that it was made in, where its bytes are to return."""
        self._draining = threading.Event()
        self._sampling = False
        self.turns = TicketLock()
        """In which the shards that are run at once are sampled."""
        self._attempts: dict[int, int] = {}
        """Turn -> which attempt it is at its shard; of those in hand."""
        self._prompts = PromptPrefetcher(sampler)
        self.timeline = timeline or Timeline(worker)
        self.timeline.switch(Activity.INPUT)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="store")

    def close(self) -> None:
        """End the threads; what they have in hand is finished first."""
        self._prompts.close()
        self._pool.shutdown()

    def is_sampling(self, turn: int) -> bool:
        """Whether it is in the middle of a batch of that turn, seen from any thread."""
        return self._sampling and self.turns.current == turn

    def drain(self) -> None:
        """Have `run` end after the batch in hand; from any thread."""
        self._draining.set()

    def run(self, work: ShardWork, turn: int | None = None) -> Iterator[ShardEvent]:
        """Make a shard's missing images, then commit it.

        May run in several threads at once: they sample one after the other, in the order of their
        turns, and read and store beside each other.

        Args:
            work: which shard, and what of it.
            turn: one of `turns`, that the caller has; the next one unless given.

        Raises:
            StoreError: the store failed for longer than its retries; nothing is committed.
            LeaseLost: another start has taken the run over; nothing is committed.
            DeviceError: the accelerator failed; this process should make no more shards.
        """
        if turn is None:
            with self.turns.taken() as next_turn:
                yield from self.run(work, next_turn)
            return
        self._attempts[turn] = work.attempt
        try:
            yield from self._run(work, turn)
        finally:
            del self._attempts[turn]

    def _run(self, work: ShardWork, turn: int) -> Iterator[ShardEvent]:
        recommits = work.amends is not None and work.amends.recommits
        standing = None if recommits else read_commit_if_any(self.store, work.shard)
        if standing is not None and work.amends is None:
            yield shard_done(work.shard, standing)
            return
        numbers = range(len(work.rows)) if work.amends is None else work.amends.rows
        images = planned_images(work.rows.take(list(numbers)))
        aside = {row.row: row for row in work.set_aside}
        wanted = range(len(images))[work.start : work.stop]
        keeper = self._keeper(work, standing)
        found = keeper.found([images[n] for n in wanted])
        made = {n: found[images[n].image_id] for n in wanted if images[n].image_id in found}
        # What was set aside may have been stored by the attempt that its row was blamed for.
        lost = [n for n in wanted if n in aside and n not in made]
        made |= {n: self._set_aside(images[n], aside[n]) for n in lost}
        if made:
            yield _batch_done(work.shard, list(made.values()))
        trying = [images[n] for n in wanted if n not in made]
        self._prepare_first(trying, turn)
        self.turns.wait(turn)
        yield ShardBegun(work.shard)
        self._recorded = _batch_sizes(standing) if _replaces(work) else {}
        places = {images[n].image_id: n for n in wanted}
        for records, batch_s in self._make(trying, work, keeper, turn):
            made |= {places[record.facts.image_id]: record for record in records}
            done = _batch_done(work.shard, records, batch_s)
            yield done if records else BatchSampled(work.shard, batch_s)
        if len(made) < len(wanted):
            yield ShardLeft(work.shard)
        elif work.commits:
            yield self._commit({numbers[n]: made[n] for n in wanted}, work, keeper)

    def _prepare_first(self, images: list[PlannedImage], turn: int) -> None:
        """Encode the prompts of a shard's first batch, while another shard is being sampled.

        Not beside a shard that is tried again, or for one: if its process ends of a prompt, the
        shard that is sampled is blamed, which may be innocent once, but not row by row.
        """
        in_hand = dict(self._attempts)
        known = all(earlier in in_hand for earlier in range(self.turns.current, turn))
        if known and set(in_hand.values()) == {1}:
            cut = batches(
                images, lambda i: self._sizes.of(i.params), self.sampler.supports_per_image_guidance
            )
            self._prompts.begin(next(cut, []))

    def _commit(
        self, made: Mapping[int, ImageRecord], work: ShardWork, keeper: ImageSink
    ) -> ShardDone:
        if self.record.spec.images.is_packed and work.amends is None:
            standing = read_commit_if_any(self.store, work.shard)
            if standing is not None:  # somebody was faster, and a second pack would be a stray
                return shard_done(work.shard, standing)
        records = keeper.settled(made, work.rows)
        if self._fence is not None:
            self._fence.require(self.store)
        if work.amends is not None and not work.amends.recommits:
            part = amend_commit(self.store, work.shard, records, self._fence)
            return shard_done(work.shard, part.take(list(work.amends.rows)))
        part = metadata_part(list(records.values()), work.rows)
        if work.amends is None:
            part = commit_shard(self.store, work.shard, part)
        else:
            recommit_shard(self.store, work.shard, part, self._fence)
        return shard_done(work.shard, part)

    def _set_aside(self, image: PlannedImage, row: SetAside) -> ImageRecord:
        return failed_record(
            image, self.record, row.attempts, self.worker, row.error_type, row.error
        )

    def _keeper(self, work: ShardWork, standing: pa.Table | None) -> ImageSink:
        """Where the images of this attempt go."""
        recommits = work.amends is not None and work.amends.recommits
        attempt = Attempt(
            store=self.store,
            record=self.record,
            shard=work.shard,
            number=work.attempt,
            worker=self.worker,
            fence=self._fence,
            replaces=_replaces(work),
            recommits=recommits,
        )
        packing = self.record.spec.images.packing
        if packing == "none":
            return Files(attempt, work.look_first, self._pool)
        return Packs(attempt, packing, standing)

    def _make(
        self, images: list[PlannedImage], work: ShardWork, keeper: ImageSink, turn: int
    ) -> Iterator[tuple[list[ImageRecord], float]]:
        """Sample batch after batch, while the threads store the ones before.

        Yields after each batch what is stored by then, if anything is, and what the batch took.
        """
        pending: deque[list[Future[ImageRecord]]] = deque()
        cut = batches(images, self._size_of, self.sampler.supports_per_image_guidance)
        try:
            for batch, following in with_the_next(cut):
                if self._draining.is_set():
                    break
                self._prompts.begin(following)
                clock = time.perf_counter()
                self.timeline.switch(Activity.BUSY)
                pending.append(self._sample(batch, work, keeper))
                self.timeline.switch(Activity.OUTPUT)
                batch_s = time.perf_counter() - clock
                full = len(pending) > PENDING_BATCHES
                yield [future.result() for future in pending.popleft()] if full else [], batch_s
        finally:
            self.timeline.switch(Activity.INPUT)
            self.turns.end(turn)
        while pending:
            yield [future.result() for future in pending.popleft()], 0.0

    def _sample(
        self, batch: list[PlannedImage], work: ShardWork, keeper: ImageSink
    ) -> list[Future[ImageRecord]]:
        """Sample a batch; one that fails as a whole, in smaller ones or each image alone."""
        params = batch[0].params
        size = self._size_of(batch[0])
        if len(batch) > size:  # it was cut before a smaller size was learnt
            return self._sample_in(batch, size, work, keeper)
        started_at, clock = time.time(), time.perf_counter()
        too_large = broken = ""  # words alone: a traceback holds on to what fills the memory
        try:
            sampled = self._sampled(batch, size)
        except OutOfMemory as error:
            too_large = str(error)
        except DeviceError:
            raise
        except Exception as error:  # whatever a row does to the model, it must fail alone
            broken = f"{type(error).__name__}: {error}"
        if too_large and size > 1:
            self._recorded.clear()
            return self._sample_in(batch, self._sizes.halve(params, size), work, keeper)
        if too_large:
            return [self._failed(batch[0], work, FailureType.OUT_OF_MEMORY, too_large)]
        if broken and len(batch) > 1:
            return self._sample_in(batch, 1, work, keeper)
        if broken:
            return [self._failed(batch[0], work, FailureType.SAMPLING, broken)]
        share_s = (time.perf_counter() - clock) / len(batch)
        return [
            self._pool.submit(
                self._keep, image, sampled, i, size, work, keeper, started_at, share_s
            )
            for i, image in enumerate(batch)
        ]

    def _sampled(self, batch: Sequence[PlannedImage], size: int) -> SampledBatch:
        self._sampling = True
        try:
            with self._compiling():
                return self.sampler.sample(
                    [image.request for image in batch], batch[0].params, size
                )
        finally:
            self._sampling = False

    def _compiling(self) -> AbstractContextManager[None]:
        """Where torch may compile, have the timeline say when it does."""
        if self.record.spec.model.speed.compile is None:
            return nullcontext()
        switch = self.timeline.switch
        return on_compilation(lambda: switch(Activity.COMPILING), lambda: switch(Activity.BUSY))

    def _size_of(self, image: PlannedImage) -> int:
        return self._recorded.get(image.image_id) or self._sizes.of(image.params)

    def _sample_in(
        self, images: list[PlannedImage], size: int, work: ShardWork, keeper: ImageSink
    ) -> list[Future[ImageRecord]]:
        """Sample images of equal settings, so many at a time."""
        parts = (images[start : start + size] for start in range(0, len(images), size))
        return [future for part in parts for future in self._sample(part, work, keeper)]

    def _failed(
        self, image: PlannedImage, work: ShardWork, error_type: FailureType, error: str
    ) -> Future[ImageRecord]:
        failed = self.failure(image, work.attempt, error_type, error)
        return self._pool.submit(lambda: failed)

    def _keep(
        self,
        image: PlannedImage,
        sampled: SampledBatch,
        index: int,
        batch_size: int,
        work: ShardWork,
        keeper: ImageSink,
        started_at: float,
        sampling_s: float,
    ) -> ImageRecord:
        """Encode and store one sampled image; runs in a thread."""
        fault = sampled.faults[index]
        if fault is not None:
            return self.failure(image, work.attempt, FAILURES[fault], fault.value)
        facts = image_facts(image, self.record, batch_size)
        pixels = sampled.pixels[index]  # a device that fails here ends the shard, not the image
        try:
            data = encode(pixels, facts, self.record.spec.images)
        except Exception as error:  # whatever an image does to its encoder, it must fail alone
            reason = f"{type(error).__name__}: {error}"
            return self.failure(image, work.attempt, FailureType.ENCODING, reason)
        return keeper.keep(MadeImage(image, facts, data, started_at, sampling_s))

    def failure(
        self, image: PlannedImage, attempts: int, error_type: FailureType, error: str
    ) -> ImageRecord:
        """The record of an image that cannot be made."""
        return failed_record(image, self.record, attempts, self.worker, error_type, error)


def _batch_sizes(part: pa.Table | None) -> dict[str, int]:
    """Image id -> the size of its batch, of a metadata part."""
    if part is None:
        return {}
    ids, sizes = (part.column(name).to_pylist() for name in ("image_id", "batch_size"))
    return dict(zip(ids, sizes, strict=True))


def _replaces(work: ShardWork) -> bool:
    return work.amends is not None and work.amends.replaces


def fail_shard(
    store: Store, record: RunRecord, work: ShardWork, error_type: FailureType, error: str
) -> ShardDone:
    """Commit a shard that no worker survives: what is not in the store is failed."""
    packed = record.spec.images.is_packed
    records = [
        (None if packed else adopt(store, record, image, work.attempt, "driver", time.time()))
        or failed_record(image, record, work.attempt, "driver", error_type, error)
        for image in planned_images(work.rows)
    ]
    part = metadata_part(records, work.rows)
    return shard_done(work.shard, commit_shard(store, work.shard, part))


def shard_done(shard: int, part: pa.Table) -> ShardDone:
    """The counts of a committed metadata part."""
    statuses = part.column("status").to_pylist()
    return ShardDone(shard, statuses.count("ok"), statuses.count("failed"))


def _batch_done(shard: int, records: Sequence[ImageRecord], batch_s: float = 0.0) -> BatchDone:
    return BatchDone(
        shard=shard,
        num_ok=sum(record.status == "ok" for record in records),
        num_failed=sum(record.status == "failed" for record in records),
        num_sampled=sum(record.sampling_s is not None for record in records),
        batch_s=batch_s,
    )
