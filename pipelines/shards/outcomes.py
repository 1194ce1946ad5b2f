"""What becomes of a planned image, as the record of it: stored, found, or failed."""

import hashlib
import time

import numpy as np

from nightpress.pipelines.image_files.encoding import is_whole, read_facts, without_digest
from nightpress.pipelines.records import FailureType, ImageFacts, ImageRecord
from nightpress.pipelines.run_directory.record import RunRecord
from nightpress.pipelines.shards.batching import PlannedImage
from nightpress.pipelines.storage import Store

MOSTLY = 0.9
"""The share of bytes by which a damaged file is known for a copy of another."""


def adopt(
    store: Store,
    record: RunRecord,
    image: PlannedImage,
    attempts: int,
    worker: str,
    started_at: float,
) -> ImageRecord | None:
    """The record of an image that lies in the store already, if it is this very one."""
    data = store.read_if_any(image.file)
    if data is None:
        return None
    return record_of_stored(data, record, image, attempts, worker, started_at)


def record_of_stored(
    data: bytes,
    record: RunRecord,
    image: PlannedImage,
    attempts: int,
    worker: str,
    started_at: float,
) -> ImageRecord | None:
    """The record of an image by its bytes, if they are whole and this very one's."""
    facts = read_facts(data) if is_whole(data) else None
    if facts is None or not 1 <= facts.batch_size <= record.batch_size:
        return None
    # A batch that did not fit was made smaller; all else is as planned.
    if facts != image_facts(image, record, facts.batch_size):
        return None
    return stored_record(image, facts, data, attempts, worker, started_at, None)


def is_damaged_copy(found: bytes, image: bytes) -> bool:
    """Whether bytes are what a power cut or a failing disk leaves of an image file.

    They do not prove to be whole, are no longer than this one, and nearly all as they should be.
    The file as older versions wrote it, which could prove nothing, counts as well.
    """
    if is_whole(found):
        return False
    return any(_is_mostly(found, wanted) for wanted in (image, without_digest(image)))


def _is_mostly(found: bytes, image: bytes) -> bool:
    if len(found) > len(image):
        return False
    there, wanted = (np.frombuffer(data, np.uint8) for data in (found, image[: len(found)]))
    return bool(np.count_nonzero(there == wanted) >= MOSTLY * len(found))


def stored_record(
    image: PlannedImage,
    facts: ImageFacts,
    data: bytes,
    attempts: int,
    worker: str,
    started_at: float,
    sampling_s: float | None,
) -> ImageRecord:
    """An `ok` row, for the bytes that lie in the store."""
    return ImageRecord(
        facts=facts,
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
    error_type: FailureType,
    error: str,
) -> ImageRecord:
    """A `failed` row: typed, in one line of at most 500 characters."""
    return ImageRecord(
        facts=image_facts(image, record, record.batch_size),
        status="failed",
        attempts=attempts,
        worker=worker,
        started_at=time.time(),
        error_type=error_type,
        error=" ".join(error.split())[:500],
    )


def image_facts(image: PlannedImage, record: RunRecord, batch_size: int) -> ImageFacts:
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
        batch_size=batch_size,
        loras=record.model.loras_of(image.lora, image.lora_scale),
        speed=record.spec.model.speed.as_text(),
    )
