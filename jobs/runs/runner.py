"""`run`: one start of a run; decides the order of its steps, from the checks to the report."""

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nightpress.jobs.cluster.local_start import LocalStart
from nightpress.jobs.dispatch.auto_speed import TriedJob, decide_speeds
from nightpress.jobs.dispatch.batch_size import (
    decide_sizes_of_models,
    largest_of,
    resolve_batch_size,
    sizes_by_model,
)
from nightpress.jobs.dispatch.footprint import sized_factory, thread_warning
from nightpress.jobs.errors import StoppedOnRequest
from nightpress.jobs.progress.events import Event, Message, Planned
from nightpress.jobs.progress.trace import (
    BetweenBatches,
    between_batches,
    chrome_trace,
    shares,
    time_lines,
)
from nightpress.jobs.runs.column_lines import column_messages
from nightpress.jobs.runs.existing_run import compare_with_run
from nightpress.jobs.runs.extend_options import ExtendOptions
from nightpress.jobs.runs.extension import (
    Extension,
    add_edition,
    compare,
    require_no_new_edition,
)
from nightpress.jobs.runs.finished import nothing_is_left
from nightpress.jobs.runs.gates import check_gate_scores
from nightpress.jobs.runs.input_session import uses_pictures, with_input_root
from nightpress.jobs.runs.local_models import local_models
from nightpress.jobs.runs.making import HeldRun, Maker
from nightpress.jobs.runs.mode_lines import mode_messages
from nightpress.jobs.runs.scorers import check_scored_columns
from nightpress.jobs.runs.shared import (
    OnEvent,
    actor_factory,
    cluster_for,
    create_only_store,
    ignore,
    planning_mapper,
    require_free_run,
)
from nightpress.jobs.runs.start_log import StartLog, StartOptions, held_run
from nightpress.jobs.runs.table_manifest import TableManifest, with_kept_table
from nightpress.jobs.tuning.kept import gain_line
from nightpress.pipelines.errors import Change
from nightpress.pipelines.image_files.content_credentials.setup import (
    signing_key_of,
    with_certificate,
)
from nightpress.pipelines.job.cost_section import Cost
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.manifest.frames import Frame
from nightpress.pipelines.manifest.job_models import ModelInfos, job_models
from nightpress.pipelines.planning import (
    PlanLayout,
    check,
    check_inputs,
    cut_into_shards,
    keep_hashes,
    manifest_sources,
    require_unchanged,
)
from nightpress.pipelines.reporting.scores import ScoreSummary
from nightpress.pipelines.run_directory.lease import FreeLease, Lease, require_still_free
from nightpress.pipelines.run_directory.record import (
    RUN_FILE,
    RunRecord,
    create_record,
    new_record,
    read_record,
    refuse_changes,
)
from nightpress.pipelines.scoring.job_scorers import fingerprints_of
from nightpress.pipelines.shards.run_images import EarlierRuns
from nightpress.pipelines.storage import Store, is_local, require_answers

if TYPE_CHECKING:  # they import Ray, which a start that finds nothing to make does not need
    from nightpress.jobs.dispatch.actor import ActorFactory
    from nightpress.jobs.dispatch.first_actor import FirstActor

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
    num_rejected: int = 0
    """How many of the images that have failed were rejected by the job's gates."""
    scores: tuple[ScoreSummary, ...] = ()
    """How each score is distributed over the images that are ok."""
    tuned: str | None = None
    """What `tune` could gain on a device of this start's actors; None if nothing is known."""


def run(
    spec: RunSpec,
    on_event: OnEvent = ignore,
    *,
    manifest: Frame | None = None,
    take_over: bool = False,
    extend: bool = False,
    changed: str = "refuse",
    deadline_at: float | None = None,
    budget: float | None = None,
    ok_codes: tuple[int, ...] = (),
    trace: Trace | None = None,
) -> RunResult:
    """Make every image of a job, or resume an interrupted run; says how the run ended.

    Args:
        spec: the job.
        on_event: called with every event, to show progress.
        manifest: a pyarrow Table, or a pandas or polars frame, to make instead of the job's
            `manifest`. The run keeps a copy to resume; an unnamed pandas index is dropped.
        take_over: take over from another process that works on this run.
        extend: add the images that the manifest has gained since the run was planned.
        changed: with `extend`, what to do with rows that changed under the same id: `refuse`, or
            make their images again beside the old ones: `new-variant`.
        deadline_at: be done by this time, report included, in seconds since the epoch.
        budget: stop before all starts together cost more, in the currency of the job's `cost`.
        ok_codes: exit codes that the caller's process turns into 0; they are only recorded.
        trace: called once at the end, even an early one, with a timeline of the actors as a Chrome
            trace, unless the run ends before the actors have work.

    Raises:
        SpecError, ManifestError, ModelError, StoreError, ClusterError: nothing was written.
        ChangedRunError: another job began the run; ManifestGrown: only its rows have changed.
        RunHeld, LeaseLost: another process is working on this run, or has taken it over.
        RunStopped, RunBlocked: stopped early; resume now, or when something has been changed.
    """
    table = None if manifest is None else TableManifest.of(manifest)
    options = StartOptions("run", deadline_at, budget, ok_codes)
    log, growing = StartLog(options, spec, on_event), ExtendOptions.of(extend, changed)
    return _Session(spec, table, log, take_over, growing, trace).carry_out()


