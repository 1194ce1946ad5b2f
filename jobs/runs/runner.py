"""`run`: the whole story of a run, from a job to a finished image set.

Owns the order of things. What each of them is, the rooms beside this one know.
"""

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

from nightpress.diffusion_core.models.loading import ModelSpec
from nightpress.jobs.cluster.connection import alive_nodes, cluster, resolved_gpus, spread_map
from nightpress.jobs.cluster.preflight import require_store_on_every_node
from nightpress.jobs.dispatch.actor import ActorFactory
from nightpress.jobs.dispatch.batch_size import decide_batch_sizes, resolve_batch_size
from nightpress.jobs.dispatch.config import DispatchConfig, dispatch_config_of
from nightpress.jobs.dispatch.dispatcher import Dispatcher
from nightpress.jobs.dispatch.first_actor import FirstActor
from nightpress.jobs.errors import ClusterError, IncompleteRun, RunStopped
from nightpress.jobs.progress.events import Event, Message, Planned
from nightpress.jobs.progress.failure_limit import FailureLimit
from nightpress.jobs.progress.tally import Tally
from nightpress.jobs.progress.trace import (
    BetweenBatches,
    between_batches,
    chrome_trace,
    shares,
    time_lines,
)
from nightpress.jobs.signals import first_interruption
from nightpress.pipelines.errors import ManifestError, StoreError
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.models.location import absolute_source
from nightpress.pipelines.planning import (
    Mapper,
    check,
    cut_into_shards,
    manifest_changes,
    rewrite_plan_part,
    write_plan,
)
from nightpress.pipelines.reporting.report import write_report
from nightpress.pipelines.run_directory.commit import committed_shards
from nightpress.pipelines.run_directory.lease import (
    SILENCE_S,
    FreeLease,
    Holder,
    Lease,
    held,
    require_free,
    require_still_free,
)
from nightpress.pipelines.run_directory.reader import Run, RunProgress
from nightpress.pipelines.run_directory.record import (
    RunRecord,
    create_record,
    new_record,
    read_record,
    refuse_changes,
    threads_for,
)
from nightpress.pipelines.run_directory.summary_index import summary_index_kept
from nightpress.pipelines.shards.timeline import TimeSpent
from nightpress.pipelines.storage import Store, find, is_local

READS_BACK = (
    "this store lets a name be written twice (it ignores If-None-Match: *); every name is looked "
    "for before it is written and read afterwards, which keeps the promise for one driver"
)


@dataclass(frozen=True)
class RunResult:
    """How a run ended."""

    url: str
    num_images: int
    num_ok: int
    num_failed: int
    num_made: int
    """Images made since this start; the others were there."""
    elapsed_s: float
    images_per_s: float | None
    """Since the first batch, which warms the model up; None where nothing was made after it."""
    time_shares: dict[str, float]
    """What the actors did with their time: busy, waiting for input or output, and so on."""
    between_batches: BetweenBatches | None
    """By the host's clock, from the end of one batch's sampling to the beginning of the next; None
    without two batches."""


def run(
    spec: RunSpec,
    on_event: Callable[[Event], None] = lambda event: None,
    *,
    take_over: bool = False,
    deadline_at: float | None = None,
    trace: Callable[[str], None] | None = None,
) -> RunResult:
    """Run a job to its end, or go on with one that was interrupted.

    Args:
        spec: the job.
        on_event: called with every event, for those who show progress.
        take_over: push aside another start that works on the same run.
        deadline_at: stop in time for all that is begun to be committed by then; seconds since
            the epoch.
        trace: called at the end, an early one too, with what the actors did when, in Chrome's
            trace format; not where the run ends before they have anything to do.

    Raises:
        SpecError, ManifestError, ModelError, StoreDenied, ClusterError: nothing was written.
        ChangedRunError: the run directory belongs to a job that has changed since.
        RunHeld: another start works on it.
        LeaseLost: another start took it over; this one stopped.
        RunStopped: stopped early; calling this again goes on from there.
    """
    tally = Tally()
    store = Store(spec.url, spec.storage)
    store.check()
    find(spec.manifests, spec.storage)
    press = _Press(spec, take_over, deadline_at, on_event, traced=trace is not None)
    with _actors_time_told(press, on_event, trace), closing(press.events(store)) as events:
        for event in events:
            tally.add(event)
            on_event(event)
    ended, spent = press.progress, press.spent or []
    assert ended is not None  # noqa: S101 - events end in an error or in the totals
    return RunResult(
        url=spec.url,
        num_images=ended.num_images,
        num_ok=ended.num_ok,
        num_failed=ended.num_failed,
        num_made=tally.num_made,
        elapsed_s=tally.elapsed_s,
        images_per_s=tally.images_per_s,
        time_shares=shares(spent),
        between_batches=between_batches(spent),
    )


