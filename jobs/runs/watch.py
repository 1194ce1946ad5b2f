"""What watches the events of a start: limits that stop it, and what a person should be told."""

from collections.abc import Iterable, Iterator

from nightpress.jobs.dispatch.limits import StopReason
from nightpress.jobs.progress.events import Event
from nightpress.jobs.progress.failure_limit import FailureLimit
from nightpress.jobs.progress.rejection_limit import RejectionLimit
from nightpress.jobs.runs.batch_notes import BatchNotes
from nightpress.jobs.runs.gates import GateNotes
from nightpress.jobs.runs.scorers import ScorerNotes
from nightpress.jobs.runs.thumb_notes import ThumbNotes

RAISE_MAX_REJECTED = "with a higher limit the same command resumes"


class Watch:
    """Watches the events of one start.

    Args:
        max_failures: stop when more images than this have failed; see `FailureLimit`.
        max_rejected: stop when more draws than this were rejected; see `RejectionLimit`.
    """

    def __init__(self, max_failures: int | str | None, max_rejected: str | None = None) -> None:
        self._failures, self._rejections = FailureLimit(max_failures), RejectionLimit(max_rejected)
        self._scorers, self._gates = ScorerNotes(), GateNotes(self._rejections)
        self._thumbs, self._batches = ThumbNotes(), BatchNotes()

    @property
    def reason_to_stop(self) -> StopReason | str | None:
        """Why the start should stop; text if the same command would stop for it again."""
        rejected = self._rejections.exceeded
        if rejected is not None:
            return StopReason(rejected, RAISE_MAX_REJECTED, is_wanted=False)
        return self._failures.exceeded

    def following(self, events: Iterable[Event]) -> Iterator[Event]:
        """Yield events, and after them what is to be said about them."""
        for event in events:
            self._failures.add(event)
            self._rejections.add(event)
            yield event
            yield from self._scorers.of_event(event)
            yield from self._gates.add(event)
            yield from self._thumbs.add(event)
            yield from self._batches.add(event)
        yield from self._scorers.lines()
        yield from self._gates.lines()
        yield from self._thumbs.lines()
        yield from self._batches.lines()
