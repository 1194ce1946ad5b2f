"""A run that a job finds already begun: how far it is, and whether the job may resume it."""

from dataclasses import dataclass, replace
from enum import StrEnum

from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.jobs.runs.extension import Extension, found_growth
from nightpress.jobs.runs.finished import device_of
from nightpress.jobs.runs.table_manifest import TableManifest, kept_job, kept_path
from nightpress.pipelines.errors import Change, RunNotFound, StoreError, UnsupportedFormat
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.planning import PlanIncomplete, PlanLayout, compare_manifest, file_changes
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
    job_changes = tuple(record.spec.changes(spec))
    if not job_changes:  # the pictures may have moved
        moved_inputs = record.spec.model_copy(update={"inputs": spec.inputs})
        record = replace(record, spec=moved_inputs)
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
    """What `--extend` would add; None if more than the manifest's rows has changed."""
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
    model: ModelInfo,
    layout: PlanLayout,
    table: TableManifest | None = None,
) -> RunState:
    """How far a run is, and whether `run` would resume it with this job.

    Args:
        found: the run directory.
        spec: the job, with a manifest that can be read; the device of `auto` is that of the run.
        model: the job's model.
        layout: the plan of the job's manifest.
        table: the table that was passed as its manifest, if any.

    Raises:
        ManifestError: the manifest has changed in a way that no run can be extended by.
    """
    if found.record is None:
        return RunState(State.UNREADABLE if found.error else State.NEW, error=found.error)
    store, record = found.store, found.record
    try:
        changes = record.changes(spec, model, device_of(spec, record))
        of_manifest = _manifest_changes(store, record, layout, table)
        grows = of_manifest and not changes
        growth = _growth(store, record, spec, model) if grows else None
        changes += of_manifest
        progress = Run(store, record).progress()
        holder = last_holder(store)
    except StoreError as error:
        return RunState(State.UNREADABLE, error=error)
    if holder is not None and holder.is_dead:
        holder = None
    state = _state(bool(changes), progress.complete, is_held=holder is not None)
    done = progress.num_done, progress.num_failed, progress.num_images
    return RunState(state, *done, holder, tuple(changes), growth)


def _state(is_changed: bool, is_complete: bool, is_held: bool) -> State:
    if is_changed:
        return State.CHANGED
    if is_complete:
        return State.FINISHED
    return State.HELD if is_held else State.RESUMABLE


def _growth(store: Store, record: RunRecord, spec: RunSpec, model: ModelInfo) -> Extension | None:
    """What `run` would add; None if the plan is not complete, so that nobody can say."""
    try:
        return found_growth(store, record, spec).checked(store, model)
    except PlanIncomplete:
        return None


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