@contextmanager
def _actors_time_told(
    press: "_Press", on_event: Callable[[Event], None], trace: Callable[[str], None] | None
) -> Iterator[None]:
    """Tell what the actors did, however the run ends."""
    try:
        yield
    finally:
        spent = press.spent
        if spent is not None and press.progress is None:  # there is no result that says it
            for line in time_lines(shares(spent), between_batches(spent)):
                on_event(Message(line))
        if spent is not None and trace is not None:
            trace(chrome_trace(spent))


@dataclass(frozen=True)
class _Claimed:
    """A run directory that is this start's own, and the actor that is at hand for it."""

    store: Store
    record: RunRecord
    lease: Lease
    factory: ActorFactory
    first: FirstActor
    resumed: bool


def as_it_honours(store: Store, on_event: Callable[[Event], None]) -> Store:
    """The store, reading back what it writes if it lets names be written twice."""
    if store.honours_create_only():
        return store
    on_event(Message(READS_BACK, warning=True))
    return store.reading_back()


def actor_factory(spec: RunSpec, traced: bool = False) -> ActorFactory:
    """Actors as the job asks for them, on the cluster that is connected."""
    gpus = resolved_gpus(spec.cluster.gpus_per_actor)
    cpus = spec.cluster.cpus_per_actor
    return ActorFactory(
        spec=_absolute_model(spec.model),
        options=spec.storage,
        cpus=cpus,
        gpus=gpus,
        threads=threads_for(spec, "cuda" if gpus else "cpu"),
        traced=traced,
    )


def _absolute_model(model: ModelSpec) -> ModelSpec:
    """The model with its local sources by their full paths: actors stand elsewhere.

    A full path may end in another name, where there are links; LoRAs are called as the job has it.
    """
    loras = {
        name: tuple(
            lora.model_copy(update={"source": absolute_source(lora.source), "name": lora.label})
            for lora in getattr(model, name)
        )
        for name in ("loras", "row_loras")
    }
    return model.model_copy(update={"source": absolute_source(model.source), **loras})


def planning_mapper(spec: RunSpec) -> Mapper:
    """Ray tasks, unless the manifest lies on a disk that only this machine may have."""
    local = any(is_local(url) for url in spec.manifests)
    return map if local and len(alive_nodes()) > 1 else spread_map


class _Press:
    """One start of a run, from its checks to its report."""

    def __init__(
        self,
        spec: RunSpec,
        take_over: bool,
        deadline_at: float | None,
        on_event: Callable[[Event], None],
        traced: bool,
    ) -> None:
        self.spec = spec
        self._on_event = on_event
        self._traced = traced
        self.spent: list[TimeSpent] | None = None
        """What the actors did with their time, once they were given work and it has ended."""
        self.progress: RunProgress | None = None
        """The totals, once every shard is committed."""
        self._take_over, self._deadline_at = take_over, deadline_at

    def events(self, store: Store) -> Generator[Event, None, None]:
        """The whole of it."""
        store = as_it_honours(store, self._on_event)
        free = require_free(store, self._take_over, self._watching)
        record = read_record(store)
        if record is not None:
            job_changes = record.spec.changes(self.spec)
            refuse_changes(store, job_changes or manifest_changes(record.layout, self.spec))
        with cluster(self.spec.cluster):
            require_store_on_every_node(self.spec.cluster, store)
            if record is None:
                yield from self._begin(store, free)
            else:
                # Before any actor: those of a run that is taken over hold the room for ours.
                with held(store, free) as lease:
                    yield from self._go_on(store, record, lease)

    def _watching(self, claim: Holder) -> None:
        text = f"this run was begun by {claim}; watching for {SILENCE_S:.0f} s whether it still is"
        self._on_event(Message(text))

    def _begin(self, store: Store, free: FreeLease) -> Iterator[Event]:
        """A new run: nothing is written before all of it is known to be right."""
        spec, factory = self.spec, actor_factory(self.spec, self._traced)
        first = self._first_actor(factory, lambda: require_still_free(store, free))
        model = yield from first.start()
        yield from _thread_warning(factory)
        usual = resolve_batch_size(spec, factory.device)
        loading = first.begin_loading(model.identity, usual)  # beside the planning
        layout = check(spec, model, usual, mapper=planning_mapper(spec))
        # A model that does not load leaves nothing behind.
        yield from first.finish_loading(loading, model.identity, usual)
        sizes = yield from decide_batch_sizes(spec, model, layout, first)
        layout = cut_into_shards(spec, layout, sizes.largest)
        record = new_record(spec, model, factory.device, sizes, layout)
        with held(store, free) as lease:
            record = create_record(store, record)
            with stopping_for_good():
                yield from self._make(_Claimed(store, record, lease, factory, first, False))

    def _go_on(self, store: Store, record: RunRecord, lease: Lease) -> Iterator[Event]:
        factory = actor_factory(self.spec, self._traced)
        first = self._first_actor(factory, lease.require)
        model = yield from first.start()
        yield from _thread_warning(factory)
        refuse_changes(store, record.changes(self.spec, model, factory.device))
        yield from _version_warnings(record)
        with stopping_for_good():
            yield from self._make(_Claimed(store, record, lease, factory, first, True))

    def _first_actor(self, factory: ActorFactory, still_ours: Callable[[], None]) -> FirstActor:
        def go_on() -> None:
            still_ours()
            if self._deadline_at is not None and time.time() >= self._deadline_at:
                raise RunStopped("stopped: no actor had started when the deadline came")

        return FirstActor(factory, self.spec.cluster.load_timeout_s, go_on)

    def _make(self, run: _Claimed) -> Iterator[Event]:
        store, record = run.store, run.record
        yield from _write_plan(self.spec, store, record)
        try:
            with summary_index_kept(store):
                yield from self._dispatch(run)
        except RunStopped:
            if self._deadline_at is not None:  # complete up to there, the page included
                write_report(Run(store, record), store)
            raise
        run.lease.require()
        self.progress = _require_complete(store, record)
        write_report(Run(store, record), store)

    def _dispatch(self, run: _Claimed) -> Iterator[Event]:
        committed = committed_shards(run.store)
        layout = run.record.layout
        yield Planned(
            num_images=layout.num_images,
            num_shards=layout.num_shards,
            num_done=sum(map(layout.shard_images, committed)),
        )
        left = [shard for shard in range(layout.num_shards) if shard not in committed]
        terms = dispatch_config_of(
            self.spec, run.lease, look_first=run.resumed, deadline_at=self._deadline_at
        )
        limit = FailureLimit(self.spec.cluster.max_failures)
        with dispatching(run.store, run.record, run.factory, terms, run.lease, limit) as dispatcher:
            if left:
                dispatcher.pool.adopt(run.first.handle)
            try:
                for event in dispatcher.run(left):
                    limit.add(event)
                    yield event
            finally:  # while they live: they end with their dispatcher
                self.spent = dispatcher.pool.time_spent()


