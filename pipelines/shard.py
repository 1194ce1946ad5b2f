"""The whole story of one shard: look, sample, encode, store, commit.

Sampling runs in the calling thread; encoding and uploading of the batches before it run in
threads beside it. Knows nothing of clusters: whoever calls it may be an actor or a test.
"""

import hashlib
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from diffusion_core.errors import DeviceError
from diffusion_core.sampling import SampledBatch, Sampler
from pipelines.batching import PlannedImage, batches, planned_images
from pipelines.commit import commit_shard, metadata_part
from pipelines.encoding import encode, read_facts
from pipelines.errors import StoreError, StoreMissing
from pipelines.records import ImageFacts, ImageRecord
from pipelines.run_record import RunRecord
from pipelines.storage import Store

PENDING_BATCHES = 2
"""Batches that may wait for their upload before sampling waits for them."""


@dataclass(frozen=True)
class BatchDone:
    """Some images of a shard are stored, or have failed for good."""

    shard: int
    num_ok: int
    num_failed: int
    num_sampled: int
    """Of those that are ok; the others were found in the store."""


@dataclass(frozen=True)
class ShardDone:
    """A shard is committed; the counts are those of the commit that stands."""

    shard: int
    num_ok: int
    num_failed: int


@dataclass(frozen=True)
class ShardWork:
    """One attempt at one shard."""

    shard: int
    rows: pa.Table
    attempt: int = 1
    look_first: bool = False
    """Whether an earlier attempt may have stored some of its images."""


class ShardRunner:
    """Runs shards of one run with one sampler, in one process."""

    def __init__(
        self, store: Store, record: RunRecord, sampler: Sampler, worker: str, threads: int = 4
    ) -> None:
        self.store = store
        self.record = record
        self.sampler = sampler
        self.worker = worker
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="store")

    def close(self) -> None:
        """End the threads; what they have in hand is finished first."""
        self._pool.shutdown()

    def run(self, work: ShardWork) -> Iterator[BatchDone | ShardDone]:
        """Make a shard's missing images, then commit it.

        Raises:
            StoreError: the store failed for longer than its retries; nothing is committed.
            DeviceError: the accelerator failed; this process should make no more shards.
        """
        images = planned_images(work.rows)
        done = {record.facts.image_id: record for record in self._found(images, work)}
        if done:
            yield _batch_done(work.shard, list(done.values()))
        missing = [image for image in images if image.image_id not in done]
        for records in self._make(missing, work):
            done |= {record.facts.image_id: record for record in records}
            yield _batch_done(work.shard, records)
        part = metadata_part([done[image.image_id] for image in images], work.rows)
        yield shard_done(work.shard, commit_shard(self.store, work.shard, part))

    def _found(self, images: Sequence[PlannedImage], work: ShardWork) -> list[ImageRecord]:
        """What an earlier attempt has stored; nothing of its first batch means nothing at all."""
        if not work.look_first:
            return []
        first, rest = images[: self.record.batch_size], images[self.record.batch_size :]
        found = self._adopt_all(first, work)
        return found + self._adopt_all(rest, work) if found else found

    def _adopt_all(self, images: Sequence[PlannedImage], work: ShardWork) -> list[ImageRecord]:
        adopted = self._pool.map(lambda image: self._adopt(image, work, time.time()), images)
        return [record for record in adopted if record is not None]

    def _make(self, images: list[PlannedImage], work: ShardWork) -> Iterator[list[ImageRecord]]:
        """Sample batch after batch, while the threads store the ones before."""
        pending: deque[list[Future[ImageRecord]]] = deque()
        for batch in batches(images, self.record.batch_size):
            pending.append(self._sample(batch, work))
            if len(pending) > PENDING_BATCHES:
                yield [future.result() for future in pending.popleft()]
        while pending:
            yield [future.result() for future in pending.popleft()]

    def _sample(self, batch: list[PlannedImage], work: ShardWork) -> list[Future[ImageRecord]]:
        """Sample a batch; if it fails as a whole, each of its images on its own."""
        started_at, clock = time.time(), time.perf_counter()
        try:
            sampled = self.sampler.sample([image.request for image in batch], batch[0].params)
        except DeviceError:
            raise
        except Exception as error:  # whatever a row does to the model, it must fail alone
            if len(batch) > 1:
                return [future for image in batch for future in self._sample([image], work)]
            failed = self.failure(batch[0], work.attempt, type(error).__name__, str(error))
            return [self._pool.submit(lambda: failed)]
        share_s = (time.perf_counter() - clock) / len(batch)
        return [
            self._pool.submit(self._keep, image, sampled, i, work, started_at, share_s)
            for i, image in enumerate(batch)
        ]

    def _keep(
        self,
        image: PlannedImage,
        sampled: SampledBatch,
        index: int,
        work: ShardWork,
        started_at: float,
        sampling_s: float,
    ) -> ImageRecord:
        """Encode and store one sampled image; runs in a thread."""
        fault = sampled.faults[index]
        if fault is not None:
            return self.failure(image, work.attempt, "BadImage", fault)
        try:
            return self._store(image, sampled.pixels[index], work, started_at, sampling_s)
        except StoreError:
            raise
        except Exception as error:  # whatever an image does to its encoder, it must fail alone
            return self.failure(image, work.attempt, type(error).__name__, str(error))

    def _store(
        self,
        image: PlannedImage,
        pixels: np.ndarray,
        work: ShardWork,
        started_at: float,
        sampling_s: float,
    ) -> ImageRecord:
        """Create the image under its name, or adopt what has the name if it is this image."""
        data = encode(pixels, image_facts(image, self.record), self.record.spec.images)
        if self.store.create(image.file, data):
            return stored_record(
                image, self.record, data, work.attempt, self.worker, started_at, sampling_s
            )
        taken = f"{image.file} is there and is not this image"
        return self._adopt(image, work, started_at) or self.failure(
            image, work.attempt, "NameTaken", taken
        )

    def _adopt(self, image: PlannedImage, work: ShardWork, started_at: float) -> ImageRecord | None:
        return adopt(self.store, self.record, image, work.attempt, self.worker, started_at)

    def failure(
        self, image: PlannedImage, attempts: int, error_type: str, error: str
    ) -> ImageRecord:
        """The record of an image that cannot be made."""
        return failed_record(image, self.record, attempts, self.worker, error_type, error)


