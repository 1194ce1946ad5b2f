"""Repairs of an existing run: make rows again, rewrite plan parts, delete orphans.

Each repair holds the run's lease while it works. The caller finds out what is wrong.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import pyarrow as pa

from nightpress.jobs.cluster.connection import cluster
from nightpress.jobs.cluster.preflight import require_store_on_every_node
from nightpress.jobs.dispatch.assignment import first_model
from nightpress.jobs.dispatch.config import dispatch_config_of
from nightpress.jobs.dispatch.first_actor import FirstActor
from nightpress.jobs.dispatch.footprint import sized_factory
from nightpress.jobs.progress.events import Event, Planned
from nightpress.jobs.runs.extension import require_no_new_edition
from nightpress.jobs.runs.input_session import input_session
from nightpress.jobs.runs.shared import (
    OnEvent,
    actor_factory,
    create_only_store,
    dispatching,
    failures_as_run_stopped,
    ignore,
    require_free_run,
)
from nightpress.jobs.runs.start_log import StartLog, StartOptions, held_run
from nightpress.jobs.runs.watch import Watch
from nightpress.pipelines.image_files.content_credentials.setup import (
    signing_key_of,
    with_certificate,
)
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.planning import planned_file_changes, rewrite_plan_part
from nightpress.pipelines.reporting.report import write_report
from nightpress.pipelines.run_directory import orphans
from nightpress.pipelines.run_directory.commit import read_commit
from nightpress.pipelines.run_directory.lease import Lease, held
from nightpress.pipelines.run_directory.map_ahead import map_ahead
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.run_directory.record import refuse_changes
from nightpress.pipelines.scoring.job_scorers import fingerprints_of
from nightpress.pipelines.shards.events import ShardDone
from nightpress.pipelines.shards.work import Amendment
from nightpress.pipelines.storage import READ_THREADS, Store


@dataclass(frozen=True)
class RepairResult:
    """How rows that were made again turned out."""

    url: str
    num_rows: int
    """Rows made again, or only committed again."""
    num_ok: int
    num_failed: int
    num_same: int
    """Images that were stored before and now have the bytes that their metadata named."""
    num_different: int
    """Images that were stored before and now have other bytes."""
    num_rejected: int = 0
    """Images that the job's gates rejected, and that `retry` does not draw again."""


def repair_rows(
    run: Run,
    spec: RunSpec,
    amendments: Mapping[int, Amendment],
    on_event: OnEvent = ignore,
    *,
    take_over: bool = False,
    command: str = "retry",
) -> RepairResult:
    """Make rows of committed shards again and replace them in the metadata.

    Args:
        run: the run to repair.
        spec: its job, with the cluster and the failure limit of this repair.
        amendments: shard -> rows.
        on_event: called with every event.
        take_over: take over from another process that is working on this run.
        command: `retry` or `verify`, for the log of the run.

    Raises:
        SpecError: earlier starts were paid for in another currency, or what signs the images is
            not there.
        RunHeld: another process is working on this run.
        RunStopped: stopped early; what was made is kept.
        RunBlocked: likewise, or the model is no longer the one that the run was made with.
    """
    signing_key_of(with_certificate(spec))
    log = StartLog(StartOptions(command), spec, on_event)
    log.read_earlier(run.store)
    run = Run(create_only_store(run.store, log.show), run.record)
    with ThreadPoolExecutor(READ_THREADS) as pool:
        hashes = pool.map(partial(_hashes, run.store), amendments, amendments.values())
        before = dict(zip(amendments, hashes, strict=True))
    free = require_free_run(run.store, take_over, log.show)
    with cluster(spec.cluster):
        require_store_on_every_node(spec.cluster, run.store)
        # Acquire the lease before starting any actor: the actors of a process that is taken over
        # still hold the CPUs and GPUs that ours need.
        with held_run(run.store, free, log) as lease:
            return _repaired(run, spec, lease, amendments, before, log)


def _repaired(
    run: Run,
    spec: RunSpec,
    lease: Lease,
    amendments: Mapping[int, Amendment],
    before: Mapping[int, list[str | None]],
    log: StartLog,
) -> RepairResult:
    """Make the rows again under the lease, and compare."""
    ends: dict[int, ShardDone] = {}
    for event in _repair(run, spec, lease, amendments, log):
        if isinstance(event, ShardDone):
            ends[event.shard] = event
        log.show(event)
    result = _compared(run, amendments, before, ends)
    log.finish(run.progress(), result.num_failed)
    log.store_now()
    write_report(run, run.store)
    return result


