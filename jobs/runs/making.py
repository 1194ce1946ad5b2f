"""Making the images of a run directory that this start holds, from the plan to the report."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightpress.jobs.dispatch.config import dispatch_config_of
from nightpress.jobs.errors import RunBlocked, RunStopped
from nightpress.jobs.progress.events import Event, Message, Planned
from nightpress.jobs.runs.finished import require_complete
from nightpress.jobs.runs.forecast import forecast_messages
from nightpress.jobs.runs.input_session import input_session
from nightpress.jobs.runs.shared import (
    dispatch_until,
    dispatching,
    ordered_shards,
    planning_mapper,
)
from nightpress.jobs.runs.start_log import StartLog
from nightpress.jobs.runs.watch import Watch
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.planning import write_plan
from nightpress.pipelines.reporting.report import write_report
from nightpress.pipelines.reporting.scores import RunScores
from nightpress.pipelines.run_directory.commit import committed_shards
from nightpress.pipelines.run_directory.lease import Lease
from nightpress.pipelines.run_directory.reader import Run, RunProgress
from nightpress.pipelines.run_directory.record import RunRecord
from nightpress.pipelines.run_directory.summary_index import summary_index_kept
from nightpress.pipelines.shards.timeline import TimeSpent
from nightpress.pipelines.storage import Store

if TYPE_CHECKING:  # they import Ray, which a start that finds nothing to make does not need
    from nightpress.jobs.dispatch.actor import ActorFactory
    from nightpress.jobs.dispatch.first_actor import FirstActor


@dataclass(frozen=True)
class HeldRun:
    """A run directory that this start holds, and the first actor, which is ready for it."""

    store: Store
    record: RunRecord
    lease: Lease
    factory: "ActorFactory"
    first: "FirstActor"
    resumed: bool


class Maker:
    """Makes what is missing of a run.

    Args:
        log: of this start.
    """

    def __init__(self, log: StartLog) -> None:
        self._log = log
        self.time_spent: list[TimeSpent] | None = None
        """What the actors did, once they have had work and are finished."""
        self.device_names: list[str] = []
        """What the devices of the actors call themselves; none before they are finished."""
        self.progress: RunProgress | None = None
        """The totals, once every shard is committed."""
        self.record: RunRecord | None = None
        """The record of the run, once every shard is committed."""
        self.scores = RunScores()
        """How the scores are distributed, once the report is written."""

    def make(self, spec: RunSpec, run: HeldRun) -> Iterator[Event]:
        """Write what is missing of the plan, make the images, and write the report."""
        store, record = run.store, run.record
        yield from _write_plan(spec, store, record)
        try:
            with summary_index_kept(store):
                yield from self._dispatch(spec, run)
        except (RunStopped, RunBlocked):
            if self._log.options.has_limit:  # a clean stop leaves a report of what is done
                self._log.store_now()
                write_report(Run(store, record), store)
            raise
        self.complete(store, record, run.lease)

    def complete(self, store: Store, record: RunRecord, lease: Lease) -> None:
        """Check the totals of a run whose shards are all committed, and write its report."""
        lease.require()
        progress = self.progress = require_complete(store, record)
        self.record = record
        self._log.finish(progress)
        self._log.store_now()
        self.scores = write_report(Run(store, record), store)

    def _dispatch(self, spec: RunSpec, run: HeldRun) -> Iterator[Event]:
        from nightpress.jobs.dispatch.assignment import first_model

        committed = committed_shards(run.store)
        layout = run.record.layout
        yield Planned(
            num_images=layout.num_images,
            num_shards=layout.num_shards,
            num_done=sum(map(layout.shard_images, committed)),
        )
        in_order = ordered_shards(run.store, run.record, run.lease)
        left = [shard for shard in in_order if shard not in committed]
        deadline_at = self._log.options.deadline_at
        yield from forecast_messages(run.store, run.record, run.factory, committed, deadline_at)
        config = dispatch_config_of(
            spec,
            run.lease,
            look_first=run.resumed,
            deadline_at=dispatch_until(deadline_at, layout.num_shards),
            inputs=input_session(Run(run.store, run.record), resumed=run.resumed),
            budget=self._log.budget(run.factory.gpus),
        )
        max_rejected = None if spec.gates is None else spec.gates.max_rejected
        watch = Watch(spec.cluster.max_failures, max_rejected)
        with dispatching(
            run.store, run.record, run.factory, config, run.lease, watch
        ) as dispatcher:
            self._log.watch(dispatcher.pool, run.factory.gpus)
            if left:
                model = first_model(run.record, left, run.first.model)
                dispatcher.pool.adopt(run.first.handle, model)
            try:
                yield from watch.following(dispatcher.run(left))
            finally:  # the actors end with their dispatcher, so ask them before that
                self.time_spent = dispatcher.pool.time_spent()
                self.device_names = dispatcher.pool.device_names


def _write_plan(spec: RunSpec, store: Store, record: RunRecord) -> Iterator[Event]:
    """Write the plan parts that do not exist yet."""
    mapper = planning_mapper(spec)
    written = write_plan(spec, record.infos, record.layout, store, mapper=mapper)
    for count, _ in enumerate(written, start=1):
        if count % 10 == 0:
            yield Message(f"{count} of {len(record.layout.parts)} plan parts written")
