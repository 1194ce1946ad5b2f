"""A run that a job finds already begun: how far it is, and whether the job may resume it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from nightpress.jobs.runs.extend_options import ExtendOptions
from nightpress.jobs.runs.extension import Extension, found_growth
from nightpress.jobs.runs.finished import device_of
from nightpress.jobs.runs.table_manifest import TableManifest, kept_job, kept_path
from nightpress.pipelines.errors import (
    Change,
    ManifestGrown,
    RunNotFound,
    StoreError,
    UnsupportedFormat,
)
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.manifest.job_models import ModelInfos
from nightpress.pipelines.planning import PlanLayout, compare_manifest, file_changes
from nightpress.pipelines.run_directory.lease import Holder, last_holder
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.run_directory.record import RunRecord, read_record
from nightpress.pipelines.storage import QUICK, Store, require_answers


@dataclass(frozen=True)
class ExistingRun:
    """The record of a run beside the job that is to resume it."""

    job_changes: tuple[Change, ...]
    """How the job differs from the one that the run was started with."""
    manifest_changes: tuple[Change, ...]
    """How its manifest differs from the one that the run was planned from last."""
    spec: RunSpec
    """The job; for a table, with the copy that the run keeps as its manifest."""
    record: RunRecord
    """The record, reading the manifest from where the job finds it now."""


def compare_with_run(
    store: Store, record: RunRecord, spec: RunSpec, table: TableManifest | None = None
) -> ExistingRun:
    """Compare a job with the run that it is to resume.

    Args:
        store: the run directory.
        record: its record.
        spec: the job.
        table: the table that was passed as its manifest, if any.

    Raises:
        SpecError, ManifestError, StoreError: the manifest cannot be found or read.
    """
    job_changes = tuple(record.spec.changes(record.resumed_by(spec)))
    if not job_changes:  # the pictures may have moved, and thumbnails may be asked for only now
        may_differ = {"inputs": spec.inputs, "review": spec.review}
        record = replace(record, spec=record.spec.model_copy(update=may_differ))
    kept = kept_path(record)
    if table is None:
        comparison = compare_manifest(record.manifest, spec)
        where = {"manifest": spec.manifest, "storage": spec.storage}
        moved = replace(record, spec=record.spec.model_copy(update=where))
        if not record.editions:
            moved = replace(moved, layout=replace(record.layout, files=comparison.files))
        return ExistingRun(job_changes, comparison.changes, spec, moved)
    if kept is None:
        return ExistingRun(job_changes, (_now_a_table(record),), spec, record)
    changes = tuple(table.changes(store, record))
    if not changes:  # equal tables may be different bytes, and so have different names
        spec = kept_job(spec, record)
    return ExistingRun(job_changes, changes, spec, record)


class State(StrEnum):
    """What `run` would find in the run directory."""

    NEW = "new"
    """There is no run yet."""
    RESUMABLE = "resumable"
    FINISHED = "finished"
    HELD = "held"
    """A process may be working on it, by the last heartbeat."""
    CHANGED = "changed"
    """It was started with another job or planned from other rows, so `run` would refuse this."""
    GROWS = "grows"
    """Its manifest has changed, and `run` would extend it, as it is asked to."""
    UNREADABLE = "unreadable"
    """The store does not answer, or what is there cannot be read."""


@dataclass(frozen=True)
class RunState:
    """How far the run of a job is before the job is started."""

    state: State
    num_done: int = 0
    """Images that are stored or have failed; the same count as in `status`."""
    num_failed: int = 0
    num_images: int = 0
    """Images of the run; 0 if there is none."""
    holder: Holder | None = None
    changes: tuple[Change, ...] = ()
    growth: Extension | None = None
    """What extending the run would add; None if more than the manifest's rows has changed."""
    refusal: ManifestGrown | None = None
    """Why `run` would not extend it, if only the manifest's rows have changed."""
    num_gone: int = 0
    """Images of the run that its manifest does not plan any more, or plans differently."""
    error: StoreError | RunNotFound | UnsupportedFormat | None = None
    """Why the run directory cannot be read."""


