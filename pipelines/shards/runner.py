"""One shard from start to finish: find what is stored, sample the rest, encode, store, commit.

Sampling runs in the calling thread. Other threads meanwhile encode the prompts of the next batch,
and copy the images of earlier batches off the device, encode them and upload them.
"""

import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain

import pyarrow as pa

from nightpress.diffusion_core.sampling.sampler import Fault, Sampler
from nightpress.pipelines.image_files.content_credentials.signing_key import SigningKey
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
from nightpress.pipelines.shards.attempt import Attempt, EncodedImage, LostText, nothing_lost
from nightpress.pipelines.shards.batch_inputs import BatchInputs
from nightpress.pipelines.shards.batch_sampler import BatchSampler, SampledImages, UnsampledImage
from nightpress.pipelines.shards.batching import PlannedImage, batches, planned_images, with_next
from nightpress.pipelines.shards.events import (
    BatchBegun,
    BatchDone,
    BatchSampled,
    ShardBegun,
    ShardDone,
    ShardEvent,
    ShardLeft,
)
from nightpress.pipelines.shards.input_history import InputHistory, InputSession, kept_rows
from nightpress.pipelines.shards.overlap import PromptPrefetcher, TicketLock
from nightpress.pipelines.shards.sinks import FileSink, ImageSink, PackSink
from nightpress.pipelines.shards.timeline import Activity, Timeline
from nightpress.pipelines.shards.work import ShardWork
from nightpress.pipelines.storage import Store

PENDING_BATCHES = 2
"""Batches that may wait for their upload before sampling waits for them."""

FAILURES = {
    Fault.NON_FINITE: FailureType.NON_FINITE,
    Fault.BLANK: FailureType.BLANK,
    Fault.FLAGGED: FailureType.FLAGGED,
}