class _Session:
    """One start of a run, from its checks to its report."""

    def __init__(
        self,
        spec: RunSpec,
        table: TableManifest | None,
        log: StartLog,
        take_over: bool,
        growing: ExtendOptions,
        trace: Trace | None,
    ) -> None:
        self._job_inputs = spec.inputs
        self._spec = spec if table is None else table.kept_job(spec)
        self._table = table
        self.log, self._on_event = log, log.show
        self._take_over, self._deadline_at = take_over, log.options.deadline_at
        self._growing, self._trace = growing, trace
        self._maker = Maker(log)
        self._stack = ExitStack()
        """Closed with the start: holds a Ray of its own, and a temporary copy of a table."""
        self._ray = self._stack.enter_context(closing(LocalStart(spec.cluster)))

    def carry_out(self) -> RunResult:
        """Carry out the run, and show its events."""
        with self._stack, self.reporting_time(), closing(self.events()) as events:
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
        if record is None:
            self.log.require_budget()
            with cluster_for(self._spec, store, self._ray):
                yield from self._begin(store, free)
            return
        self._spec = record.resumed_by(self._spec)
        existing = compare_with_run(store, record, self._spec, self._table)
        refuse_changes(store, existing.job_changes)
        if existing.manifest_changes:
            extension = self._extension(store, record, existing.manifest_changes)
            yield from self._continue(store, record, free, extension)
        else:
            self._spec = existing.spec
            yield from self._continue(store, existing.record, free, None)

    def _extension(self, store: Store, record: RunRecord, changes: tuple[Change, ...]) -> Extension:
        """What the run will be extended by, checked as far as this machine can."""
        spec = self._spec
        if self._table is not None:
            spec = self._stack.enter_context(self._table.temporary_job(spec))
        extension = compare(store, record, spec, changes, self._growing)
        model = None if extension.is_checked else local_models(spec)
        return extension if model is None else extension.checked(store, model)

    def _continue(
        self, store: Store, record: RunRecord, free: FreeLease, extension: Extension | None
    ) -> Iterator[Event]:
        """Resume a run, and extend it first if its manifest has grown."""
        adds = extension is not None and extension.num_images
        if not adds and nothing_is_left(self._spec, store, record):
            yield from self._finish_again(store, record, free, extension)
            return
        self.log.require_budget()
        # Acquire the lease before starting any actor: the actors of a process that is taken over
        # still hold the CPUs and GPUs that ours need.
        with cluster_for(self._spec, store, self._ray), held_run(store, free, self.log) as lease:
            yield from self._resume(store, record, lease, extension)

    def result(self) -> RunResult:
        """How the run ended, after all events."""
        progress, spent = self._maker.progress, self._maker.time_spent or []
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
            num_rejected=progress.num_rejected,
            scores=self._maker.scores.scores,
            tuned=gain_line(self._maker.record, self._maker.device_names),
        )

    @contextmanager
    def reporting_time(self) -> Iterator[None]:
        """Report what the actors did with their time when the run ends, however it ends."""
        try:
            yield
        finally:
            spent = self._maker.time_spent
            if spent is not None and self._maker.progress is None:  # no result will report it
                for line in time_lines(shares(spent), between_batches(spent)):
                    self._on_event(Message(line))
            if spent is not None and self._trace is not None:
                self._trace(chrome_trace(spent))

    def _checked_store(self) -> Store:
        """The run directory's store; fails in seconds if it or the manifest cannot be reached."""
        store = Store(self._spec.url, self._spec.storage)
        store.check()
        is_new = not store.present([RUN_FILE])  # else there may be nothing to make
        if is_new and not all(map(is_local, (store.url, *self._spec.manifests))):
            self._ray.begin()  # while stores answer; what is on a disk is found wrong at once
        require_answers(self._spec.sources, self._spec.storage)
        self._spec = with_certificate(self._spec)
        signing_key_of(self._spec)  # which the actors get; nothing is begun without it
        if self._table is None:
            self._spec = with_kept_table(self._spec, store)
            manifest_sources(self._spec)
        if is_new:
            self._ray.begin()
        return create_only_store(store, self._on_event)

    def _begin(self, store: Store, free: FreeLease) -> Iterator[Event]:
        """Start a new run; nothing is written before everything has been checked."""
        spec, factory = self._spec, actor_factory(self._spec, self._trace is not None)
        first = self._first_actor(factory, lambda: require_still_free(store, free))
        model = yield from first.start()
        scorers = yield from first.scorers()
        check_gate_scores(spec.gates, scorers)
        factory = yield from sized_factory(spec, first)
        yield from thread_warning(factory)
        usual = resolve_batch_size(spec, factory.device)
        one = job_models(spec, model)[0]
        # It loads while the manifest is checked.
        loading = first.begin_loading(one.info.identity, usual, one.name)
        layout = self._check(model, usual)
        check_scored_columns(spec, layout.files)
        if not uses_pictures(spec, layout):  # then nothing starts from the working folder
            spec = spec.model_copy(update={"inputs": self._job_inputs})
        yield from column_messages(spec, layout.files)
        yield from mode_messages(layout, spec.inputs.check)
        # If the model does not load, nothing has been written.
        yield from first.finish_loading(loading, one.info.identity, usual, one.name)
        sizes = yield from decide_sizes_of_models(spec, model, layout, first)
        job = TriedJob(spec, model, layout, sizes, store.url, self._readable)
        decided = yield from decide_speeds(job, first)
        layout = cut_into_shards(spec, layout, largest_of(sizes), sizes_by_model(sizes))
        if self._table is None:  # loading the model may have taken minutes
            layout = require_unchanged(layout, spec)
        for warning in layout.prompts.warnings():
            yield Message(warning, warning=True)
        with held_run(store, free, self.log) as lease:
            if self._table is not None:
                layout = replace(layout, files=(self._table.keep(store, layout.files[0]),))
            layout = keep_hashes(store, layout)
            facts = spec, model, factory.device, sizes, layout, fingerprints_of(scorers), decided
            record = create_record(store, new_record(*facts))
            self._spec = record.resumed_by(spec)
            held = HeldRun(store, record, lease, factory, first, resumed=False)
            yield from self._maker.make(self._spec, held)

    def _resume(
        self, store: Store, record: RunRecord, lease: Lease, extension: Extension | None
    ) -> Iterator[Event]:
        factory = actor_factory(self._spec, self._trace is not None)
        first = self._first_actor(factory, lease.require)
        model = yield from first.start()
        scorers = fingerprints_of((yield from first.scorers()))
        factory = yield from sized_factory(self._spec, first)
        yield from thread_warning(factory)
        refuse_changes(store, record.changes(self._spec, model, factory.device, scorers))
        record = yield from self._extended(store, record, lease, extension, model)
        yield from column_messages(self._spec, record.manifest)
        for difference in record.package_differences():
            yield Message(difference, warning=True)
        held = HeldRun(store, record, lease, factory, first, resumed=True)
        yield from self._maker.make(self._spec, held)

    def _extended(
        self,
        store: Store,
        record: RunRecord,
        lease: Lease,
        extension: Extension | None,
        model: ModelInfos,
    ) -> Generator[Event, None, RunRecord]:
        """The record of the run with the edition that it is extended by, if any."""
        if extension is None:
            require_no_new_edition(store, record)
            return record
        extension = extension.checked(store, model)
        for warning in extension.warnings():
            yield Message(warning, warning=True)
        record = add_edition(store, extension, lease, self._table)
        for line in extension.lines():
            yield Message(f"edition {len(record.editions)}: {line.strip()}")
        return record

    def _finish_again(
        self, store: Store, record: RunRecord, free: FreeLease, extension: Extension | None
    ) -> Iterator[Event]:
        """Count the images of a finished run, and write its report, which may be missing or old."""
        layout = record.layout
        self.log.has_made_nothing = True
        with held_run(store, free, self.log) as lease:
            record = yield from self._extended(store, record, lease, extension, record.infos)
            yield Planned(layout.num_images, layout.num_shards, num_done=layout.num_images)
            self._maker.complete(store, record, lease)

    def _check(self, model: ModelInfos, batch_size: int) -> PlanLayout:
        with self._readable() as spec:
            layout = check(spec, model, batch_size, mapper=planning_mapper(spec))
            return check_inputs(spec, layout, EarlierRuns(spec.url, spec.storage))

    def _readable(self) -> AbstractContextManager[RunSpec]:
        """The job, with a table as a file that can be read."""
        table = self._table
        return nullcontext(self._spec) if table is None else table.temporary_job(self._spec)

    def _first_actor(
        self, factory: "ActorFactory", require_lease: Callable[[], None]
    ) -> "FirstActor":
        from nightpress.jobs.dispatch.first_actor import FirstActor

        def keep_waiting() -> None:
            require_lease()
            if self._deadline_at is not None and time.time() >= self._deadline_at:
                raise StoppedOnRequest(
                    "stopped: the deadline came before the first actor had started"
                )

        return FirstActor(factory, self._spec.cluster.load_timeout_s, keep_waiting)
