"""The whole story of one shard: look, sample, encode, store, commit.

Sampling runs in the calling thread; encoding and uploading of the batches before it run in
threads beside it. Knows nothing of clusters: whoever calls it may be an actor or a test.
"""

import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import pyarrow as pa

from diffusion_core.errors import DeviceError, OutOfMemory
from diffusion_core.sampling import Fault, SampledBatch, Sampler
from pipelines.batching import PlannedImage, batches, planned_images
from pipelines.commit import (
    amend_commit,
    commit_shard,
    metadata_part,
    read_commit_if_any,
    recommit_shard,
)
from pipelines.encoding import encode
from pipelines.keeping import Attempt, Files, Keeper, MadeImage, Packs
from pipelines.lease import Fence
from pipelines.outcomes import adopt, failed_record, image_facts
from pipelines.records import FailureType, ImageRecord
from pipelines.run_record import RunRecord
from pipelines.storage import Store
from pipelines.timeline import Activity, Timeline
from pipelines.turns import Turns
from pipelines.working_sizes import WorkingSizes

PENDING_BATCHES = 2
"""Batches that may wait for their upload before sampling waits for them."""

FAILURES = {
    Fault.NON_FINITE: FailureType.NON_FINITE,
    Fault.BLANK: FailureType.BLANK,
    Fault.FLAGGED: FailureType.FLAGGED,
}


@dataclass(frozen=True)
class ShardBegun:
    """The accelerator has come to a shard."""

    shard: int


@dataclass(frozen=True)
class BatchSampled:
    """A batch of a shard is sampled, and none of it stored yet: a sign of life."""

    shard: int
    batch_s: float = field(default=0.0, compare=False)
    """Seconds that the latest batch took to sample."""


@dataclass(frozen=True)
class BatchDone:
    """Some images of a shard are stored, or have failed for good."""

    shard: int
    num_ok: int
    num_failed: int
    num_sampled: int
    """Of those that are ok; the others were found in the store."""
    batch_s: float = field(default=0.0, compare=False)
    """Seconds that the latest batch took to sample; 0 where none was."""

    def only_sampled(self) -> "BatchDone":
        """As it counts when these images will be counted again, as found."""
        return BatchDone(self.shard, 0, 0, self.num_sampled, self.batch_s)


@dataclass(frozen=True)
class ShardDone:
    """A shard is committed; the counts are those of the commit that stands."""

    shard: int
    num_ok: int
    num_failed: int


@dataclass(frozen=True)
class ShardLeft:
    """Work on a shard ended at a batch's end because it was asked to; what is made is stored."""

    shard: int


ShardEvent = ShardBegun | BatchSampled | BatchDone | ShardDone | ShardLeft
"""What is told while a shard is made."""


@dataclass(frozen=True)
class SetAside:
    """A row that is not tried any more."""

    row: int
    """Among those of its work."""
    attempts: int
    error_type: FailureType
    error: str


@dataclass(frozen=True)
class Amendment:
    """Rows of a committed shard that are made again; work on it counts among these alone."""

    rows: tuple[int, ...]
    replaces: bool = False
    """Whether the files under their names are damaged, and to be replaced."""
    recommits: bool = False
    """Whether the commit itself is damaged, and to be replaced; the rows are all of the shard's."""


@dataclass(frozen=True)
class ShardWork:
    """One attempt at one shard, or at some rows of it."""

    shard: int
    rows: pa.Table
    """Of the plan: all of the shard's."""
    attempt: int = 1
    look_first: bool = False
    """Whether an earlier attempt may have stored some of its images."""
    start: int = 0
    stop: int | None = None
    """Which of the rows to make; all of them unless told."""
    commits: bool = True
    """Whether the shard is committed at the end."""
    set_aside: tuple[SetAside, ...] = ()
    amends: Amendment | None = None


