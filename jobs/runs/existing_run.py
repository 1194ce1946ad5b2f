"""A run that a job finds already begun: whether the job is still the one that began it."""

from dataclasses import dataclass, replace

from nightpress.jobs.runs.table_manifest import TableManifest, kept_path
from nightpress.pipelines.errors import Change
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.planning import compare_manifest
from nightpress.pipelines.run_directory.record import RunRecord
from nightpress.pipelines.storage import Store


@dataclass(frozen=True)
class ExistingRun:
    """The record of a run beside the job that is to resume it."""

    changes: tuple[Change, ...]
    """How the job and its manifest differ from those that the run was started with."""
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
    kept = kept_path(record)
    if table is None:
        comparison = compare_manifest(record.layout, spec)
        where = {"manifest": spec.manifest, "storage": spec.storage}
        moved = replace(record, layout=comparison.layout, spec=record.spec.model_copy(update=where))
        return ExistingRun(job_changes + comparison.changes, spec, moved)
    if kept is None:
        files = ", ".join(file.url for file in record.layout.files)
        change = Change("manifest", files, "a table")
        return ExistingRun((*job_changes, change), spec, record)
    # Equal tables may be different bytes, and so have different names.
    spec = spec.model_copy(update={"manifest": record.spec.manifest})
    return ExistingRun(job_changes + tuple(table.changes(store, record)), spec, record)
