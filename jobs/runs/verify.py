"""`verify`: check a run's images against its metadata and plan, and repair what is wrong."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial

from nightpress.jobs.cluster.connection import cluster, spread_some
from nightpress.jobs.cluster.preflight import require_readable_on_every_node
from nightpress.jobs.errors import UnfinishedRun
from nightpress.jobs.runs.repair import (
    RepairResult,
    delete_orphans,
    repair_rows,
    rewrite_plan_parts,
)
from nightpress.jobs.runs.repair_spec import repair_spec
from nightpress.jobs.runs.shared import OnEvent, failures_as_run_stopped, ignore
from nightpress.jobs.runs.targets import ImageTarget, open_images
from nightpress.pipelines.formatting import plural
from nightpress.pipelines.inputs.reading import InputReader
from nightpress.pipelines.job.sections import ClusterSpec
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.run_directory import verify as checks
from nightpress.pipelines.run_directory.orphans import orphan_thumbs
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.run_directory.record import RUN_FILE
from nightpress.pipelines.run_directory.selections.changes import SelectionChanges, all_changes
from nightpress.pipelines.run_directory.verify import Damage, Finding, ShardVerified
from nightpress.pipelines.run_directory.verify_inputs import InputsVerified, verify_inputs
from nightpress.pipelines.shards.run_images import EarlierRuns
from nightpress.pipelines.shards.work import Amendment
from nightpress.pipelines.storage import Options

SHARDS_A_TASK = 8
"""How many shards one task of a spread check reads."""


@dataclass(frozen=True)
class VerifyResult:
    """What checking a run found, and what was done about it."""

    url: str
    num_checked: int
    """Images that were read."""
    num_failed: int
    """Rows that the metadata records as failed; they have no image to read."""
    num_uncommitted: int
    """Shards without a commit."""
    findings: tuple[Finding, ...]
    """What was wrong, before any repair of images."""
    orphans: tuple[str, ...]
    """Images, packs and objects of `thumbs/` that no commit names; none are looked for if a commit
    is damaged."""
    signed_by: str | None = None
    """Who signed the images, by the certificate that the run names; None if they are not signed."""
    inputs: InputsVerified | None = None
    """The pictures that images were made from, if they were to be checked."""
    repaired: RepairResult | None = None
    """How the rows that were made again turned out; None if none were."""
    deleted: tuple[str, ...] = ()
    """Orphans that were deleted."""
    selections: tuple[SelectionChanges, ...] = ()
    """Selections with images that were made again since, or that cannot be read; none are compared
    if a commit is damaged."""
    num_rejected: int = 0
    """How many of the rows that failed were rejected by the job's gates."""

    @property
    def is_sound(self) -> bool:
        """Nothing is wrong, or everything that was wrong has been repaired.

        Pictures that have changed and damaged selections are wrong too; no repair brings them back.
        Images of a selection may have been made again on purpose.
        """
        if self.inputs is not None and self.inputs.findings:
            return False
        if any(each.problem for each in self.selections):
            return False
        return not self.findings or (self.repaired is not None and not self.repaired.num_failed)


def verify(
    target: ImageTarget,
    on_event: OnEvent = ignore,
    *,
    sample: float = 1.0,
    repair: bool = False,
    remove_orphans: bool = False,
    inputs: bool = False,
    spread: bool = False,
    address: str | None = None,
    max_failures: int | str | None = None,
    allow_pickle: bool = False,
    take_over: bool = False,
    storage: Options | None = None,
) -> VerifyResult:
    """Check every image of a run against its metadata, and the metadata against the plan.

    Args:
        target, on_event: as for `retry`.
        sample: share of the images to read; metadata and plan are always checked completely.
        repair: make what is missing or damaged again.
        remove_orphans: delete the images, packs and thumbnails that no commit names.
        inputs: also compare the hashes of the pictures that images were made from.
        spread: read the images in tasks on all nodes of the cluster.
        address, max_failures, allow_pickle, take_over, storage: of a repair; see `retry`.

    Raises:
        UnfinishedRun: `remove_orphans` before every shard is committed.
        RunNotFound, RunHeld, UntrustedRun, ChangedRunError, StoreError ...: as `retry` raises them.
    """
    run = open_images(target, storage)
    pickles = allow_pickle or not repair  # without a repair no model is loaded
    spec = repair_spec(run, target, address, max_failures, pickles) if repair or spread else None
    result = _check(run, sample, remove_orphans, spec.cluster if spec and spread else None)
    if spec and repair:
        result = _repair(run, spec, result, sample, on_event, take_over)
    if remove_orphans:
        result = replace(result, deleted=delete_orphans(run, on_event, take_over=take_over))
    result = _with_selections(run, result)
    return replace(result, inputs=verify_inputs(run, _reader(run))) if inputs else result


