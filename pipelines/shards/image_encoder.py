"""Encoding and scoring the images of a batch, in threads, on as many cores as the process has."""

import os
import threading
from dataclasses import replace

from nightpress.pipelines.image_files.clips.frames import first_frame, frames_sha256, is_clip
from nightpress.pipelines.image_files.content_credentials.signing_key import SigningKey
from nightpress.pipelines.records import FailureType, ImageRecord
from nightpress.pipelines.run_directory.record import RunRecord
from nightpress.pipelines.shards.attempt import Attempt, EncodedImage
from nightpress.pipelines.shards.faults import FAILURES
from nightpress.pipelines.shards.in_flight import SampledImages
from nightpress.pipelines.shards.kept_frames import encoded_frame


class ImageEncoder:
    """Turns sampled images into files in memory; several threads may share it.

    At most as many images are encoded at a time as there are cores; the threads that store
    are not counted, as they mostly wait.

    Args:
        record: of the run.
        key: signs the images, if the run has them signed.
    """

    def __init__(self, record: RunRecord, key: SigningKey | None = None) -> None:
        self._record = record
        self._encode_file = record.file_format.encoder(key)
        self._cores = threading.BoundedSemaphore(usable_cores())

    def encode(
        self, attempt: Attempt, sampled: SampledImages, index: int
    ) -> EncodedImage | ImageRecord:
        """Encode and score an image of a batch; returns its record if it fails."""
        image, fault = sampled.images[index], sampled.batch.faults[index]
        inputs = sampled.inputs.get(image.image_id, ())
        if fault is not None:
            return attempt.failed(image, FAILURES[fault], fault.value, inputs)
        facts = attempt.facts(image, sampled.batch_size, inputs)
        pixels = sampled.batch.pixels[index]  # a device error here ends the shard, not the image
        with self._cores:
            if is_clip(pixels):
                facts = replace(facts, frames_sha256=frames_sha256(pixels))
            try:
                data = self._encode_file(pixels, facts)
                frame = encoded_frame(self._record, pixels, facts)
            except Exception as error:  # whatever an image does to its encoder, it must fail alone
                reason = f"{type(error).__name__}: {error}"
                return attempt.failed(image, FailureType.ENCODING, reason, inputs)
            thumbs = None if attempt.thumbs is None else attempt.thumbs.of_pixels(pixels)
        scores = attempt.scores.of_encoded(image, data, first_frame(pixels))
        times = sampled.started_at, sampled.sampling_s
        return EncodedImage(image, facts, data, scores, *times, thumbs, frame)


def usable_cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
