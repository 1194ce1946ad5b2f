"""`retry`: make the failed rows of a run again."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

from nightpress.jobs.runs.repair import RepairResult, repair_rows
from nightpress.jobs.runs.repair_spec import repair_spec
from nightpress.jobs.runs.shared import OnEvent, ignore
from nightpress.jobs.runs.targets import ImageTarget, open_images
from nightpress.pipelines.run_directory.commit import failed_rows
from nightpress.pipelines.run_directory.map_ahead import map_ahead
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.run_directory.summary_index import read_totals
from nightpress.pipelines.shards.work import Amendment
from nightpress.pipelines.storage import READ_THREADS, Options


def retry(
    target: ImageTarget,
    on_event: OnEvent = ignore,
    *,
    address: str | None = None,
    max_failures: int | str | None = None,
    allow_pickle: bool = False,
    take_over: bool = False,
    storage: Options | None = None,
) -> RepairResult:
    """Make the failed rows of a run again, and no others.

    A row that succeeds replaces its failure in the metadata. Rows of shards that are not committed
    yet are left to `run`, and images that the gates rejected are not drawn again.

    Args:
        target: the URL of a run directory, a job, or an opened run.
        on_event: called with every event, to show progress.
        address: Ray cluster to join; by default the job's, or for a URL RAY_ADDRESS's or a new one.
        max_failures: stop early when more rows than this have failed again: a number, or a share
            such as `5%`; the job's own limit does not apply.
        allow_pickle: load pickled weights if the run was made with them, though no job allows it.
        take_over: take over from another process that is working on this run.
        storage: fsspec options by protocol, for a URL; a job has its own.

    Raises:
        RunNotFound, RunHeld: there is no run, or another process is working on it.
        UntrustedRun: only the run itself names a cluster, or allows pickles.
        StoreError, ClusterError: the store or the cluster cannot be used.
        RunStopped: stopped early; what was made is kept.
        RunBlocked: likewise, or the model cannot be used, or is no longer the run's.
    """
    run = open_images(target, storage)
    spec = repair_spec(run, target, address, max_failures, allow_pickle)
    failed = failed_amendments(run)
    result = RepairResult(run.url, 0, 0, 0, 0, 0)
    num_rejected = _num_rejected(run, failed)
    if failed:
        result = repair_rows(run, spec, failed, on_event, take_over=take_over)
    return replace(result, num_rejected=num_rejected)


def _num_rejected(run: Run, failed: Mapping[int, Amendment]) -> int:
    """How many rows have failed and are not made again."""
    if run.spec.gates is None:
        return 0
    totals = read_totals(run.store).values()
    return sum(each.summary.num_failed for each in totals) - sum(
        len(each.rows) for each in failed.values()
    )


def failed_amendments(run: Run) -> dict[int, Amendment]:
    """Shard -> its failed rows, of the shards that have any by the totals of their commits."""
    totals = read_totals(run.store)
    shards = sorted(shard for shard, each in totals.items() if each.summary.num_failed)
    with ThreadPoolExecutor(READ_THREADS) as pool:
        rows = map_ahead(pool, partial(failed_rows, run.store), shards, READ_THREADS)
        return {shard: Amendment(each) for shard, each in zip(shards, rows, strict=True) if each}
