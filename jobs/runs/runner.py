"""`run`: one start of a run, from the job's checks to the report.

Decides the order of the steps; the other modules of this folder carry them out.
"""

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass

from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.jobs.cluster.connection import cluster
from nightpress.jobs.cluster.preflight import require_store_on_every_node
from nightpress.jobs.dispatch.actor import ActorFactory
from nightpress.jobs.dispatch.batch_size import decide_batch_sizes, resolve_batch_size
from nightpress.jobs.dispatch.config import dispatch_config_of
from nightpress.jobs.dispatch.first_actor import FirstActor
from nightpress.jobs.dispatch.footprint import sized_factory
from nightpress.jobs.errors import RunBlocked, RunStopped, StoppedOnRequest
from nightpress.jobs.progress.events import Event, Message, Planned
from nightpress.jobs.progress.failure_limit import FailureLimit
from nightpress.jobs.progress.trace import (
    BetweenBatches,
    between_batches,
    chrome_trace,
    shares,
    time_lines,
)
from nightpress.jobs.runs.column_lines import column_messages
from nightpress.jobs.runs.existing_run import compare_with_run
from nightpress.jobs.runs.finished import nothing_is_left, require_complete
from nightpress.jobs.runs.forecast import forecast_messages
from nightpress.jobs.runs.input_session import input_session, uses_pictures, with_input_root
from nightpress.jobs.runs.mode_lines import mode_messages
from nightpress.jobs.runs.shared import (
    OnEvent,
    actor_factory,
    create_only_store,
    dispatch_until,
    dispatching,
    ignore,
    ordered_shards,
    planning_mapper,
    require_free_run,
)
from nightpress.jobs.runs.start_log import StartLog, StartOptions, held_run
from nightpress.jobs.runs.table_manifest import TableManifest, with_kept_table
from nightpress.pipelines.job.cost_section import Cost
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.manifest.columns import column_uses
from nightpress.pipelines.manifest.frames import Frame
from nightpress.pipelines.planning import (
    PlanLayout,
    check,
    check_inputs,
    cut_into_shards,
    keep_hashes,
    manifest_sources,
    require_unchanged,
    write_plan,
)
from nightpress.pipelines.reporting.report import write_report
from nightpress.pipelines.run_directory.commit import committed_shards
from nightpress.pipelines.run_directory.lease import (
    FreeLease,
    Lease,
    require_still_free,
)
from nightpress.pipelines.run_directory.reader import Run, RunProgress
from nightpress.pipelines.run_directory.record import (
    RunRecord,
    create_record,
    new_record,
    read_record,
    refuse_changes,
)
from nightpress.pipelines.run_directory.summary_index import summary_index_kept
from nightpress.pipelines.shards.run_images import EarlierRuns
from nightpress.pipelines.shards.timeline import TimeSpent
from nightpress.pipelines.storage import Store, require_answers

Trace = Callable[[str], None]


@dataclass(frozen=True)
class RunResult:
    """How a run ended."""

    url: str
    """URL of the run directory."""
    num_images: int
    num_ok: int
    num_failed: int
    num_made: int
    """Images made by this start; earlier starts made the others."""
    elapsed_s: float
    images_per_s: float | None
    """Images sampled per second of sampling time, in the whole run; None if none was sampled."""
    time_shares: dict[str, float]
    """Activity -> share of the actors' time: busy, waiting for input, waiting for output, ..."""
    between_batches: BetweenBatches | None
    """Pauses between one batch and the next; None without two batches."""
    cost: Cost | None = None
    """What all starts of the run have cost; None if the job has no `cost`."""


def run(
    spec: RunSpec,
    on_event: OnEvent = ignore,
    *,
    manifest: Frame | None = None,
    take_over: bool = False,
    deadline_at: float | None = None,
    budget: float | None = None,
    ok_codes: tuple[int, ...] = (),
    trace: Trace | None = None,
) -> RunResult:
    """Make every image of a job, or resume an interrupted run.

    Args:
        spec: the job.
        on_event: called with every event, to show progress.
        manifest: a pyarrow Table, or a pandas or polars frame, whose rows are made instead of the
            job's `manifest`. The run keeps a copy, so resuming needs neither; an unnamed pandas
            index is dropped.
        take_over: take over from another process that is working on this run.
        deadline_at: be done by this time, report included, in seconds since the epoch.
        budget: stop before all starts together cost more, in the currency of the job's `cost`.
        ok_codes: exit codes that the caller's process turns into 0; they are only recorded.
        trace: called once at the end, even an early one, with a timeline of the actors as a Chrome
            trace; not called if the run ends before the actors have work.

    Returns:
        The counts, the rate, and where the images are.

    Raises:
        SpecError, ManifestError, ModelError, StoreDenied, ClusterError: nothing was written.
        ChangedRunError: the run directory was started by another job or manifest.
        RunHeld, LeaseLost: another process is working on this run, or has taken it over.
        RunStopped: stopped early; call this again to resume.
        RunBlocked: stopped early, by something that must be changed first.
    """
    table = None if manifest is None else TableManifest.of(manifest)
    options = StartOptions("run", deadline_at, budget, ok_codes)
    session = _Session(spec, table, StartLog(options, spec, on_event), take_over, trace)
    return session.carry_out()