def _with_selections(run: Run, result: VerifyResult) -> VerifyResult:
    """The result with what has become of the run's selections, if every commit can be read."""
    if result.repaired is None and any(finding.row is None for finding in result.findings):
        return result
    return replace(result, selections=all_changes(run))


def _reader(run: Run) -> InputReader:
    """Reads the pictures of a run's images as they are now, without a cache."""
    options: Options = {**run.spec.storage, **run.store.options}
    return InputReader(run.spec.inputs, options, EarlierRuns(run.url, options))


def _spread(run: Run, sample: float, nodes: ClusterSpec) -> Iterator[ShardVerified]:
    """Check every committed shard in tasks on all nodes, a few shards a task."""
    with cluster(nodes):
        require_readable_on_every_node(run.store, RUN_FILE)
        check = partial(checks.verify_shards, run, sample=sample)
        yield from spread_some(check, run.committed, SHARDS_A_TASK)


def _check(
    run: Run, sample: float, needs_all: bool = False, nodes: ClusterSpec | None = None
) -> VerifyResult:
    """Check every committed shard, and look for orphans if every commit can be read.

    Args:
        run: the run.
        sample: the share of images to read.
        needs_all: whether every shard must be committed.
        nodes: the cluster on whose nodes to do it; None for this process.

    Raises:
        UnfinishedRun: every shard must be committed, and one is not.
    """
    found = checks.verify(run, sample) if nodes is None else _spread(run, sample, nodes)
    shards = list(found)
    findings = tuple(finding for shard in shards for finding in shard.findings)
    # An unreadable commit may name any image.
    all_named = all(finding.row is not None for finding in findings)
    result = VerifyResult(
        url=run.url,
        num_checked=sum(shard.num_checked for shard in shards),
        num_failed=sum(shard.num_failed for shard in shards),
        num_rejected=sum(shard.num_rejected for shard in shards),
        num_uncommitted=run.record.layout.num_shards - len(shards),
        findings=findings,
        orphans=(*checks.orphan_images(run), *orphan_thumbs(run)) if all_named else (),
        signed_by=run.record.file_format.signed_by,
    )
    if needs_all:
        _require_finished(result)
    return result


def _repair(
    run: Run,
    spec: RunSpec,
    result: VerifyResult,
    sample: float,
    on_event: OnEvent,
    take_over: bool,
) -> VerifyResult:
    """Rewrite damaged plan parts first, since the rest is checked against them; then make rows."""
    damaged_plan = [finding.shard for finding in result.findings if finding.damage is Damage.PLAN]
    if damaged_plan:
        rewrite_plan_parts(run, damaged_plan, on_event, take_over=take_over)
    with failures_as_run_stopped() if damaged_plan else nullcontext():
        if damaged_plan:
            result = _check(run, sample)
        if not result.findings:
            return result
        amendments = _amendments(run, result.findings)
        repaired = repair_rows(
            run, spec, amendments, on_event, take_over=take_over, command="verify"
        )
        return replace(result, repaired=repaired)


def _amendments(run: Run, findings: Sequence[Finding]) -> dict[int, Amendment]:
    """Shard -> the rows to make again; every row of a shard whose commit is damaged.

    A pack is made again as a whole, without sampling the images in it that are sound.
    """
    rows: defaultdict[int, list[int]] = defaultdict(list)
    damaged = {finding.shard for finding in findings if finding.row is None}
    for finding in findings:
        if finding.row is not None:
            rows[finding.shard].append(finding.row)
    amendments = {
        shard: Amendment(checks.rows_in_same_packs(run, shard, damaged_rows), replaces=True)
        for shard, damaged_rows in rows.items()
        if shard not in damaged
    }
    for shard in damaged:
        every = range(run.record.layout.shard_images(shard))
        amendments[shard] = Amendment(tuple(every), recommits=True)
    return amendments


def _require_finished(result: VerifyResult) -> None:
    """Refuse to delete orphans of an unfinished run: its next commits may name them."""
    if result.num_uncommitted:
        raise UnfinishedRun(
            f"{result.url}: cannot remove orphans: the run has "
            f"{plural(result.num_uncommitted, 'shard')} without a commit, to which those images "
            "may belong; finish the run with nightpress run first"
        )
