"""`again`: other variants of chosen images of a run, as an edition of it."""

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightpress.jobs.cluster.connection import cluster
from nightpress.jobs.cluster.preflight import require_store_on_every_node
from nightpress.jobs.dispatch.first_actor import FirstActor
from nightpress.jobs.dispatch.footprint import sized_factory
from nightpress.jobs.errors import RunStopped, UnfinishedRun
from nightpress.jobs.progress.events import Event, Message
from nightpress.jobs.runs.again_request import MAX_SHOWN, AgainRequest
from nightpress.jobs.runs.copying import marked_if_asked
from nightpress.jobs.runs.extension import require_no_new_edition
from nightpress.jobs.runs.making import HeldRun, Maker
from nightpress.jobs.runs.marked_images import MarkChoice, picked_later
from nightpress.jobs.runs.repair_spec import repair_spec
from nightpress.jobs.runs.shared import (
    OnEvent,
    actor_factory,
    create_only_store,
    ignore,
    require_free_run,
)
from nightpress.jobs.runs.start_log import StartLog, StartOptions, held_run
from nightpress.jobs.runs.targets import ImageTarget, open_images
from nightpress.pipelines.errors import SpecError, StoreMissing
from nightpress.pipelines.formatting import plural
from nightpress.pipelines.image_files.content_credentials.setup import (
    signing_key_of,
    with_certificate,
)
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.planning import CheckedRows, PlanLayout, check_inputs
from nightpress.pipelines.planning.again_rows import check_rows_again
from nightpress.pipelines.planning.growth import MAX_FIRST
from nightpress.pipelines.planning.growth_summary import DETAILS, GrowthSummary, SomeImages
from nightpress.pipelines.planning.image_hashes import named
from nightpress.pipelines.planning.input_hashes import keep_added_hashes
from nightpress.pipelines.planning.parents import FoundParents, find_parents
from nightpress.pipelines.run_directory.commit import committed_shards
from nightpress.pipelines.run_directory.editions import (
    EDITIONS_FOLDER,
    Edition,
    create_edition,
    keep_details,
)
from nightpress.pipelines.run_directory.lease import Lease
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.run_directory.record import RunRecord, refuse_changes
from nightpress.pipelines.run_directory.stored_scores import require_scores
from nightpress.pipelines.run_directory.where import parse_condition, scores_in_condition
from nightpress.pipelines.scoring.job_scorers import fingerprints_of
from nightpress.pipelines.shards.run_images import EarlierRuns
from nightpress.pipelines.storage import Options, Store

AGAIN = "again"
"""What an edition and its details call images that were made again."""


@dataclass(frozen=True)
class AgainResult:
    """How images that were made again turned out."""

    url: str
    """URL of the run directory."""
    edition: int
    """The number of the edition that they are."""
    num_parents: int
    """How many images they come from."""
    num_images: int
    num_ok: int
    num_failed: int
    num_made: int
    """Images made by this start, with those of the run that were not made yet."""
    elapsed_s: float


def again(
    target: ImageTarget,
    on_event: OnEvent = ignore,
    *,
    ids: Iterable[str] | None = None,
    where: str | None = None,
    marks: MarkChoice | None = None,
    num_images: int = 1,
    settings: Mapping[str, Any] | None = None,
    address: str | None = None,
    max_failures: int | str | None = None,
    allow_pickle: bool = False,
    take_over: bool = False,
    storage: Options | None = None,
) -> AgainResult:
    """Make other variants of chosen images of a run, with new seeds; nothing is replaced.

    If the run's last edition came of the same request and is not finished, that is finished.

    Args:
        target, on_event, address, max_failures, allow_pickle, take_over, storage: as for `retry`.
        ids: ids of images, or of rows, which mean their first images.
        where: a condition on the metadata instead, such as `status = 'ok' and priority > 1`.
        marks: only images with these marks of reviewers; not with ids.
        num_images: how many others to make of each image.
        settings: what is to differ, such as `{"guidance_scale": 6}`.

    Raises:
        SpecError, ManifestError: the images or the settings cannot be used; nothing was written.
        UnfinishedRun: the run's plan is not written yet.
        JobError, StoreError, RunHeld: as for `retry`.
    """
    request = AgainRequest.of(ids, where, num_images, settings or {}, marks)
    run = open_images(target, storage)
    spec = repair_spec(run, target, address, max_failures, allow_pickle)
    signing_key_of(with_certificate(spec))
    chosen = None if _is_unfinished(run, request) else _chosen(run, spec, request, on_event)
    return _Session(run, spec, request, chosen, on_event).carry_out(take_over)


