"""One shard from start to finish: find what is stored, sample the rest, encode, store, commit.

Sampling runs in the calling thread. Other threads meanwhile encode the prompts of the next batch,
and copy the images of earlier batches off the device, encode them and upload them.
"""

import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain

import pyarrow as pa

from nightpress.diffusion_core.sampling.sampler import Sampler
from nightpress.pipelines.image_files.content_credentials.signing_key import SigningKey
from nightpress.pipelines.records import ImageRecord
from nightpress.pipelines.run_directory.commit import read_commit_if_any
from nightpress.pipelines.run_directory.lease import FencingToken
from nightpress.pipelines.run_directory.record import RunRecord
from nightpress.pipelines.scoring.image_scorer import NO_SCORERS, ImageScorer
from nightpress.pipelines.scoring.scorer import LoadedScorer
from nightpress.pipelines.shards.attempt import (
    Attempt,
    LostText,
    NamedEmbeddings,
    none_named,
    nothing_lost,
)
from nightpress.pipelines.shards.batch_inputs import BatchInputs
from nightpress.pipelines.shards.batch_sampler import BatchSampler
from nightpress.pipelines.shards.batching import (
    PlannedImage,
    batches,
    counted,
    planned_images,
)
from nightpress.pipelines.shards.committed_draws import as_committed, with_committed_draws
from nightpress.pipelines.shards.committing import commit_work
from nightpress.pipelines.shards.events import (
    BatchBegun,
    BatchDone,
    BatchSampled,
    ShardBegun,
    ShardDone,
    ShardEvent,
    ShardLeft,
)
from nightpress.pipelines.shards.gated_draws import GatedDraws
from nightpress.pipelines.shards.image_encoder import ImageEncoder
from nightpress.pipelines.shards.image_source import ImageSource, PlannedImages, settled
from nightpress.pipelines.shards.in_flight import Outcome
from nightpress.pipelines.shards.input_history import InputSession
from nightpress.pipelines.shards.missing import InHand, Missing, batch_sizes, without
from nightpress.pipelines.shards.overlap import PromptPrefetcher, TicketLock
from nightpress.pipelines.shards.shard_scores import ShardScores
from nightpress.pipelines.shards.shard_thumbs import ShardThumbs
from nightpress.pipelines.shards.sinks import FileSink, ImageSink, PackSink
from nightpress.pipelines.shards.timeline import Activity, Timeline
from nightpress.pipelines.shards.work import ShardWork
from nightpress.pipelines.storage import Store

MAX_THREADS = 32
"""Threads that encode and store. One is started when an image finds all others at work, so they
are as many as the rate asks for: images/s times the seconds from pixels to a stored image."""

SCORING_HANG_S = 300.0
"""How long one scorer may take for one image before its process counts as hung."""


