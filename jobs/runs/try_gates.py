"""`gates`: what gates would do with the images of a run, by their stored scores; makes nothing."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from nightpress.jobs.runs.targets import ImageTarget, open_images
from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.job.cost_section import Cost
from nightpress.pipelines.job.gates_section import GatesSpec
from nightpress.pipelines.job.scores_section import MEASURED
from nightpress.pipelines.run_directory.gate_trial import (
    GateTrial,
    ScoreRange,
    score_ranges,
    try_gates,
)
from nightpress.pipelines.run_directory.log import cost_of, read_starts
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.storage import Options


@dataclass(frozen=True)
class GateEffort:
    """What it takes to make all images of a run."""

    num_draws: float
    """Images to sample."""
    actor_s: float | None
    """Seconds of all actors together, as long a draw as the run took; None if its log is gone."""
    elapsed_s: float | None
    """Seconds of sampling at the pace of the run; None if it has sampled nothing."""
    cost: Cost | None
    """None if the starts of the run had no price."""


@dataclass(frozen=True)
class GatesResult:
    """What gates would do with the images of a run."""

    url: str
    num_images: int
    """Images of the plan."""
    gates: GatesSpec | None
    """The gates that were tried; None if none are given, and the job has none."""
    trial: GateTrial | None
    """None without gates."""
    so_far: GateEffort | None
    """What the images took that are there; None without gates."""
    with_gates: GateEffort | None
    """What all images would take with these gates; None without gates."""
    scores: tuple[ScoreRange, ...]
    """How each score is spread."""
    uncounted: tuple[str, ...] = ()
    """Scores of these gates that came after the run; its times do not count their scorers."""


def gates(
    target: ImageTarget,
    *,
    require: Sequence[str] | None = None,
    best_of: int | None = None,
    rank_by: str | None = None,
    max_draws: int | None = None,
    storage: Options | None = None,
) -> GatesResult:
    """Try gates on the scores that a run has stored; nothing is sampled or written.

    Args:
        target, storage: as for `status`.
        require: conditions that an image must meet, such as `["sharpness > 40"]`.
        best_of: how many draws must pass before the best of them is taken.
        rank_by: the score that says which is the best; `-name` for its lowest value.
        max_draws: the most draws of an image.

    What is not given is that of the job's section `gates`, or else its default.

    Raises:
        SpecError: these are no gates, or no image has a score that they need.
        RunNotFound, StoreError: as for `status`.
    """
    run = open_images(target, storage)
    given = {"require": require, "best_of": best_of, "rank_by": rank_by, "max_draws": max_draws}
    tried = gates_of(run, {name: value for name, value in given.items() if value is not None})
    trial = None if tried is None else try_gates(run, tried)
    so_far, then = (None, None) if trial is None else _efforts(run, trial)
    num_images = run.record.layout.num_images
    late = () if tried is None else tuple(_late(run, tried))
    return GatesResult(run.url, num_images, tried, trial, so_far, then, score_ranges(run), late)


def _late(run: Run, tried: GatesSpec) -> Iterator[str]:
    """The scores of some gates that the run's own scorers do not give."""
    own = {*MEASURED, *run.record.scorers}
    yield from (each for each in tried.scores if each not in own and each.split(".")[0] not in own)


def gates_of(run: Run, given: dict[str, Any]) -> GatesSpec | None:
    """The gates to try: what is given, and the rest as in the run's job.

    Conditions replace those of the job. The score that ranks images is that of the job only while
    it has an effect.

    Raises:
        SpecError: they cannot be.
    """
    own = run.spec.gates
    if own is None and not given:
        return None
    values: dict[str, Any] = {} if own is None else own.model_dump(include=set(_TRIED))
    values |= given
    if isinstance(values.get("require"), str):
        raise SpecError("require: give a list of conditions, such as ['sharpness > 40']")
    if "rank_by" not in given and values.get("best_of", 1) == 1:
        values.pop("rank_by", None)
        values.pop("exhausted", None)
    try:
        return GatesSpec(**{**values, "require": tuple(values.get("require", ()))})
    except ValidationError as error:
        raise SpecError("; ".join(_explained(each) for each in error.errors())) from error


_TRIED = ("require", "best_of", "rank_by", "max_draws", "exhausted")


def _explained(detail: Any) -> str:
    """`best_of: must be at least 1, not 0`, or what is wrong with them together."""
    message = str(detail["msg"]).removeprefix("Value error, ")
    place = ".".join(str(part) for part in detail["loc"])
    return f"{place}: {message}" if place else message


def _efforts(run: Run, trial: GateTrial) -> tuple[GateEffort, GateEffort]:
    """What the run took so far, and what all of its images would take with gates."""
    progress, starts = run.progress(), read_starts(run.store)
    made = trial.num_images + trial.num_lost
    actor_s = sum(each.actor_s for each in starts) or None
    elapsed_s = progress.active_s or None
    cost = cost_of(starts, trial.num_images)
    so_far = GateEffort(float(made), actor_s, elapsed_s, cost)
    num_images = run.record.layout.num_images
    num_draws = trial.expected.draws * num_images
    more = num_draws / made if made else 0.0
    num_taken = round(num_images * (1 - trial.expected.exhausted))
    return so_far, GateEffort(
        num_draws=num_draws,
        actor_s=None if actor_s is None else actor_s * more,
        elapsed_s=None if elapsed_s is None else elapsed_s * more,
        cost=None if cost is None else Cost.of(cost.amount * more, cost.currency, num_taken),
    )