@dataclass(frozen=True)
class _HeldRun:
    """A run directory that this start holds, and the first actor, which is ready for it."""

    store: Store
    record: RunRecord
    lease: Lease
    factory: ActorFactory
    first: FirstActor
    resumed: bool


class _Session:
    """One start of a run, from its checks to its report."""

    def __init__(
        self,
        spec: RunSpec,
        table: TableManifest | None,
        log: StartLog,
        take_over: bool,
        trace: Trace | None,
    ) -> None:
        self._job_inputs = spec.inputs
        self._spec = spec if table is None else table.kept_job(spec)
        self._table = table
        self.log, self._on_event = log, log.show
        self._take_over, self._deadline_at = take_over, log.options.deadline_at
        self._trace = trace
        self._time_spent: list[TimeSpent] | None = None
        """What the actors did, once they have had work and are finished."""
        self._progress: RunProgress | None = None
        """The totals, once every shard is committed."""

    def carry_out(self) -> RunResult:
        """Carry out the run, and show its events."""
        with self.reporting_time(), closing(self.events()) as events:
            for event in events:
                self.log.show(event)
        return self.result()

    def events(self) -> Generator[Event, None, None]:
        """Carry out the run; yields its events."""
        store = self._checked_store()
        free = require_free_run(store, self._take_over, self._on_event)
        record = read_record(store)
        self._spec = with_input_root(self._spec, record)
        self.log.read_earlier(store)
        if record is not None:
            existing = compare_with_run(store, record, self._spec, self._table)
            refuse_changes(store, existing.changes)
            self._spec, record = existing.spec, existing.record
            if nothing_is_left(self._spec, store, record):
                yield from self._finish_again(store, record, free)
                return
        self.log.require_budget()
        with cluster(self._spec.cluster):
            require_store_on_every_node(self._spec.cluster, store)
            if record is None:
                yield from self._begin(store, free)
            else:
                # Acquire the lease before starting any actor: the actors of a process that is
                # taken over still hold the CPUs and GPUs that ours need.
                with held_run(store, free, self.log) as lease:
                    yield from self._resume(store, record, lease)

    def result(self) -> RunResult:
        """How the run ended, after all events."""
        progress, spent = self._progress, self._time_spent or []
        assert progress is not None  # noqa: S101 - events end in an error or in the totals
        return RunResult(
            url=self._spec.url,
            num_images=progress.num_images,
            num_ok=progress.num_ok,
            num_failed=progress.num_failed,
            num_made=self.log.tally.num_made,
            elapsed_s=self.log.tally.elapsed_s,
            images_per_s=progress.images_per_s,
            time_shares=shares(spent),
            between_batches=between_batches(spent),
            cost=self.log.cost(progress.num_ok + progress.num_failed),
        )

    @contextmanager
    def reporting_time(self) -> Iterator[None]:
        """Report what the actors did with their time when the run ends, however it ends."""
        try:
            yield
        finally:
            spent = self._time_spent
            if spent is not None and self._progress is None:  # no result will report it
                for line in time_lines(shares(spent), between_batches(spent)):
                    self._on_event(Message(line))
            if spent is not None and self._trace is not None:
                self._trace(chrome_trace(spent))

    def _checked_store(self) -> Store:
        """The run directory's store; fails in seconds if it or the manifest cannot be reached."""
        store = Store(self._spec.url, self._spec.storage)
        store.check()
        require_answers(self._spec.sources, self._spec.storage)
        if self._table is None:
            self._spec = with_kept_table(self._spec, store)
            manifest_sources(self._spec)
        return create_only_store(store, self._on_event)

    def _begin(self, store: Store, free: FreeLease) -> Iterator[Event]:
        """Start a new run; nothing is written before everything has been checked."""
        spec, factory = self._spec, actor_factory(self._spec, self._trace is not None)
        first = self._first_actor(factory, lambda: require_still_free(store, free))
        model = yield from first.start()
        factory = yield from sized_factory(spec, first)
        yield from _thread_warning(factory)
        usual = resolve_batch_size(spec, factory.device)
        loading = first.begin_loading(model.identity, usual)  # while the manifest is checked
        layout = self._check(model, usual)
        if not uses_pictures(spec, layout):  # then nothing starts from the working folder
            spec = spec.model_copy(update={"inputs": self._job_inputs})
        yield from column_messages(column_uses(spec, layout.files))
        yield from mode_messages(layout, spec.inputs.check)
        # If the model does not load, nothing has been written.
        yield from first.finish_loading(loading, model.identity, usual)
        sizes = yield from decide_batch_sizes(spec, model, layout, first)
        layout = cut_into_shards(spec, layout, sizes.largest)
        if self._table is None:  # loading the model may have taken minutes
            layout = require_unchanged(layout, spec)
        for warning in layout.prompts.warnings():
            yield Message(warning, warning=True)
        with held_run(store, free, self.log) as lease:
            if self._table is not None:
                layout = self._table.keep(store, layout)
            layout = keep_hashes(store, layout)
            record = create_record(store, new_record(spec, model, factory.device, sizes, layout))
            yield from self._make(_HeldRun(store, record, lease, factory, first, False))

    def _resume(self, store: Store, record: RunRecord, lease: Lease) -> Iterator[Event]:
        factory = actor_factory(self._spec, self._trace is not None)
        first = self._first_actor(factory, lease.require)
        model = yield from first.start()
        factory = yield from sized_factory(self._spec, first)
        yield from _thread_warning(factory)
        refuse_changes(store, record.changes(self._spec, model, factory.device))
        yield from column_messages(column_uses(self._spec, record.layout.files))
        for difference in record.package_differences():
            yield Message(difference, warning=True)
        yield from self._make(_HeldRun(store, record, lease, factory, first, True))

    def _finish_again(self, store: Store, record: RunRecord, free: FreeLease) -> Iterator[Event]:
        """Count the images of a finished run, and write its report, which may be missing or old."""
        layout = record.layout
        self.log.has_made_nothing = True
        with held_run(store, free, self.log) as lease:
            yield Planned(layout.num_images, layout.num_shards, num_done=layout.num_images)
            self._complete(store, record, lease)

    def _complete(self, store: Store, record: RunRecord, lease: Lease) -> None:
        """Check the totals of a run whose shards are all committed, and write its report."""
        lease.require()
        progress = self._progress = require_complete(store, record)
        self.log.finish(progress)
        self.log.store_now()
        write_report(Run(store, record), store)

    def _check(self, model: ModelInfo, batch_size: int) -> PlanLayout:
        table = self._table
        with nullcontext(self._spec) if table is None else table.temporary_job(self._spec) as spec:
            layout = check(spec, model, batch_size, mapper=planning_mapper(spec))
            return check_inputs(spec, layout, EarlierRuns(spec.url, spec.storage))

    def _first_actor(self, factory: ActorFactory, require_lease: Callable[[], None]) -> FirstActor:
        def keep_waiting() -> None:
            require_lease()
            if self._deadline_at is not None and time.time() >= self._deadline_at:
                raise StoppedOnRequest(
                    "stopped: the deadline came before the first actor had started"
                )

        return FirstActor(factory, self._spec.cluster.load_timeout_s, keep_waiting)

    def _make(self, run: _HeldRun) -> Iterator[Event]:
        store, record = run.store, run.record
        yield from _write_plan(self._spec, store, record)
        try:
            with summary_index_kept(store):
                yield from self._dispatch(run)
        except (RunStopped, RunBlocked):
            if self.log.options.has_limit:  # a clean stop leaves a report of what is done
                self.log.store_now()
                write_report(Run(store, record), store)
            raise
        self._complete(store, record, run.lease)

    def _dispatch(self, run: _HeldRun) -> Iterator[Event]:
        committed = committed_shards(run.store)
        layout = run.record.layout
        yield Planned(
            num_images=layout.num_images,
            num_shards=layout.num_shards,
            num_done=sum(map(layout.shard_images, committed)),
        )
        in_order = ordered_shards(run.store, run.record, run.lease)
        left = [shard for shard in in_order if shard not in committed]
        yield from forecast_messages(
            run.store, run.record, run.factory, committed, self._deadline_at
        )
        config = dispatch_config_of(
            self._spec,
            run.lease,
            look_first=run.resumed,
            deadline_at=dispatch_until(self._deadline_at, layout.num_shards),
            inputs=input_session(Run(run.store, run.record), resumed=run.resumed),
            budget=self.log.budget(run.factory.gpus),
        )
        limit = FailureLimit(self._spec.cluster.max_failures)
        with dispatching(
            run.store, run.record, run.factory, config, run.lease, limit
        ) as dispatcher:
            self.log.watch(dispatcher.pool, run.factory.gpus)
            if left:
                dispatcher.pool.adopt(run.first.handle)
            try:
                for event in dispatcher.run(left):
                    limit.add(event)
                    yield event
            finally:  # the actors end with their dispatcher, so ask them before that
                self._time_spent = dispatcher.pool.time_spent()


def _write_plan(spec: RunSpec, store: Store, record: RunRecord) -> Iterator[Event]:
    """Write the plan parts that do not exist yet."""
    mapper = planning_mapper(spec)
    written = write_plan(spec, record.model, record.layout, store, mapper=mapper)
    for count, _ in enumerate(written, start=1):
        if count % 10 == 0:
            yield Message(f"{count} of {len(record.layout.parts)} plan parts written")


def _thread_warning(factory: ActorFactory) -> Iterator[Event]:
    if factory.threads > 1:
        yield Message(
            f"with {factory.threads} threads, a model on a CPU may round a pixel differently at "
            "different places in a batch; set cluster.cpus_per_actor to 1 to prevent this",
            warning=True,
        )
