"""One attempt at a shard by one worker, and the record it makes of each image."""

import hashlib
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from nightpress.pipelines.image_files.encoding import read_facts
from nightpress.pipelines.inputs.preparing import input_info
from nightpress.pipelines.records import FailureType, ImageFacts, ImageRecord, InputInfo
from nightpress.pipelines.run_directory.lease import FencingToken
from nightpress.pipelines.run_directory.record import RunRecord
from nightpress.pipelines.scoring.draws import draw_of_seed
from nightpress.pipelines.scoring.image_scorer import ImageScores
from nightpress.pipelines.shards.batching import PlannedImage, as_facts
from nightpress.pipelines.shards.kept_frames import frame_file, stored_frame
from nightpress.pipelines.shards.shard_scores import ShardScores
from nightpress.pipelines.shards.shard_thumbs import ImageThumbs, ShardThumbs
from nightpress.pipelines.shards.work import SetAsideRow, ShardWork
from nightpress.pipelines.storage import Store

LostText = Callable[[str], str | None]
"""The end of a text that no text encoder of the model sees; None if all of it is seen."""


def nothing_lost(text: str) -> None:
    """The answer for a run that refuses what is too long."""


NamedEmbeddings = Callable[..., Collection[str]]
"""The words of the textual inversions that some texts name."""


def none_named(*texts: str) -> Collection[str]:
    """The answer for a run without textual inversions."""
    return ()


@dataclass(frozen=True)
class EncodedImage:
    """An image as a file in memory."""

    image: PlannedImage
    facts: ImageFacts
    data: bytes
    scores: ImageScores
    started_at: float
    """Seconds since the epoch."""
    sampling_s: float | None = None
    """Its share of its batch's sampling time; None if it was found in the store."""
    thumbs: ImageThumbs | None = field(default=None, repr=False, compare=False)
    """Its thumbnail and strip, if the job asks for them."""
    first_frame: bytes | None = field(default=None, repr=False)
    """The PNG file of a clip's first frame, if the job keeps it."""