@dataclass(frozen=True)
class _Chosen:
    """The images that others are to come from, and the rows of these; nothing is written yet."""

    parents: FoundParents
    rows: CheckedRows
    image_ids: pa.Array
    """Ids of the new images; (n,) string."""


def _is_unfinished(run: Run, request: AgainRequest) -> bool:
    """Whether the run's last edition came of the same request and is not finished."""
    editions, layout = run.record.editions, run.record.layout
    if not editions or editions[-1].again != request.as_dict():
        return False
    return not _shards_of_last(layout.sections) <= committed_shards(run.store)


def _shards_of_last(sections: Sequence[PlanLayout]) -> set[int]:
    last = sections[-1].parts
    return {shard for p in last for shard in range(p.first_shard, p.first_shard + p.num_shards)}


def _chosen(run: Run, spec: RunSpec, request: AgainRequest, on_event: OnEvent = ignore) -> _Chosen:
    """Find the images, and check the rows of the new ones."""
    record, store = run.record, run.store
    names = request.ids or _matching(run, request, on_event)
    try:
        found = find_parents(store, record.layout, names, request.num_images)
    except StoreMissing as error:
        raise UnfinishedRun(
            f"{run.url}: its plan is not written whole yet; nightpress run goes on with it"
        ) from error
    if found.unknown:
        shown = ", ".join(found.unknown[:MAX_SHOWN])
        more = ", ..." if len(found.unknown) > MAX_SHOWN else ""
        raise SpecError(
            f"ids: {len(found.unknown):,} of {len(names):,} are neither images nor rows of "
            f"{run.url}: {shown}{more}"
        )
    rows = check_rows_again(
        record.spec,
        record.infos,
        record.layout,
        store,
        found.parents,
        request.num_images,
        request.settings,
    )
    layout = check_inputs(spec, rows.layout, EarlierRuns(store.url, store.options))
    image_ids = _image_ids(found, request.num_images)
    return _Chosen(found, replace(rows, layout=layout), image_ids)


def _matching(run: Run, request: AgainRequest, on_event: OnEvent) -> Sequence[str]:
    """The images with certain marks, whose metadata meet a condition; either may be left out."""
    where, marks = request.where, request.marks
    marked = marked_if_asked(run, marks, on_event)
    metadata = run.metadata
    condition = pc.scalar(True) if where is None else parse_condition(where, metadata.schema)
    if marked is not None:
        condition &= pc.field("image_id").isin(pa.array(marked.ids, pa.string()))
    with run.reading():
        found = metadata.to_table(columns=["image_id", "id"], filter=condition)
    if not len(found) and where is not None:
        require_scores(run, scores_in_condition(where, metadata.schema))
        which = "image" if marks is None else f"image that is {marks}"
        raise SpecError(f"where: no {which} of {run.url} meets the condition {where}")
    if marks is not None and marks.flag == "reject":
        found = _without_later_picks(run, marks, found, on_event)
    names: list[str] = found.column("image_id").to_pylist()
    return names


def _without_later_picks(
    run: Run, marks: MarkChoice, rejected: pa.Table, on_event: OnEvent
) -> pa.Table:
    """Leave out the rows of which an image of a later round is picked, and say so.

    Raises:
        SpecError: no row is left.
    """
    picked = picked_later(run, marks)
    done = pc.is_in(rejected.column("id"), pa.array(picked, pa.string()))
    left, settled = rejected.filter(pc.invert(done)), pc.unique(rejected.column("id").filter(done))
    if not len(settled):
        return rejected
    shown = ", ".join(f"{each} ({picked[each]})" for each in settled[:MAX_SHOWN].to_pylist())
    text = (
        f"{plural(len(settled), 'row')} left out, as an image of a later round is picked: "
        f"{shown}{', ...' if len(settled) > MAX_SHOWN else ''}; --ids makes more of them"
    )
    if not len(left):
        raise SpecError(f"{run.url}: nothing is left to make again: {text}")
    on_event(Message(text))
    return left


def _image_ids(found: FoundParents, num_images: int) -> pa.Array:
    parts = []
    for some in found.parents:
        ids = some.images.column("id").combine_chunks()
        rows = np.repeat(np.arange(len(ids)), num_images)
        variants = some.first_variants[rows] + np.tile(np.arange(num_images), len(ids))
        parts.append(named(ids.take(pa.array(rows)), variants))
    return pa.concat_arrays(parts)