class ShardRunner:
    """Runs the shards of one run in one process, with one sampler.

    Args:
        store, record: of the run.
        sampler: samples single batches.
        worker: the name of this process in the metadata, `host:pid`.
        fence: checked before every commit.
        threads: the most threads that encode and upload.
        timeline: records what the process does; a new one by default.
        inputs: what it shares with other processes about the pictures of rows.
        scorers: name in the job -> scorer.
        key: signs the images, if the run has them signed.
        lock: lets the shards that run side by side sample one at a time; a new one by default.
    """

    def __init__(
        self,
        store: Store,
        record: RunRecord,
        sampler: Sampler,
        worker: str,
        fence: FencingToken | None = None,
        threads: int = MAX_THREADS,
        timeline: Timeline | None = None,
        inputs: InputSession | None = None,
        scorers: Mapping[str, LoadedScorer] = NO_SCORERS,
        key: SigningKey | None = None,
        lock: TicketLock | None = None,
    ) -> None:
        if record.models:
            raise ValueError("a runner makes the shards of one model; see RunRecord.of_model")
        self.store = store
        self.record = record
        self._encoder = ImageEncoder(record, key)
        self._supports_per_image_guidance = sampler.supports_per_image_guidance
        cuts = record.spec.model.prompts.long == "cut"
        self._lost: LostText = sampler.lost_text if cuts else nothing_lost
        self._counts_chunks = record.spec.model.prompts.reads_chunks
        self._sampler, self._worker = sampler, worker
        self._named: NamedEmbeddings = (
            sampler.embeddings_in if record.spec.model.embeddings else none_named
        )
        self._fence = fence
        self._draining = threading.Event()
        self.accelerator_lock = lock or TicketLock()
        self._works: dict[int, ShardWork] = {}
        """Ticket -> what is made, of the shards that are running."""
        self.timeline = timeline or Timeline(worker)
        self.timeline.switch(Activity.INPUT)
        self._batch_sampler = BatchSampler(sampler, store, record, self.timeline)
        self._prompts = PromptPrefetcher(sampler)
        self._inputs = BatchInputs(record.spec, store.url, inputs)
        self._scorer = ImageScorer(scorers, self.timeline.note_scoring)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="store")

    def close(self) -> None:
        """Finish what the threads are doing, and end them."""
        self._prompts.close()
        self._inputs.close()
        self._pool.shutdown()
        self._scorer.close()

    def is_stuck(self, ticket: int, scoring_limit_s: float | None = None) -> bool:
        """Whether a silent shard hangs rather than waits; called from any thread.

        It does if it is sampling a batch, or if a scorer is at one image for too long. Scoring many
        images one after the other is no hang, however long that takes.

        Args:
            ticket: of the shard.
            scoring_limit_s: how long a scorer may take for one image; `SCORING_HANG_S` if None.
        """
        limit_s = SCORING_HANG_S if scoring_limit_s is None else scoring_limit_s
        if self._scorer.busy_s > limit_s:
            return True
        return self._batch_sampler.is_sampling(ticket)

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
        self._works[ticket] = work
        try:
            yield from self._run(work, rows, ticket)
        finally:
            del self._works[ticket]

    def _run(self, work: ShardWork, rows: pa.Table, ticket: int) -> Iterator[ShardEvent]:
        committed = None if work.recommits else read_commit_if_any(self.store, work.shard)
        if committed is not None and work.amends is None:
            yield ShardDone.of(work.shard, committed)
            return
        row_numbers = range(len(rows)) if work.amends is None else work.amends.rows
        original = committed if work.replaces else None
        images = as_committed(self._planned(rows.take(list(row_numbers))), row_numbers, original)
        wanted = work.rows
        attempt = self._attempt(work, rows, [images[n].image_id for n in wanted])
        source = self._source(attempt, sink := self._sink(attempt, committed))
        made = source.known({n: images[n] for n in wanted})
        yield from source.judged()
        if made:
            yield BatchDone.of(work.shard, list(made.values()), notes=self._scorer.take_notes())
        history = self._inputs.history(made.values(), committed)
        missing = Missing([images[n] for n in wanted if n not in made], history)
        try:
            if not work.names_batches:
                self._prefetch_first_batch(missing, ticket)
            self.accelerator_lock.wait(ticket)
            self._batch_sampler.begin_shard(ticket, batch_sizes(original), work.shard)
            yield ShardBegun(work.shard)
            positions = {images[n].image_id: n for n in wanted}
            for step in self._make_images(missing, attempt, source, ticket):
                yield from source.judged()
                yield from self._batch_sampler.take_splits()
                if isinstance(step, InHand):
                    yield BatchBegun(work.shard, tuple(positions[each] for each in step.ids))
                    continue
                records, batch_s = step
                made |= {positions[record.facts.image_id]: record for record in records}
                yield self._sign_of_life(work.shard, records, batch_s)
        finally:  # what was prefetched and not taken
            self._inputs.drop(missing.images)
        if len(made) < len(wanted):
            yield ShardLeft(work.shard)
        elif work.commits:
            final = with_committed_draws({row_numbers[n]: made[n] for n in wanted}, original)
            yield commit_work(attempt, sink, final, rows, committed)

    def _planned(self, rows: pa.Table) -> list[PlannedImage]:
        images = planned_images(rows)
        return counted(images, self._sampler.num_chunks) if self._counts_chunks else images

    def _sign_of_life(
        self, shard: int, records: list[ImageRecord], batch_s: float
    ) -> BatchDone | BatchSampled:
        """What is told of a batch: the images that are done by then, or only its times."""
        scoring_s = self._scorer.take_worked_s()
        if not records:
            return BatchSampled(shard, batch_s, scoring_s)
        return BatchDone.of(shard, records, batch_s, self._scorer.take_notes(), scoring_s)

    def _attempt(self, work: ShardWork, rows: pa.Table, image_ids: Sequence[str]) -> Attempt:
        scores = ShardScores(self._scorer, self.record.spec.images, rows)
        worker, fence, lost = self._worker, self._fence, self._lost
        makes_thumbs = self.record.spec.review.thumbs and work.commits
        thumbs = ShardThumbs(self.store, work.shard, image_ids) if makes_thumbs else None
        return Attempt(
            self.store, self.record, work, worker, scores, fence, lost, self._named, thumbs
        )

    def _sink(self, attempt: Attempt, committed: pa.Table | None) -> ImageSink:
        if (packing := self.record.spec.images.packing) == "none":
            return FileSink(attempt, self._pool)
        return PackSink(attempt, packing, committed)

    def _source(self, attempt: Attempt, sink: ImageSink) -> ImageSource:
        """What hands the images of an attempt out; a damaged one is made again without gates."""
        encode, gates = partial(self._encoder.encode, attempt), self.record.spec.gates
        if gates is None or attempt.work.replaces:
            return PlannedImages(attempt, sink, encode, self._pool)
        return GatedDraws(attempt, sink, encode, self._pool, gates)

    def _prefetch_first_batch(self, missing: Missing, ticket: int) -> None:
        """Prepare prompts and pictures of a first batch while another shard is being sampled.

        Only if every shard is at its first attempt. A prompt or picture that ends the process is
        blamed on the shard being sampled: an innocent shard can bear that once, but not when it is
        retried, perhaps row by row.
        """
        if self._are_first_attempts(range(self.accelerator_lock.serving, ticket + 1)):
            size = self._batch_sampler.planned_size
            cut = batches(missing.images, size, self._supports_per_image_guidance)
            first = next(cut, [])
            self._prompts.prefetch(first)
            self._prepare_pictures(first, missing)

    def _are_first_attempts(self, tickets: Iterable[int]) -> bool:
        """Whether these shards are running, and all that are running are at their first attempt."""
        running = dict(self._works)
        first = all(work.is_first_attempt for work in running.values())
        return first and running.keys() >= set(tickets)

    def _leaves_last_batch(self, ticket: int) -> bool:
        """Whether the next shard begins while the device is at work on the last batch of this one.

        Only if it waits already: one that is still reading may turn out to be committed, and would
        never settle that batch. And only under the conditions of `_prefetch_first_batch`: what ends
        the process then is blamed on the next shard.
        """
        waits = self.accelerator_lock.is_awaited_by(ticket + 1)
        return waits and self._are_first_attempts((ticket, ticket + 1))

    def _make_images(
        self, missing: Missing, attempt: Attempt, source: ImageSource, ticket: int
    ) -> Iterator[tuple[list[ImageRecord], float] | InHand]:
        """Sample batch after batch, while the threads store the earlier ones.

        Yields after each batch the records that are complete by then, if any, and the seconds that
        the batch took to sample; before each batch its images, if the work names its batches.
        """
        names = attempt.work.names_batches
        try:
            source.begin(self._batch_sampler.size_for, self._supports_per_image_guidance)
            while not (source.is_finished or self._draining.is_set()):
                batch = source.next_batch()
                if not batch:  # which one it is depends on those that are not settled
                    self._batch_sampler.settle()
                    yield source.settle(), 0.0
                    continue
                if names:  # what ends the process from now on is this batch
                    yield InHand(list(dict.fromkeys(image.image_id for image in batch)))
                ahead = [] if names else source.coming()
                batch_s = self._sample_next(batch, ahead, missing, source, ticket)
                if batch_s is None:
                    break
                yield settled(source), batch_s
            if self._leaves_last_batch(ticket):
                self._batch_sampler.leave()
            else:
                self._batch_sampler.settle()
        finally:
            self._end_turn(ticket)
        while source.num_pending:
            yield source.settle(), 0.0
        if records := source.finish():
            yield records, 0.0

    def _end_turn(self, ticket: int) -> None:
        """Let the next shard sample."""
        try:
            self._batch_sampler.drop()
        finally:
            is_busy = self._batch_sampler.has_batch_in_flight
            self.timeline.switch(Activity.BUSY if is_busy else Activity.INPUT)
            self.accelerator_lock.release(ticket)

    def _sample_next(
        self,
        batch: list[PlannedImage],
        ahead: list[PlannedImage],
        missing: Missing,
        source: ImageSource,
        ticket: int,
    ) -> float | None:
        """Sample a batch, and prepare the one after it, if that may be prepared.

        Returns:
            The seconds until the device was done with the batch before, or with this one if nothing
            is queued behind it; 0 if there is neither. None if it was drained, and not sampled.
        """
        self._inputs.prefetch(batch, missing.history)
        self._prompts.prefetch(ahead)
        outcomes = self._outcomes(batch)
        if outcomes is None:
            return None
        self._prepare_pictures(ahead, missing)
        clock, num_settled = time.perf_counter(), self._batch_sampler.num_settled
        self.timeline.switch(Activity.BUSY)
        source.take(outcomes)
        if not (ahead or (source.is_finished and self._leaves_last_batch(ticket))):
            self._batch_sampler.settle()  # nothing will be queued right behind it
        self.timeline.switch(Activity.OUTPUT)
        seconds = time.perf_counter() - clock
        only_queued = self._batch_sampler.has_batch_in_flight
        return 0.0 if only_queued and self._batch_sampler.num_settled == num_settled else seconds

    def _prepare_pictures(self, images: list[PlannedImage], missing: Missing) -> None:
        """Start to read the pictures of a later batch, and then to join them for its upload."""
        self._inputs.prefetch(images, missing.history)
        self._inputs.follow(images, partial(self._batch_sampler.join_pictures, images))

    def _outcomes(self, batch: list[PlannedImage]) -> Iterator[Outcome] | None:
        """Wait for the pictures of a batch; returns what samples it, None if it is drained."""
        if not self._inputs.are_ready(batch):
            self._batch_sampler.settle_left()  # the shard before must not wait for these pictures
            self.timeline.switch(Activity.INPUT)
        pictures = self._inputs.take(batch, self._draining.is_set)
        if pictures is None:
            return None
        usable = without(batch, pictures.failed)
        return chain(pictures.failed, self._batch_sampler.sample(usable, pictures.prepared))
