"""The gates of a job: what is checked about them before a run, and what is said while it runs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from nightpress.jobs.progress.events import Event, Message
from nightpress.jobs.progress.rejection_limit import MIN_DRAWS, RejectionLimit
from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.formatting import plural
from nightpress.pipelines.job.gates_section import GatesSpec
from nightpress.pipelines.job.scores_section import MEASURED
from nightpress.pipelines.run_directory.estimate import DrawsOfImage
from nightpress.pipelines.scoring.scorer import ScorerInfo, score_names
from nightpress.pipelines.shards.events import DrawsJudged

MIN_HOPELESS = 16
"""A row is named when so many of its draws have failed one after the other, or sooner if that is
too rare to be chance."""

FEWEST_HOPELESS = 6
"""Draws of a row that must fail one after the other for that."""

BY_CHANCE = 1e-4
"""A rarer series of failures, at the acceptance of all draws, is not taken for chance."""

MAX_NAMED = 20
"""Rows that are named one by one."""


@dataclass(frozen=True)
class PlannedDraws:
    """How many draws a job takes."""

    least: int
    expected: float | None
    """By an earlier run with this model and these scores; None if there is none."""
    most: int
    is_foretold: bool = False
    """Whether that run had other gates or none, so that only its scores tell."""


def check_gate_scores(gates: GatesSpec | None, infos: Mapping[str, ScorerInfo]) -> None:
    """Check that gates judge by scores that the job's scorers give.

    Raises:
        SpecError: there is no such score.
    """
    names = (*MEASURED, *score_names(infos))
    for name in () if gates is None else gates.scores:
        if name not in names:
            raise SpecError(
                f"job: gates: there is no score {name!r}; the scores of this job are: "
                f"{', '.join(names)}"
            )


def planned_draws(
    gates: GatesSpec | None, num_images: int, measured: DrawsOfImage | None
) -> PlannedDraws | None:
    """How many draws some images take; None without gates.

    Args:
        gates: the job's gates.
        num_images: how many images are made.
        measured: draws of an image, by earlier runs.
    """
    if gates is None:
        return None
    least, most = gates.best_of * num_images, gates.max_draws * num_images
    if measured is None:
        return PlannedDraws(least, None, most)
    return PlannedDraws(least, measured.mean * num_images, most, measured.is_foretold)


def gate_lines(gates: GatesSpec | None, draws: PlannedDraws | None) -> Iterator[str]:
    """What images must be, and how many draws that takes; nothing without gates."""
    if gates is None or draws is None:
        return
    best = f"best of {gates.best_of} by {gates.rank_by}" if gates.best_of > 1 else ""
    kept = f"if none passes, the best by {gates.rank_by}" if gates.exhausted == "keep" else ""
    yield "; ".join(filter(None, (", ".join(map(str, gates.conditions)), best, kept)))
    about = "how many is not known before a run with these scores"
    if draws.expected is not None:
        told_by = "the scores of an earlier run" if draws.is_foretold else "a run with these gates"
        about = f"about {draws.expected:,.0f} by {told_by}"
    yield f"from {draws.least:,} to {draws.most:,} draws, {about}"


class GateNotes:
    """Passes on what gates say: rows that seem hopeless, damaged records, and totals at the end.

    Args:
        totals: the draws of this start.
    """

    def __init__(self, totals: RejectionLimit) -> None:
        self._totals = totals
        self._failing: dict[str, int] = {}
        """Row -> its draws since the last that passed; the row is left out once one passes."""
        self._named: set[str] = set()

    def add(self, event: Event) -> Iterator[Message]:
        """Count what an event says; yields what a person should know now."""
        if not isinstance(event, DrawsJudged):
            return
        for path in event.damaged:
            yield Message(
                f"{path} is damaged; the draws that it names are made again", warning=True
            )
        for row, num_draws, num_passed in event.rows:
            if num_passed:
                self._failing.pop(row, None)
                continue
            number = self._failing[row] = self._failing.get(row, 0) + num_draws
            if row not in self._named and self._is_hopeless(number):
                yield from self._name(row, number)

    def lines(self) -> Iterator[Message]:
        """The totals; nothing if no draw was judged."""
        totals = self._totals
        if not totals.num_draws:
            return
        passed = 1 - totals.num_rejected / totals.num_draws
        rejected = f"; rejected: {totals.reasons()}" if totals.num_rejected else ""
        ahead = f"; {totals.num_unused:,} more, made ahead in short batches, were not needed"
        unused = ahead if totals.num_unused else ""
        yield Message(f"{plural(totals.num_draws, 'draw')}, {passed:.0%} passed{rejected}{unused}")

    def _is_hopeless(self, number: int) -> bool:
        """Whether a row is named of which so many draws have failed one after the other.

        With draws of which 80% pass that is so after 6, with 50% after 14.
        """
        totals = self._totals
        if number >= MIN_HOPELESS:
            return True
        if number < FEWEST_HOPELESS or totals.num_draws < MIN_DRAWS:
            return False
        return (totals.num_rejected / totals.num_draws) ** number < BY_CHANCE

    def _name(self, row: str, num_draws: int) -> Iterator[Message]:
        if len(self._named) == MAX_NAMED:
            return
        self._named.add(row)
        yield Message(f"row {row}: 0 of its last {num_draws:,} draws passed", warning=True)
        if len(self._named) == MAX_NAMED:
            yield Message("further rows whose draws do not pass are not named", warning=True)
