"""How far a run gets by its deadline, before it starts: computed, and said in words."""

import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from nightpress.diffusion_core.errors import one_line
from nightpress.jobs.progress.events import Message
from nightpress.jobs.runs.existing_run import FoundRun, RunState, State
from nightpress.jobs.runs.shared import dispatch_until
from nightpress.pipelines.errors import StoreError, StoreMissing
from nightpress.pipelines.formatting import plural
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.manifest.job_models import ModelInfos
from nightpress.pipelines.planning import PlanLayout
from nightpress.pipelines.run_directory.commit import committed_shards
from nightpress.pipelines.run_directory.estimate import Rate, RateKey, Scoring, rates_of_models
from nightpress.pipelines.run_directory.reach import (
    Reach,
    UnreachedLevel,
    reach,
    work_of_manifest,
    work_of_plan,
)
from nightpress.pipelines.run_directory.record import RunRecord
from nightpress.pipelines.storage import Store

if TYPE_CHECKING:  # it imports Ray, which `plan` does not need
    from nightpress.jobs.dispatch.actor import ActorFactory

UNMEASURED = "no run here has used this model with these settings yet"

COUNTED: Mapping[Scoring, str] = {
    "none": "sampling alone",
    "measured": "sampling and scoring alone",
    "unknown": "sampling alone; no run here has measured these scorers yet",
}
"""What the time of an image is made up of."""

MAX_SAID = 5
"""How many values of the order are named to a person."""


@dataclass(frozen=True)
class Deadline:
    """When a run would start, and by when it is to be done, in seconds since the epoch."""

    ends_at: float
    starts_at: float | None = None
    """None for now."""

    @property
    def starts(self) -> float:
        """When the run starts: now, if no time was given."""
        return time.time() if self.starts_at is None else self.starts_at


@dataclass(frozen=True)
class Forecast:
    """How far a run gets by a deadline."""

    deadline_at: float
    """Seconds since the epoch."""
    num_actors: int
    reach: Reach | None
    """About how far; None if that is not known."""
    unknown: str | None
    """Why it is not known."""


def forecast(
    found: FoundRun,
    state: RunState,
    planned: tuple[RunSpec, ModelInfos, PlanLayout],
    rates: Mapping[RateKey, Rate] | None,
    deadline: Deadline,
) -> Forecast:
    """How far a job gets by a deadline if it is started; a run that was begun makes the rest.

    Args:
        found, state: the job's run directory, and what `run` would make of it.
        planned: the job, whose manifest can be read, its models and the plan.
        rates: what earlier runs measured; None if they cannot be read.
        deadline: when the run would start and end.

    Raises:
        ManifestError, StoreError: the manifest or the plan cannot be read.
    """
    spec, info, layout = planned
    said = partial(Forecast, deadline.ends_at, planned_actors(spec))
    if rates is None or state.state is State.UNREADABLE:
        return said(None, "earlier runs cannot be read")
    if state.state is State.CHANGED:
        return said(None, "the job or its manifest is not that of the run")
    if state.state is State.GROWS:
        return said(None, "the run has not been extended yet")
    layout = layout if found.record is None else found.record.layout
    work = None
    if found.record is not None:
        try:
            work = work_of_plan(found.store, layout, committed_shards(found.store))
        except StoreMissing:  # it was interrupted before its plan was written
            work = None
    if work is None:
        work = work_of_manifest(spec, info, layout)
    until = dispatch_until(deadline.ends_at, layout.num_shards) or deadline.ends_at
    actor_s = max(0.0, until - deadline.starts) * planned_actors(spec)
    reached = reach(work, layout, rates, actor_s)
    return said(reached, UNMEASURED if reached is None else None)


def planned_actors(spec: RunSpec) -> int:
    """The actors that a plan counts with: the job's number, or one if it names none."""
    return spec.cluster.actors if isinstance(spec.cluster.actors, int) else 1


def forecast_messages(
    store: Store,
    record: RunRecord,
    factory: "ActorFactory",
    committed: Collection[int],
    deadline_at: float | None,
) -> Iterator[Message]:
    """What a start says about its deadline, once its actors are known; nothing without one."""
    from nightpress.jobs.cluster.connection import room

    if deadline_at is None or len(committed) == record.layout.num_shards:
        return
    spec, layout = record.spec, record.layout
    fitting = max(1, room(factory.cpus, factory.gpus, factory.memory_bytes))
    num_actors = min(fitting, spec.cluster.max_actors or fitting)
    try:
        work = work_of_plan(store, layout, committed)
        rates = rates_of_models(spec, record.infos)
    except StoreError as error:
        yield Message(f"what will be done by the deadline is unknown: {one_line(error)}")
        return
    until = dispatch_until(deadline_at, layout.num_shards) or deadline_at
    reached = reach(work, layout, rates, max(0.0, until - time.time()) * num_actors)
    told = Forecast(deadline_at, num_actors, reached, UNMEASURED if reached is None else None)
    first, *rest = forecast_lines(told)
    yield Message(f"by the deadline: {first}")
    yield from map(Message, rest)


def forecast_values(told: Forecast) -> dict[str, object]:
    """A forecast as JSON-ready values; all but the first three are null if it is unknown."""
    reached = told.reach
    moment = datetime.fromtimestamp(told.deadline_at, UTC)
    return {
        "deadline_at": moment.isoformat(timespec="seconds"),
        "num_actors": told.num_actors,
        "unknown": told.unknown,
        "num_images": None if reached is None else reached.num_images,
        "num_reached": None if reached is None else reached.num_reached,
        "num_missed": None if reached is None else reached.num_missed,
        "scoring": None if reached is None else reached.scoring,
        "num_levels_missed": None if reached is None else reached.num_levels,
        "missed": None if reached is None else [_level_values(each) for each in reached.unreached],
    }


def _level_values(level: UnreachedLevel) -> dict[str, object]:
    plain = (str, int, float, type(None))
    values = {k: v if isinstance(v, plain) else str(v) for k, v in level.values.items()}
    return {"values": values, "num_missed": level.num_missed, "num_images": level.num_images}


def forecast_lines(told: Forecast) -> list[str]:
    """One line about how much is reached, and one about what is not, if there is any."""
    if told.reach is None:
        return [f"unknown: {told.unknown}"]
    reached, actors = told.reach, plural(told.num_actors, "actor")
    what = f"for {COUNTED[reached.scoring]}"
    if not reached.num_images:
        return ["nothing is left to make"]
    if not reached.num_missed:
        return [f"all {plural(reached.num_images, 'image')} on {actors}, {what}"]
    counts = f"about {reached.num_reached:,} of {plural(reached.num_images, 'image')}"
    return [
        f"{counts} on {actors}, {what}",
        f"not reached: about {plural(reached.num_missed, 'image')}{_which(reached)}",
    ]


def _which(reached: Reach) -> str:
    named = [each for each in reached.unreached if each.values]
    if not named:
        return "; a column priority, or batch.order, decides which these are"
    texts = [_level_text(each) for each in named[:MAX_SAID]]
    if reached.num_levels > MAX_SAID:
        texts.append(f"and all that come after ({reached.num_levels - MAX_SAID:,} more values)")
    return f": {'; '.join(texts)}"


def _level_text(level: UnreachedLevel) -> str:
    """`priority 0, surface = oak (1,400 of 3,300)`."""
    values = ", ".join(
        f"priority {value}" if name == "priority" else f"{name} = {_short(value)}"
        for name, value in level.values.items()
    )
    return f"{values} ({level.num_missed:,} of {level.num_images:,})"


def _short(value: object) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:39]}…"