class ShardRunner:
    """Runs shards of one run with one sampler, in one process."""

    def __init__(
        self,
        store: Store,
        record: RunRecord,
        sampler: Sampler,
        worker: str,
        fence: Fence | None = None,
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
        self._sampling: int | None = None
        self.turns = Turns()
        """In which the shards that are run at once are sampled."""
        self.timeline = timeline or Timeline(worker)
        self.timeline.switch(Activity.INPUT)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="store")

    def close(self) -> None:
        """End the threads; what they have in hand is finished first."""
        self._pool.shutdown()

    def is_sampling(self, shard: int) -> bool:
        """Whether it is in the middle of a batch of a shard, seen from any thread."""
        return self._sampling == shard

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
        if turn is not None:
            yield from self._run(work, turn)
            return
        with self.turns.taken() as turn:
            yield from self._run(work, turn)

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
        self.turns.wait(turn)
        yield ShardBegun(work.shard)
        self._recorded = _batch_sizes(standing) if _replaces(work) else {}
        places = {images[n].image_id: n for n in wanted}
        trying = [images[n] for n in wanted if n not in made]
        for records, batch_s in self._make(trying, work, keeper, turn):
            made |= {places[record.facts.image_id]: record for record in records}
            done = _batch_done(work.shard, records, batch_s)
            yield done if records else BatchSampled(work.shard, batch_s)
        if len(made) < len(wanted):
            yield ShardLeft(work.shard)
        elif work.commits:
            yield self._commit({numbers[n]: made[n] for n in wanted}, work, keeper)

    def _commit(
        self, made: Mapping[int, ImageRecord], work: ShardWork, keeper: Keeper
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

    def _keeper(self, work: ShardWork, standing: pa.Table | None) -> Keeper:
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
        self, images: list[PlannedImage], work: ShardWork, keeper: Keeper, turn: int
    ) -> Iterator[tuple[list[ImageRecord], float]]:
        """Sample batch after batch, while the threads store the ones before.

        Yields after each batch what is stored by then, if anything is, and what the batch took.
        """
        pending: deque[list[Future[ImageRecord]]] = deque()
        for batch in batches(images, self._size_of, self.sampler.guides_rows):
            if self._draining.is_set():
                break
            clock = time.perf_counter()
            self.timeline.switch(Activity.BUSY)
            pending.append(self._sample(batch, work, keeper))
            self.timeline.switch(Activity.OUTPUT)
            batch_s = time.perf_counter() - clock
            full = len(pending) > PENDING_BATCHES
            yield [future.result() for future in pending.popleft()] if full else [], batch_s
        self.timeline.switch(Activity.INPUT)
        self.turns.end(turn)
        while pending:
            yield [future.result() for future in pending.popleft()], 0.0

    def _sample(
        self, batch: list[PlannedImage], work: ShardWork, keeper: Keeper
    ) -> list[Future[ImageRecord]]:
        """Sample a batch; one that fails as a whole, in smaller ones or each image alone."""
        params = batch[0].params
        size = self._size_of(batch[0])
        if len(batch) > size:  # it was cut before a smaller size was learnt
            return self._sample_in(batch, size, work, keeper)
        started_at, clock = time.time(), time.perf_counter()
        too_large = ""
        try:
            sampled = self._sampled(batch, size, work.shard)
        except OutOfMemory as error:
            too_large = str(error)  # and no more: its traceback holds on to what filled the memory
        except DeviceError:
            raise
        except Exception as error:  # whatever a row does to the model, it must fail alone
            if len(batch) > 1:
                return self._sample_in(batch, 1, work, keeper)
            reason = f"{type(error).__name__}: {error}"
            return [self._failed(batch[0], work, FailureType.SAMPLING, reason)]
        if too_large and size > 1:
            self._recorded.clear()
            return self._sample_in(batch, self._sizes.halve(params, size), work, keeper)
        if too_large:
            return [self._failed(batch[0], work, FailureType.OUT_OF_MEMORY, too_large)]
        share_s = (time.perf_counter() - clock) / len(batch)
        return [
            self._pool.submit(
                self._keep, image, sampled, i, size, work, keeper, started_at, share_s
            )
            for i, image in enumerate(batch)
        ]

    def _sampled(self, batch: Sequence[PlannedImage], size: int, shard: int) -> SampledBatch:
        self._sampling = shard
        try:
            return self.sampler.sample([image.request for image in batch], batch[0].params, size)
        finally:
            self._sampling = None

    def _size_of(self, image: PlannedImage) -> int:
        return self._recorded.get(image.image_id) or self._sizes.of(image.params)

    def _sample_in(
        self, images: list[PlannedImage], size: int, work: ShardWork, keeper: Keeper
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
        keeper: Keeper,
        started_at: float,
        sampling_s: float,
    ) -> ImageRecord:
        """Encode and store one sampled image; runs in a thread."""
        fault = sampled.faults[index]
        if fault is not None:
            return self.failure(image, work.attempt, FAILURES[fault], fault.value)
        facts = image_facts(image, self.record, batch_size)
        try:
            data = encode(sampled.pixels[index], facts, self.record.spec.images)
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