@contextmanager
def dispatching(
    store: Store,
    record: RunRecord,
    factory: ActorFactory,
    terms: DispatchConfig,
    lease: Lease,
    limit: FailureLimit,
) -> Iterator[Dispatcher]:
    """A dispatcher that stops when it is interrupted, fenced off, or fails too much."""
    with first_interruption() as asked:

        def reason_to_stop() -> str | None:
            lease.require()
            return "asked to stop" if asked.is_set() else limit.exceeded

        def mend(shard: int) -> None:
            lease.fence.require(store)
            refuse_changes(store, manifest_changes(record.layout, record.spec))
            rewrite_plan_part(record.spec, record.model, record.layout, store, shard)

        dispatcher = Dispatcher(
            store, record, factory, terms, reason_to_stop=reason_to_stop, repair_plan=mend
        )
        with closing(dispatcher):
            yield dispatcher


def _version_warnings(record: RunRecord) -> Iterator[Event]:
    for difference in record.package_differences():
        yield Message(difference, warning=True)


def _write_plan(spec: RunSpec, store: Store, record: RunRecord) -> Iterator[Event]:
    """Write the parts of the plan that are not there yet."""
    mapper = planning_mapper(spec)
    written = write_plan(spec, record.model, record.layout, store, mapper=mapper)
    for count, _ in enumerate(written, start=1):
        if count % 10 == 0:
            yield Message(f"{count} of {len(record.layout.parts)} plan parts are written")


def _require_complete(store: Store, record: RunRecord) -> RunProgress:
    run = Run(store, record)
    committed = run.committed
    missing = set(range(record.layout.num_shards)) - set(committed)
    if missing:
        raise IncompleteRun(
            f"{store.url}: {len(missing)} shards have no commit, the first is {min(missing)}"
        )
    progress = run.progress(committed)
    if progress.num_ok + progress.num_failed != record.layout.num_images:
        raise IncompleteRun(
            f"{store.url}: {progress.num_ok:,} ok and {progress.num_failed:,} failed do not make "
            f"the {record.layout.num_images:,} images of the plan"
        )
    return progress


@contextmanager
def stopping_for_good() -> Iterator[None]:
    """Around what writes: from there on a failure stops the run, and the same command goes on."""
    try:
        yield
    except (StoreError, ManifestError, ClusterError) as error:
        raise RunStopped(str(error)) from error


def _thread_warning(factory: ActorFactory) -> Iterator[Event]:
    if factory.threads > 1:
        yield Message(
            f"with {factory.threads} threads a model on a CPU may round a pixel differently from "
            "one place in a batch to another; cluster.cpus_per_actor: 1 keeps every bit",
            warning=True,
        )