def rewrite_plan_parts(
    run: Run, shards: Sequence[int], on_event: OnEvent = ignore, *, take_over: bool = False
) -> None:
    """Write the parts of the plan that hold some shards again.

    Raises:
        RunHeld: another process is working on this run.
        LeaseLost: another process has taken the run over.
        ChangedRunError: the manifest has changed since the run was started.
    """
    store, record = create_only_store(run.store, on_event), run.record
    free = require_free_run(store, take_over, on_event)
    for section in record.layout.sections_of(shards):
        refuse_changes(store, planned_file_changes(section, record.spec.storage))
    with held(store, free) as lease, failures_as_run_stopped():
        for first in sorted({record.layout.part_of(shard).first_shard for shard in shards}):
            lease.fence.require(store)
            rewrite_plan_part(record.spec, record.infos, record.layout, store, first)


def delete_orphans(
    run: Run, on_event: OnEvent = ignore, *, take_over: bool = False
) -> tuple[str, ...]:
    """Delete what no commit names: images, packs and thumbnails; returns their paths.

    They are looked up again under the lease, when no other process may work on the run.

    Raises:
        RunHeld: another process is working on this run.
        LeaseLost: another process has taken the run over.
        RunStopped: another process has extended the run since it was opened.
    """
    store = create_only_store(run.store, on_event)
    free = require_free_run(store, take_over, on_event)
    with held(store, free) as lease, failures_as_run_stopped():
        require_no_new_edition(store, run.record)
        opened = Run(store, run.record)
        images = orphans.delete_orphans(opened, lease.fence)
        return (*images, *orphans.delete_thumbs(opened, lease.fence))


def _repair(
    run: Run, spec: RunSpec, lease: Lease, amendments: Mapping[int, Amendment], log: StartLog
) -> Iterator[Event]:
    store, record = run.store, run.record
    factory = actor_factory(spec)
    first = FirstActor(factory, spec.cluster.load_timeout_s, lease.require)
    model = yield from first.start()
    scorers = fingerprints_of((yield from first.scorers()))
    factory = yield from sized_factory(spec, first)
    refuse_changes(store, record.changes(spec, model, factory.device, scorers))
    num_images = sum(len(amends.rows) for amends in amendments.values())
    yield Planned(num_images=num_images, num_shards=len(amendments), num_done=0)
    watch = Watch(spec.cluster.max_failures)
    damaged = [shard for shard, amends in amendments.items() if amends.recommits]
    inputs = input_session(run, unreadable=damaged)
    config = dispatch_config_of(spec, lease, look_first=True, inputs=inputs)
    with dispatching(store, record, factory, config, lease, watch) as dispatcher:
        log.watch(dispatcher.pool, factory.gpus)
        dispatcher.pool.adopt(first.handle, first_model(record, amendments, first.model))
        yield from watch.following(dispatcher.run(sorted(amendments), amendments))
    lease.require()


def _hashes(store: Store, shard: int, amends: Amendment) -> list[str | None]:
    """Each row's sha256 in the commit; None if it has none or the commit cannot be read."""
    if amends.recommits:
        return [None] * len(amends.rows)
    part = read_commit(store, shard, ["sha256"])
    hashes: list[str | None] = part.column("sha256").take(list(amends.rows)).to_pylist()
    return hashes


def _parts(run: Run, amendments: Mapping[int, Amendment]) -> Iterator[tuple[int, pa.Table]]:
    """Each shard with the amended rows of its commit, read side by side."""

    def read(shard: int) -> pa.Table:
        part = read_commit(run.store, shard, ["status", "sha256"])
        return part.take(list(amendments[shard].rows))

    with ThreadPoolExecutor(READ_THREADS) as pool:
        yield from zip(amendments, map_ahead(pool, read, amendments, READ_THREADS), strict=True)


def _compared(
    run: Run,
    amendments: Mapping[int, Amendment],
    before: Mapping[int, list[str | None]],
    ends: Mapping[int, ShardDone],
) -> RepairResult:
    """Compare the commits before and after.

    Args:
        ends: how each shard ended, where rows count as failed that are still ok in the commit.
    """
    num_ok = num_failed = num_same = num_different = 0
    for shard, part in _parts(run, amendments):
        statuses, hashes = (part.column(name).to_pylist() for name in ("status", "sha256"))
        num_bad = statuses.count("failed")
        num_unmade = max(0, ends[shard].num_failed - num_bad) if shard in ends else 0
        num_ok += statuses.count("ok") - num_unmade
        num_failed += num_bad + num_unmade
        pairs = zip(before[shard], hashes, strict=True)
        stored = [(old, new) for old, new in pairs if old is not None and new is not None]
        num_same += sum(old == new for old, new in stored) - num_unmade
        num_different += sum(old != new for old, new in stored)
    return RepairResult(
        url=run.url,
        num_rows=num_ok + num_failed,
        num_ok=num_ok,
        num_failed=num_failed,
        num_same=num_same,
        num_different=num_different,
    )
