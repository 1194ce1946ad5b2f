"""Make some rows of a run again: those that failed, or whose images are damaged or gone."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from jobs.cluster import cluster
from jobs.events import Event, Planned
from jobs.failure_limit import FailureLimit
from jobs.preflight import require_store_on_every_node
from jobs.runner import (
    actor_factory,
    as_it_honours,
    dispatching,
    stopping_for_good,
)
from jobs.starting import FirstActor
from jobs.terms import terms_of
from pipelines.commit import read_commit, shard_path
from pipelines.lease import Lease, held, require_free
from pipelines.planning import manifest_changes, mend_plan
from pipelines.report import write_report
from pipelines.run_record import refuse_changes
from pipelines.runs import Run
from pipelines.shard import Amendment
from pipelines.spec import RunSpec


@dataclass(frozen=True)
class RemakeResult:
    """How it ended."""

    url: str
    num_rows: int
    """Made again, or committed again."""
    num_ok: int
    num_failed: int
    num_same: int
    """Of those that were stored before: they have the bytes that their metadata named."""
    num_different: int


def failed_rows(run: Run) -> dict[int, Amendment]:
    """Shard -> its rows that failed."""
    found: dict[int, Amendment] = {}
    for shard in run.committed:
        statuses = read_commit(run.store, shard).column("status").to_pylist()
        rows = tuple(row for row, status in enumerate(statuses) if status == "failed")
        if rows:
            found[shard] = Amendment(rows, replaces=False)
    return found


def remake(
    run: Run,
    amendments: Mapping[int, Amendment],
    on_event: Callable[[Event], None] = lambda event: None,
    *,
    uncommit: Sequence[int] = (),
    spec: RunSpec | None = None,
    take_over: bool = False,
) -> RemakeResult:
    """Make rows of committed shards again and put them in their metadata.

    Args:
        run: which.
        amendments: shard -> rows.
        on_event: called with every event.
        uncommit: shards whose metadata is damaged: it is made again, from the images that are
            there and those that are not.
        spec: the run's job, on another cluster than it was begun on.
        take_over: push aside another start that works on the same run.

    Raises:
        RunHeld: another start works on it.
        ChangedRunError: the model is not that of the run any more.
        RunStopped: stopped early; what was made is kept.
    """
    spec = spec or run.spec
    run = Run(as_it_honours(run.store, on_event), run.record)
    before = {shard: read_commit(run.store, shard) for shard in amendments}
    free = require_free(run.store, take_over)
    with cluster(spec.cluster):
        require_store_on_every_node(spec.cluster, run.store)
        # Before any actor: those of a run that is taken over hold the room for ours.
        with held(run.store, free) as lease:
            for event in _made(run, spec, lease, amendments, uncommit):
                on_event(event)
    return _compared(run, amendments, uncommit, before)


def mend_plans(run: Run, shards: Sequence[int], take_over: bool = False) -> None:
    """Write the parts of the plan that hold some shards again.

    Raises:
        RunHeld: another start works on the run.
        ChangedRunError: the manifest is not what it was.
    """
    store, record = run.store, run.record
    with held(store, require_free(store, take_over)):
        refuse_changes(store, manifest_changes(record.layout, record.spec))
        for first in {record.layout.part_of(shard).first_shard for shard in shards}:
            mend_plan(record.spec, record.model, record.layout, store, first)


def _made(
    run: Run,
    spec: RunSpec,
    lease: Lease,
    amendments: Mapping[int, Amendment],
    uncommit: Sequence[int],
) -> Iterator[Event]:
    store, record = run.store, run.record
    factory = actor_factory(spec)
    first = FirstActor(factory, spec.cluster.load_timeout_s, lease.require)
    model = yield from first.described()
    refuse_changes(store, record.changes(spec, model, factory.device))
    for shard in uncommit:
        store.delete(shard_path(shard))
    shards = sorted({*amendments, *uncommit})
    num_images = sum(map(record.layout.shard_images, uncommit))
    num_images += sum(len(each.rows) for each in amendments.values())
    yield Planned(num_images=num_images, num_shards=len(shards), num_done=0)
    terms = terms_of(spec, lease, look_first=True)
    limit = FailureLimit(spec.cluster.max_failures)
    with stopping_for_good():
        with dispatching(store, record, factory, terms, lease, limit) as dispatcher:
            dispatcher.adopt(first.handle)
            for event in dispatcher.run(shards, amendments):
                limit.add(event)
                yield event
        lease.require()
        write_report(run, store)


def _compared(
    run: Run,
    amendments: Mapping[int, Amendment],
    uncommit: Sequence[int],
    before: Mapping[int, pa.Table],
) -> RemakeResult:
    num_ok = num_failed = num_same = num_different = 0
    for shard in uncommit:
        statuses = read_commit(run.store, shard).column("status").to_pylist()
        num_ok += statuses.count("ok")
        num_failed += statuses.count("failed")
    for shard, amends in amendments.items():
        rows = list(amends.rows)
        old, new = before[shard].take(rows), read_commit(run.store, shard).take(rows)
        ok = pc.sum(pc.equal(new.column("status"), "ok")).as_py() or 0
        num_ok += ok
        num_failed += len(rows) - ok
        pairs = zip(old.column("sha256").to_pylist(), new.column("sha256").to_pylist(), strict=True)
        stored = [(was, now) for was, now in pairs if was is not None and now is not None]
        num_same += sum(was == now for was, now in stored)
        num_different += sum(was != now for was, now in stored)
    return RemakeResult(
        url=run.url,
        num_rows=num_ok + num_failed,
        num_ok=num_ok,
        num_failed=num_failed,
        num_same=num_same,
        num_different=num_different,
    )
