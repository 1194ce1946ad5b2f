"""One draw that was made, or found in the store, and what becomes of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from nightpress.pipelines.records import FailureType, ImageRecord
from nightpress.pipelines.run_directory.draws import LostDraw
from nightpress.pipelines.scoring.draws import Decision, why_none_passed
from nightpress.pipelines.scoring.gates import Gates
from nightpress.pipelines.scoring.verdicts import ENDS, Verdict
from nightpress.pipelines.shards.attempt import Attempt, EncodedImage
from nightpress.pipelines.shards.batching import PlannedImage
from nightpress.pipelines.shards.draw_queue import DrawKey
from nightpress.pipelines.shards.faults import FAILURES
from nightpress.pipelines.shards.sinks import ImageSink

FAULTS = frozenset(FAILURES.values())
"""Failures that a draw with another seed may not have: they count as draws that do not pass."""


@dataclass(frozen=True)
class Drawn:
    """A draw and what was made of it."""

    number: int
    made: EncodedImage | ImageRecord
    """The image in memory, the record of one that was found in the store, or why there is none."""
    thumbnail: bytes | None = field(default=None, repr=False)

    @property
    def image_id(self) -> str:
        """Its place."""
        return self.made.facts.image_id

    @property
    def key(self) -> DrawKey:
        """Its place and its number."""
        return self.image_id, self.number

    @property
    def is_image(self) -> bool:
        """Whether there is an image."""
        return isinstance(self.made, EncodedImage) or self.made.status == "ok"

    @property
    def _scores(self) -> Mapping[str, float | None]:
        made = self.made
        scores = made.scores.scores if isinstance(made, EncodedImage) else made.scores
        return scores or {}

    @property
    def _perceptual_hash(self) -> str | None:
        made = self.made
        return (
            made.scores.perceptual_hash if isinstance(made, EncodedImage) else made.perceptual_hash
        )

    def verdict(self, gates: Gates) -> Verdict:
        """What gates say of it."""
        if self.is_image:
            return gates.judge(self._scores)
        fault = self._fault
        return ENDS if fault is None else gates.faulty(fault)

    @property
    def _fault(self) -> FailureType | None:
        """What is wrong with it, if that may be different with another seed."""
        if isinstance(self.made, EncodedImage) or self.made.error_type not in FAULTS:
            return None
        return self.made.error_type

    def lost(self, verdict: Verdict) -> LostDraw:
        """The record of it as a draw that was not taken."""
        facts = self.made.facts
        return LostDraw(
            image_id=self.image_id,
            draw=self.number,
            seed=facts.seed,
            batch_size=facts.batch_size,
            passed=verdict.passes,
            reason=verdict.text,
            fault=self._fault,
            scores=self._scores,
            perceptual_hash=self._perceptual_hash,
            thumbnail=self.thumbnail,
        )


@dataclass(frozen=True)
class Ended:
    """A place that is decided."""

    image: PlannedImage
    """As planned, with the seed of draw 0."""
    decision: Decision
    drawn: Drawn | None
    """The draw that won, or the one that could not be made; None if none of them passed."""
    reason: str = ""
    """Why none passed."""

    def record(self, attempt: Attempt, sink: ImageSink) -> ImageRecord:
        """Store the winner, if it is not stored yet; returns the record of the image."""
        num_draws = self.decision.num_draws
        if self.drawn is None:
            failed = attempt.failed(self.image, FailureType.REJECTED, self.reason)
            return replace(failed, draws=num_draws)
        made = self.drawn.made
        record = sink.store(made) if isinstance(made, EncodedImage) else made
        gate = self.decision.gate if record.status == "ok" else None
        return replace(record, draw=self.drawn.number, draws=num_draws, gate=gate)


def ended(
    image: PlannedImage,
    decision: Decision,
    verdicts: Mapping[int, Verdict],
    drawn: Mapping[int, Drawn],
) -> Ended:
    """A place that is decided.

    Args:
        verdicts: draw -> its verdict, of all draws that were considered.
        drawn: draw -> what was made of it; at least the winner, or the draw that ended the place.
    """
    last = decision.num_draws - 1
    if decision.winner is not None:
        return Ended(image, decision, drawn[decision.winner])
    if verdicts[last].ends:
        return Ended(image, decision, drawn[last])
    return Ended(image, decision, None, why_none_passed(verdicts, decision.num_draws))
