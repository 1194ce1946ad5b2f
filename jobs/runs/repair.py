"""What is done to a run that was made: rows made again, plans mended, strays swept.

All of it under the run's lease. What is wrong with a run, others find.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from nightpress.jobs.cluster.connection import cluster
from nightpress.jobs.cluster.preflight import require_store_on_every_node
from nightpress.jobs.dispatch.config import dispatch_config_of
from nightpress.jobs.dispatch.first_actor import FirstActor
from nightpress.jobs.progress.events import Event, Planned
from nightpress.jobs.progress.failure_limit import FailureLimit
from nightpress.jobs.runs.runner import actor_factory, as_it_honours, dispatching, stopping_for_good
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.planning import manifest_changes, rewrite_plan_part
from nightpress.pipelines.reporting.report import write_report
from nightpress.pipelines.run_directory.commit import failed_rows, read_commit
from nightpress.pipelines.run_directory.lease import Lease, held, require_free
from nightpress.pipelines.run_directory.orphans import delete_orphans
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.run_directory.record import refuse_changes
from nightpress.pipelines.shards.work import Amendment
from nightpress.pipelines.storage import Store


@dataclass(frozen=True)
class RepairResult:
    """How it ended."""

    url: str
    num_rows: int
    """Made again, or committed again."""
    num_ok: int
    num_failed: int
    num_same: int
    """Of those that were stored before: they have the bytes that their metadata named."""
    num_different: int


def failed_amendments(run: Run) -> dict[int, Amendment]:
    """Shard -> its rows that failed."""
    found = ((shard, failed_rows(run.store, shard)) for shard in run.committed)
    return {shard: Amendment(rows) for shard, rows in found if rows}


def remake(
    run: Run,
    spec: RunSpec,
    amendments: Mapping[int, Amendment],
    on_event: Callable[[Event], None] = lambda event: None,
    *,
    take_over: bool = False,
) -> RepairResult:
    """Make rows of committed shards again and put them in their metadata.

    Args:
        run: which.
        spec: its job, on the cluster and with the failure limit that are meant here.
        amendments: shard -> rows.
        on_event: called with every event.
        take_over: push aside another start that works on the same run.

    Raises:
        RunHeld: another start works on it.
        ChangedRunError: the model is not that of the run any more.
        RunStopped: stopped early; what was made is kept.
    """
    run = Run(as_it_honours(run.store, on_event), run.record)
    before = {shard: _sums(run.store, shard, amends) for shard, amends in amendments.items()}
    free = require_free(run.store, take_over)
    with cluster(spec.cluster):
        require_store_on_every_node(spec.cluster, run.store)
        # Before any actor: those of a run that is taken over hold the room for ours.
        with held(run.store, free) as lease:
            for event in _made(run, spec, lease, amendments):
                on_event(event)
    return _compared(run, amendments, before)


def mend_plans(
    run: Run, shards: Sequence[int], on_event: Callable[[Event], None], take_over: bool = False
) -> None:
    """Write the parts of the plan that hold some shards again.

    Raises:
        RunHeld: another start works on the run.
        LeaseLost: another start has taken it over.
        ChangedRunError: the manifest is not what it was.
    """
    store, record = as_it_honours(run.store, on_event), run.record
    with held(store, require_free(store, take_over)) as lease:
        refuse_changes(store, manifest_changes(record.layout, record.spec))
        for first in sorted({record.layout.part_of(shard).first_shard for shard in shards}):
            lease.fence.require(store)
            rewrite_plan_part(record.spec, record.model, record.layout, store, first)


def remove_orphans(
    run: Run, on_event: Callable[[Event], None], take_over: bool = False
) -> list[str]:
    """Delete what no commit names, looked at anew while nobody else may work on the run.

    Raises:
        RunHeld: another start works on the run.
        LeaseLost: another start has taken it over.
    """
    store = as_it_honours(run.store, on_event)
    with held(store, require_free(store, take_over)) as lease:
        return delete_orphans(Run(store, run.record), lease.fence)


def _made(
    run: Run, spec: RunSpec, lease: Lease, amendments: Mapping[int, Amendment]
) -> Iterator[Event]:
    store, record = run.store, run.record
    factory = actor_factory(spec)
    first = FirstActor(factory, spec.cluster.load_timeout_s, lease.require)
    model = yield from first.start()
    refuse_changes(store, record.changes(spec, model, factory.device))
    num_images = sum(len(each.rows) for each in amendments.values())
    yield Planned(num_images=num_images, num_shards=len(amendments), num_done=0)
    terms = dispatch_config_of(spec, lease, look_first=True)
    limit = FailureLimit(spec.cluster.max_failures)
    with stopping_for_good():
        with dispatching(store, record, factory, terms, lease, limit) as dispatcher:
            dispatcher.pool.adopt(first.handle)
            for event in dispatcher.run(sorted(amendments), amendments):
                limit.add(event)
                yield event
        lease.require()
        write_report(run, store)


def _sums(store: Store, shard: int, amends: Amendment) -> list[str | None]:
    """The sha256 that a commit has for the rows; None where it has none, or cannot be read."""
    if amends.recommits:
        return [None] * len(amends.rows)
    part = read_commit(store, shard, ["sha256"])
    sums: list[str | None] = part.column("sha256").take(list(amends.rows)).to_pylist()
    return sums


def _compared(
    run: Run, amendments: Mapping[int, Amendment], before: Mapping[int, list[str | None]]
) -> RepairResult:
    num_ok = num_failed = num_same = num_different = 0
    for shard, amends in amendments.items():
        part = read_commit(run.store, shard, ["status", "sha256"]).take(list(amends.rows))
        statuses, sums = (part.column(name).to_pylist() for name in ("status", "sha256"))
        num_ok += statuses.count("ok")
        num_failed += statuses.count("failed")
        pairs = zip(before[shard], sums, strict=True)
        stored = [(was, now) for was, now in pairs if was is not None and now is not None]
        num_same += sum(was == now for was, now in stored)
        num_different += sum(was != now for was, now in stored)
    return RepairResult(
        url=run.url,
        num_rows=num_ok + num_failed,
        num_ok=num_ok,
        num_failed=num_failed,
        num_same=num_same,
        num_different=num_different,
    )