@dataclass(frozen=True)
class Attempt:
    """One attempt at a shard by one worker; every `ImageRecord` is made here."""

    store: Store
    record: RunRecord
    work: ShardWork
    worker: str
    """`host:pid`, or `driver`."""
    scores: ShardScores
    fence: FencingToken | None = None
    lost: LostText = nothing_lost
    """What the model does not see of a text; asked only about images that were made."""
    named: NamedEmbeddings = none_named
    """The textual inversions that prompts name; asked only about images that were made."""
    thumbs: ShardThumbs | None = None
    """The thumbnails of the attempt; None if it makes none."""

    def facts(
        self, image: PlannedImage, batch_size: int, inputs: tuple[InputInfo, ...] | None = None
    ) -> ImageFacts:
        """The facts that go into the image file and its metadata row.

        Args:
            inputs: its pictures as they were read; by default as they are planned, without hashes.
        """
        model, spec = self.record.model, self.record.spec
        if inputs is None:
            inputs = tuple(input_info(each, spec.inputs.fit) for each in image.inputs)
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
            scheduler=model.sampler_that_runs(image.scheduler),
            model=model.source,
            model_fingerprint=model.fingerprint,
            dtype=self.record.dtype,
            batch_size=batch_size,
            loras=model.loras_of(image.lora, image.lora_scale),
            speed=spec.model.ways.as_text(),
            prompt_cut=self.lost(image.prompt),
            negative_prompt_cut=self.lost(image.negative_prompt),
            **self._conditions(image),
            inputs=inputs,
            passes=image.params.passes,
            parent=image.parent,
            prompt_reading=spec.model.prompts.as_text(),
            textual_inversions=model.embeddings_of(self.named(image.prompt, image.negative_prompt)),
            **as_facts(image.clip),
        )

    def _conditions(self, image: PlannedImage) -> dict[str, Any]:
        """The facts about what conditions an image besides text, without its pictures."""
        model, conditioning = self.record.model, image.params.conditioning
        return {
            "mode": conditioning.mode,
            "strength": conditioning.strength,
            "canvas": conditioning.canvas,
            "controlnets": model.controlnets_of(conditioning.controls, conditioning.control_scales),
            "references": model.references_of(conditioning.adapters, conditioning.reference_scales),
        }

    def ok(self, encoded: EncodedImage) -> ImageRecord:
        """The record of an image whose bytes are in the store or will be at the commit."""
        sha256 = hashlib.sha256(encoded.data).hexdigest()
        if self.thumbs is not None:
            self.thumbs.add(encoded.facts.image_id, sha256, encoded.thumbs)
        return ImageRecord(
            facts=encoded.facts,
            status="ok",
            attempts=self.work.attempt,
            worker=self.worker,
            started_at=encoded.started_at,
            file=encoded.image.file,
            sha256=sha256,
            num_bytes=len(encoded.data),
            first_frame=None
            if encoded.first_frame is None
            else frame_file(encoded.image.file, encoded.first_frame),
            sampling_s=encoded.sampling_s,
            scores=encoded.scores.scores,
            perceptual_hash=encoded.scores.perceptual_hash,
            scoring_s=encoded.scores.scoring_s,
            embeddings=encoded.scores.embeddings or None,
        )

    def adopt_file(self, image: PlannedImage, started_at: float) -> ImageRecord | None:
        """The record of an image whose own file is stored; None if it is absent or damaged."""
        data = self.store.read_if_any(image.file)
        return None if data is None else self.adopt(image, data, started_at)

    def adopt(self, image: PlannedImage, data: bytes, started_at: float) -> ImageRecord | None:
        """The record of an image found in the store; None if `data` is not exactly it.

        The batch size may be smaller than planned, since a batch that did not fit was made smaller.
        With gates it may be any of the draws of the image; its seed tells which.
        """
        for draw in self._possible_draws(image, data):
            facts = self._recognized(draw, data)
            if facts is None:
                continue
            try:
                scores = self.scores.of_file(draw, data)
            except ValueError:  # its checksums are right, and its pixels cannot be decoded
                return None
            frame = None
            if self.record.spec.images.keep:
                frame = stored_frame(self.store, self.record, image.file, data)
                if frame is None:
                    return None
            thumbs = None if self.thumbs is None else self.thumbs.of_file(data)
            times = (started_at, None)
            return self.ok(EncodedImage(draw, facts, data, scores, *times, thumbs, frame))
        return None

    def _possible_draws(self, image: PlannedImage, data: bytes) -> Iterator[PlannedImage]:
        """The image, or with gates the draws of it that a file may hold."""
        gates = self.record.spec.gates
        if gates is None:
            yield image
            return
        facts = read_facts(data)
        if facts is None:  # the file does not tell its seed
            yield from (image.drawn(draw) for draw in range(gates.max_draws))
            return
        draw = draw_of_seed(facts.seed, image.seed, image.id, image.variant, gates.max_draws)
        if draw is not None:
            yield image.drawn(draw)

    def _recognized(self, image: PlannedImage, data: bytes) -> ImageFacts | None:
        """The facts of a file that is exactly this image; None if it is not."""
        return self.record.file_format.recognized(
            data, lambda batch_size: self.facts(image, batch_size), self.record.batch_size
        )

    def failed(
        self,
        image: PlannedImage,
        error_type: FailureType,
        error: str,
        inputs: tuple[InputInfo, ...] = (),
    ) -> ImageRecord:
        """The record of an image that cannot be made.

        Args:
            error: recorded as one line of at most 500 characters.
            inputs: its pictures, as far as they were read.
        """
        return self._failed(image, self.work.attempt, error_type, error, inputs)

    def set_aside(self, image: PlannedImage, row: SetAsideRow) -> ImageRecord:
        """The record of an image whose row is not tried again."""
        return self._failed(image, row.attempts, row.error_type, row.error)

    def _failed(
        self,
        image: PlannedImage,
        attempts: int,
        error_type: FailureType,
        error: str,
        inputs: tuple[InputInfo, ...] = (),
    ) -> ImageRecord:
        facts = self.facts(image, self.record.batch_size, inputs or None)
        return ImageRecord(
            facts=replace(facts, prompt_cut=None, negative_prompt_cut=None, textual_inversions=()),
            status="failed",
            attempts=attempts,
            worker=self.worker,
            started_at=time.time(),
            error_type=error_type,
            error=" ".join(error.split())[:500],
        )