class ShardRunner:
    """Runs the shards of one run in one process, with one sampler.

    Args:
        store, record: of the run.
        sampler: samples single batches.
        worker: the name of this process in the metadata, `host:pid`.
        fence: checked before every commit.
        threads: how many threads encode and upload.
        timeline: records what the process does; a new one by default.
        inputs: what it shares with other processes about the pictures of rows.
        key: signs the images, if the run has them signed.
    """

    def __init__(
        self,
        store: Store,
        record: RunRecord,
        sampler: Sampler,
        worker: str,
        fence: FencingToken | None = None,
        threads: int = 4,
        timeline: Timeline | None = None,
        inputs: InputSession | None = None,
        key: SigningKey | None = None,
    ) -> None:
        self.store = store
        self.record = record
        self._encode = record.file_format.encoder(key)
        self._supports_per_image_guidance = sampler.supports_per_image_guidance
        cuts = record.spec.model.prompts.long == "cut"
        self._lost: LostText = sampler.lost_text if cuts else nothing_lost
        self._worker = worker
        self._fence = fence
        self._draining = threading.Event()
        self.accelerator_lock = TicketLock()
        """Lets the shards that run side by side sample one at a time."""
        self._attempts: dict[int, int] = {}
        """Ticket -> attempt number, of the shards that are running."""
        self.timeline = timeline or Timeline(worker)
        self.timeline.switch(Activity.INPUT)
        self._batch_sampler = BatchSampler(sampler, store, record, self.timeline)
        self._prompts = PromptPrefetcher(sampler)
        self._inputs = BatchInputs(record.spec, store.url, inputs)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="store")

    def close(self) -> None:
        """Finish what the threads are doing, and end them."""
        self._prompts.close()
        self._inputs.close()
        self._pool.shutdown()

    def is_sampling(self, ticket: int) -> bool:
        """Whether the shard with this ticket is sampling a batch; called from any thread."""
        return self._batch_sampler.is_sampling and self.accelerator_lock.serving == ticket

    def drain(self) -> None:
        """Make `run` stop after the current batch; called from any thread."""
        self._draining.set()

    def run(
        self, work: ShardWork, rows: pa.Table, ticket: int | None = None
    ) -> Iterator[ShardEvent]:
        """Make the missing images of a shard, then commit it.

        May run in several threads at once: shards are read and stored side by side, and sampled one
        after the other in the order of their tickets.

        Args:
            work: which rows to make, and how.
            rows: the plan's rows, all of the shard.
            ticket: a ticket of `accelerator_lock` that the caller holds; by default the next one.

        Raises:
            StoreError: the store failed for longer than its retries; nothing is committed.
            LeaseLost: another process has taken over the run; nothing is committed.
            DeviceError: the accelerator failed; this process should not be given more shards.
        """
        if ticket is None:
            with self.accelerator_lock.ticket() as next_ticket:
                yield from self.run(work, rows, next_ticket)
            return
        self._attempts[ticket] = work.attempt
        try:
            yield from self._run(work, rows, ticket)
        finally:
            del self._attempts[ticket]

    def _run(self, work: ShardWork, rows: pa.Table, ticket: int) -> Iterator[ShardEvent]:
        committed = None if work.recommits else read_commit_if_any(self.store, work.shard)
        if committed is not None and work.amends is None:
            yield ShardDone.of(work.shard, committed)
            return
        row_numbers = range(len(rows)) if work.amends is None else work.amends.rows
        images = planned_images(rows.take(list(row_numbers)))
        wanted = work.rows
        attempt = Attempt(self.store, self.record, work, self._worker, self._fence, self._lost)
        sink = self._sink(attempt, committed)
        made = _known_records(attempt, sink, {n: images[n] for n in wanted})
        if made:
            yield BatchDone.of(work.shard, list(made.values()))
        missing = Missing(
            [images[n] for n in wanted if n not in made],
            self._inputs.history(made.values(), committed),
        )
        try:
            if not work.names_batches:
                self._prefetch_first_batch(missing, ticket)
            self.accelerator_lock.wait(ticket)
            yield ShardBegun(work.shard)
            self._batch_sampler.begin_shard(_batch_sizes(committed) if work.replaces else {})
            positions = {images[n].image_id: n for n in wanted}
            for step in self._make_images(missing, attempt, sink, ticket):
                if isinstance(step, InHand):
                    yield BatchBegun(work.shard, tuple(positions[each] for each in step.ids))
                    continue
                records, batch_s = step
                made |= {positions[record.facts.image_id]: record for record in records}
                done = BatchDone.of(work.shard, records, batch_s)
                yield done if records else BatchSampled(work.shard, batch_s)
        finally:  # what was prefetched and not taken
            self._inputs.drop(missing.images)
        if len(made) < len(wanted):
            yield ShardLeft(work.shard)
        elif work.commits:
            final = {row_numbers[n]: made[n] for n in wanted}
            kept = kept_rows(final, committed) if work.amends is not None else {}
            yield self._commit(final, attempt, sink, rows, kept)

    def _sink(self, attempt: Attempt, committed: pa.Table | None) -> ImageSink:
        if (packing := self.record.spec.images.packing) == "none":
            return FileSink(attempt, self._pool)
        return PackSink(attempt, packing, committed)

    def _prefetch_first_batch(self, missing: "Missing", ticket: int) -> None:
        """Prepare prompts and pictures of a first batch while another shard is being sampled.

        Only if every shard from that one to this is at its first attempt. A prompt or picture that
        ends the process is blamed on the shard being sampled: an innocent shard can bear that once,
        but not when it is retried, perhaps row by row.
        """
        attempts = dict(self._attempts)
        earlier = range(self.accelerator_lock.serving, ticket)
        if all(number in attempts for number in earlier) and set(attempts.values()) == {1}:
            size = self._batch_sampler.planned_size
            cut = batches(missing.images, size, self._supports_per_image_guidance)
            first = next(cut, [])
            self._prompts.prefetch(first)
            self._inputs.prefetch(first, missing.history)

    def _make_images(
        self, missing: "Missing", attempt: Attempt, sink: ImageSink, ticket: int
    ) -> Iterator["tuple[list[ImageRecord], float] | InHand"]:
        """Sample batch after batch, while the threads store the earlier ones.

        Yields after each batch the records that are complete by then, if any, and the seconds that
        the batch took to sample; before each batch its images, if the work names its batches.
        """

        def submit(outcome: SampledImages | UnsampledImage) -> list[Future[ImageRecord]]:
            return self._submit(outcome, attempt, sink)

        pending, names = deque[list[Future[ImageRecord]]](), attempt.work.names_batches
        try:
            for batch, following in with_next(self._cut(missing, attempt.work)):
                if self._draining.is_set():
                    break
                if names:  # what ends the process from now on is this batch
                    yield InHand([image.image_id for image in batch])
                ahead = [] if names else following
                self._inputs.prefetch(batch, missing.history)
                self._prompts.prefetch(ahead)
                outcomes = self._outcomes(batch)
                if outcomes is None:
                    break
                self._inputs.prefetch(ahead, missing.history)
                clock = time.perf_counter()
                self.timeline.switch(Activity.BUSY)
                # map, unlike a loop variable, does not keep pixels alive while more are sampled.
                pending.append(list(chain.from_iterable(map(submit, outcomes))))
                self.timeline.switch(Activity.OUTPUT)
                batch_s = time.perf_counter() - clock
                full = len(pending) > PENDING_BATCHES
                yield [future.result() for future in pending.popleft()] if full else [], batch_s
        finally:
            self.timeline.switch(Activity.INPUT)
            self.accelerator_lock.release(ticket)
        while pending:
            yield [future.result() for future in pending.popleft()], 0.0

    def _cut(self, missing: "Missing", work: ShardWork) -> Iterator[list[PlannedImage]]:
        size = self._batch_sampler.size_for
        for batch in batches(missing.images, size, self._supports_per_image_guidance):
            yield from [[image] for image in batch] if work.singly else [batch]

    def _outcomes(
        self, batch: list[PlannedImage]
    ) -> Iterator[SampledImages | UnsampledImage] | None:
        """Wait for the pictures of a batch; returns what samples it, None if it is drained."""
        if not self._inputs.are_ready(batch):
            self.timeline.switch(Activity.INPUT)
        pictures = self._inputs.take(batch, self._draining.is_set)
        if pictures is None:
            return None
        usable = without(batch, pictures.failed)
        return chain(pictures.failed, self._batch_sampler.sample(usable, pictures.prepared))

    def _submit(
        self, outcome: SampledImages | UnsampledImage, attempt: Attempt, sink: ImageSink
    ) -> list[Future[ImageRecord]]:
        """Have the threads encode and store what was sampled."""
        if isinstance(outcome, UnsampledImage):
            failure = outcome.image, outcome.error_type, outcome.error, outcome.inputs
            return [self._pool.submit(attempt.failed, *failure)]
        return [
            self._pool.submit(self._encode_and_store, outcome, index, attempt, sink)
            for index in range(len(outcome.images))
        ]

    def _encode_and_store(
        self, sampled: SampledImages, index: int, attempt: Attempt, sink: ImageSink
    ) -> ImageRecord:
        image, fault = sampled.images[index], sampled.batch.faults[index]
        inputs = sampled.inputs.get(image.image_id, ())
        if fault is not None:
            return attempt.failed(image, FAILURES[fault], fault.value, inputs)
        facts = attempt.facts(image, sampled.batch_size, inputs)
        pixels = sampled.batch.pixels[index]  # a device error here ends the shard, not the image
        try:
            data = self._encode(pixels, facts)
        except Exception as error:  # whatever an image does to its encoder, it must fail alone
            reason = f"{type(error).__name__}: {error}"
            return attempt.failed(image, FailureType.ENCODING, reason, inputs)
        return sink.store(EncodedImage(image, facts, data, sampled.started_at, sampled.sampling_s))

    def _commit(
        self,
        made: Mapping[int, ImageRecord],
        attempt: Attempt,
        sink: ImageSink,
        rows: pa.Table,
        kept: Mapping[int, ImageRecord],
    ) -> ShardDone:
        """Commit or amend a shard; `kept` holds those of its records that are not to be kept."""
        shard, amends = attempt.work.shard, attempt.work.amends
        is_new_pack = self.record.spec.images.is_packed and amends is None
        # If another attempt was faster, a second pack would be an orphan.
        if is_new_pack and (committed := read_commit_if_any(self.store, shard)) is not None:
            return ShardDone.of(shard, committed)
        records = sink.flush(made, rows)
        if self._fence is not None:
            self._fence.require(self.store)
        if amends is not None and not amends.recommits:
            changed = {row: record for row, record in records.items() if row not in kept}
            part = amend_commit(self.store, shard, changed, self._fence)
            done = ShardDone.of(shard, part.take(list(amends.rows)))
            if not kept:
                return done
            errors = [str(record.error) for record in kept.values()]
            return done.with_unmade(errors, ShardDone.of(shard, part.take(list(kept))).num_ok)
        part = metadata_part(list(records.values()), rows)
        if amends is None:
            part = commit_shard(self.store, shard, part)
        else:
            recommit_shard(self.store, shard, part, self._fence)
        return ShardDone.of(shard, part)


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


def _known_records(
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


def _batch_sizes(part: pa.Table | None) -> dict[str, int]:
    """Image id -> the size of its batch, in a metadata part."""
    if part is None:
        return {}
    ids, sizes = (part.column(name).to_pylist() for name in ("image_id", "batch_size"))
    return dict(zip(ids, sizes, strict=True))


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
    attempt = Attempt(store, record, work, worker="driver")
    packed = record.spec.images.is_packed
    records = [
        (None if packed else attempt.adopt_file(image, time.time()))
        or attempt.failed(image, error_type, error)
        for image in planned_images(rows)
    ]
    part = metadata_part(records, rows)
    return ShardDone.of(work.shard, commit_shard(store, work.shard, part))