def adopt(
    store: Store,
    record: RunRecord,
    image: PlannedImage,
    attempts: int,
    worker: str,
    started_at: float,
) -> ImageRecord | None:
    """The record of an image that lies in the store already, if it is this very one."""
    try:
        data = store.read(image.file)
    except StoreMissing:
        return None
    if read_facts(data) != image_facts(image, record):
        return None
    return stored_record(image, record, data, attempts, worker, started_at, None)


def fail_shard(
    store: Store, record: RunRecord, work: ShardWork, error_type: str, error: str
) -> ShardDone:
    """Commit a shard that no worker survives: what is not in the store is failed."""
    records = [
        adopt(store, record, image, work.attempt, "driver", time.time())
        or failed_record(image, record, work.attempt, "driver", error_type, error)
        for image in planned_images(work.rows)
    ]
    part = metadata_part(records, work.rows)
    return shard_done(work.shard, commit_shard(store, work.shard, part))


def stored_record(
    image: PlannedImage,
    record: RunRecord,
    data: bytes,
    attempts: int,
    worker: str,
    started_at: float,
    sampling_s: float | None,
) -> ImageRecord:
    """An `ok` row, for the bytes that lie in the store."""
    return ImageRecord(
        facts=image_facts(image, record),
        status="ok",
        attempts=attempts,
        worker=worker,
        started_at=started_at,
        file=image.file,
        sha256=hashlib.sha256(data).hexdigest(),
        num_bytes=len(data),
        sampling_s=sampling_s,
    )


def failed_record(
    image: PlannedImage,
    record: RunRecord,
    attempts: int,
    worker: str,
    error_type: str,
    error: str,
) -> ImageRecord:
    """A `failed` row: typed, in one line of at most 500 characters."""
    return ImageRecord(
        facts=image_facts(image, record),
        status="failed",
        attempts=attempts,
        worker=worker,
        started_at=time.time(),
        error_type=error_type,
        error=" ".join(error.split())[:500],
    )


def image_facts(image: PlannedImage, record: RunRecord) -> ImageFacts:
    """What goes into the image file and its metadata row."""
    return ImageFacts(
        image_id=image.image_id,
        id=image.id,
        variant=image.variant,
        prompt=image.prompt,
        negative_prompt=image.negative_prompt,
        seed=image.seed,
        width=image.width,
        height=image.height,
        num_inference_steps=image.num_inference_steps,
        guidance_scale=image.guidance_scale,
        scheduler=image.scheduler,
        model=record.model.source,
        model_fingerprint=record.model.fingerprint,
        dtype=record.dtype,
        batch_size=record.batch_size,
        loras=record.model.loras,
    )


def shard_done(shard: int, part: pa.Table) -> ShardDone:
    """The counts of a committed metadata part."""
    statuses = part.column("status").to_pylist()
    return ShardDone(shard, statuses.count("ok"), statuses.count("failed"))


def _batch_done(shard: int, records: Sequence[ImageRecord]) -> BatchDone:
    return BatchDone(
        shard=shard,
        num_ok=sum(record.status == "ok" for record in records),
        num_failed=sum(record.status == "failed" for record in records),
        num_sampled=sum(record.sampling_s is not None for record in records),
    )