@dataclass(frozen=True)
class FoundRun:
    """What lies in a job's run directory, as far as it can be read within seconds."""

    store: Store
    record: RunRecord | None
    error: StoreError | RunNotFound | UnsupportedFormat | None


def look_for_run(spec: RunSpec) -> FoundRun:
    """Look into a job's run directory; takes seconds if its store does not answer."""
    store = Store(spec.url, spec.storage).with_policy(QUICK)
    try:
        require_answers([spec.output], spec.storage)
        return FoundRun(store, read_record(store), None)
    except (StoreError, RunNotFound, UnsupportedFormat) as error:
        return FoundRun(store, None, error)


def state_of(
    found: FoundRun,
    spec: RunSpec,
    model: ModelInfos,
    layout: PlanLayout,
    table: TableManifest | None = None,
    options: ExtendOptions | None = None,
    scorers: Mapping[str, str] | None = None,
) -> RunState:
    """How far a run is, and whether `run` would resume it with this job.

    Args:
        found: the run directory.
        spec: the job, with a manifest that can be read; the device of `auto` is that of the run.
        model: the job's model, or each of several.
        layout: the plan of the job's manifest.
        table: the table that was passed as its manifest, if any.
        options: how `run` may extend the run; by default it may not.
        scorers: name -> fingerprint of the job's scorers.

    Raises:
        ManifestError: the manifest has changed in a way that no run can be extended by.
    """
    if found.record is None:
        return RunState(State.UNREADABLE if found.error else State.NEW, error=found.error)
    store, record = found.store, found.record
    try:
        of_manifest = _manifest_changes(store, record, layout, table)
        of_job = record.changes(spec, model, device_of(spec, record), scorers)
        job = spec, model, of_job
        differs = _difference(store, record, job, of_manifest, options or ExtendOptions())
        progress = Run(store, record).progress()
        holder = _live_holder(store)
    except StoreError as error:
        return RunState(State.UNREADABLE, error=error)
    state = _state(differs, progress.complete, is_held=holder is not None)
    done = progress.num_done, progress.num_failed, progress.num_images
    found_out = differs.changes, differs.growth, differs.refusal
    return RunState(state, *done, holder, *found_out, num_gone=record.num_gone)


def _live_holder(store: Store) -> Holder | None:
    holder = last_holder(store)
    return None if holder is None or holder.is_dead else holder


@dataclass(frozen=True)
class _Difference:
    """How a job differs from the run that it finds; see `RunState`."""

    changes: tuple[Change, ...]
    growth: Extension | None = None
    refusal: ManifestGrown | None = None


def _difference(
    store: Store,
    record: RunRecord,
    job: tuple[RunSpec, ModelInfos, Sequence[Change]],
    of_manifest: Sequence[Change],
    options: ExtendOptions,
) -> _Difference:
    spec, model, of_job = job
    changes = (*of_job, *of_manifest)
    if of_job or not of_manifest:
        return _Difference(changes)
    try:
        growth = found_growth(store, record, spec, changes, options.changed)
    except ManifestGrown as refusal:
        return _Difference(changes, None, refusal)
    refused = growth.refusal(store.url, changes, options)
    return _Difference(changes, growth.checked(store, model), refused)


def _state(differs: _Difference, is_complete: bool, is_held: bool) -> State:
    if differs.growth is not None and differs.refusal is None:
        return State.GROWS
    if differs.changes:
        return State.CHANGED
    if is_complete:
        return State.FINISHED
    return State.HELD if is_held else State.RESUMABLE


def _manifest_changes(
    store: Store, record: RunRecord, layout: PlanLayout, table: TableManifest | None
) -> list[Change]:
    if table is None:
        return file_changes(record.manifest, layout.files)
    if kept_path(record) is None:
        return [_now_a_table(record)]
    return table.changes(store, record)


def _now_a_table(record: RunRecord) -> Change:
    return Change("manifest", ", ".join(file.url for file in record.manifest), "a table")