class _Session:
    """One start of `again`, from the lease to the report.

    Args:
        run: the run.
        spec: its job, with the cluster and the failure limit of this start.
        request: what was asked for.
        chosen: what is to be added; None to finish what an earlier start added.
        on_event: called with every event.
    """

    def __init__(
        self,
        run: Run,
        spec: RunSpec,
        request: AgainRequest,
        chosen: _Chosen | None,
        on_event: OnEvent,
    ) -> None:
        self._run, self._spec, self._request = run, spec, request
        self._chosen, self._record = chosen, run.record
        self._log = StartLog(StartOptions(AGAIN), spec, on_event)
        self._maker = Maker(self._log)

    def carry_out(self, take_over: bool) -> AgainResult:
        """Make the images, and show the events."""
        self._log.read_earlier(self._run.store)
        with closing(self.events(take_over)) as events:
            for event in events:
                self._log.show(event)
        return self.result()

    def events(self, take_over: bool) -> Generator[Event, None, None]:
        """Add the images to the run and make them; yields events."""
        store = create_only_store(self._run.store, self._log.show)
        free = require_free_run(store, take_over, self._log.show)
        yield from self._announced()
        with cluster(self._spec.cluster):
            require_store_on_every_node(self._spec.cluster, store)
            # Acquire the lease before starting any actor: the actors of a process that is taken
            # over still hold the CPUs and GPUs that ours need.
            with held_run(store, free, self._log) as lease:
                yield from self._make(store, lease)

    def _make(self, store: Store, lease: Lease) -> Iterator[Event]:
        factory = actor_factory(self._spec)
        first = FirstActor(factory, self._spec.cluster.load_timeout_s, lease.require)
        model = yield from first.start()
        scorers = fingerprints_of((yield from first.scorers()))
        factory = yield from sized_factory(self._spec, first)
        refuse_changes(store, self._record.changes(self._spec, model, factory.device, scorers))
        require_no_new_edition(store, self._record)
        if self._chosen is not None:
            self._record = add_again(store, self._record, self._request, self._chosen, lease)
        for difference in self._record.package_differences():
            yield Message(difference, warning=True)
        held = HeldRun(store, self._record, lease, factory, first, resumed=True)
        yield from self._maker.make(self._spec, held)

    def _announced(self) -> Iterator[Event]:
        """Say what will be made."""
        request, chosen = self._request, self._chosen
        if chosen is None:
            number = len(self._record.editions)
            yield Message(f"finishing edition {number}, which an earlier start has begun")
            return
        changes = [f"{name} {value}" for name, value in request.settings.items()]
        number = len(chosen.image_ids)
        shown = ", ".join(chosen.image_ids[:MAX_SHOWN].to_pylist())
        yield Message(
            f"{plural(number, 'other variant')} of {plural(chosen.parents.num_parents, 'image')}"
            f"{''.join(f', {change}' for change in changes)}: {shown}"
            f"{', ...' if number > MAX_SHOWN else ''}"
        )

    def result(self) -> AgainResult:
        """How it ended, after all events."""
        edition = self._record.editions[-1]
        assert edition.layout is not None  # noqa: S101 - such an edition has images
        shards = sorted(_shards_of_last(self._record.layout.sections))
        table = self._run.shards(shards).to_table(columns=["status", "parent"])
        statuses = table.column("status").to_pylist()
        return AgainResult(
            url=self._run.url,
            edition=edition.number,
            num_parents=len(table.column("parent").unique()),
            num_images=len(statuses),
            num_ok=statuses.count("ok"),
            num_failed=statuses.count("failed"),
            num_made=self._log.tally.num_made,
            elapsed_s=self._log.tally.elapsed_s,
        )


def add_again(
    store: Store, record: RunRecord, request: AgainRequest, chosen: _Chosen, lease: Lease
) -> RunRecord:
    """Write the edition of images that are made again; returns the record of the run with it.

    Raises:
        RunStopped: another process has added an edition meanwhile.
        LeaseLost: another process has taken over the run.
        StoreError: the store failed.
    """
    number = len(record.editions) + 1
    name = f"{EDITIONS_FOLDER}/{number:04d}"
    layout = keep_added_hashes(store, chosen.rows.kept(store, f"{name}-rows-"), f"{name}-inputs-")
    ids = chosen.image_ids
    nothing, new = SomeImages(0), SomeImages(len(ids), tuple(ids[:MAX_FIRST].to_pylist()))
    summary = GrowthSummary(
        came=new, went=nothing, back=nothing, changed=nothing, kept=nothing, num_same=0
    )
    details = pa.table([ids, [AGAIN] * len(ids), pa.nulls(len(ids), pa.string())], schema=DETAILS)
    edition = Edition(
        number=number,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        by=str(lease.holder),
        changed=AGAIN,
        summary=summary,
        manifest=record.manifest,
        layout=layout,
        details=keep_details(store, number, details),
        again=request.as_dict(),
    )
    lease.fence.require(store)
    winner = create_edition(store, edition)
    if winner.fingerprint != edition.fingerprint:
        raise RunStopped(f"{store.url}: another process has extended this run; start again")
    return record.extended(winner)
