"""Extending a run whose manifest has grown: compare, refuse or plan the new rows, add an edition.

Nothing is written before everything has been checked. Then the order makes a kill at any point
harmless: the rows, what became of single images, and the edition last; its parts of the plan are
written like any that are missing.
"""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from nightpress.jobs.errors import RunStopped
from nightpress.jobs.runs.extend_options import Changed, ExtendOptions
from nightpress.jobs.runs.scorers import check_scored_columns
from nightpress.jobs.runs.table_manifest import TableManifest
from nightpress.pipelines.errors import Change, ChangedRunError, ManifestGrown
from nightpress.pipelines.formatting import plural
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.manifest.job_models import ModelInfos
from nightpress.pipelines.planning import (
    CheckedRows,
    Growth,
    PlanIncomplete,
    PlanLayout,
    check_added_rows,
    check_inputs,
    compare_growth,
    file_changes,
)
from nightpress.pipelines.planning.growth import AddedRows
from nightpress.pipelines.planning.input_hashes import keep_added_hashes
from nightpress.pipelines.run_directory.editions import (
    EDITIONS_FOLDER,
    Edition,
    create_edition,
    earlier_editions,
    keep_details,
    num_editions,
)
from nightpress.pipelines.run_directory.lease import Lease
from nightpress.pipelines.run_directory.record import RunRecord
from nightpress.pipelines.shards.run_images import EarlierRuns
from nightpress.pipelines.storage import Store


@dataclass(frozen=True)
class Extension:
    """A run, and what its manifest has become; nothing is written yet."""

    spec: RunSpec
    """The job, with the manifest as it is now."""
    record: RunRecord
    growth: Growth
    added: AddedRows = field(repr=False)
    """The rows of the manifest to make images of."""
    changed: Changed
    rows: CheckedRows | None = None
    """The rows to add, once they are checked; None if there are none."""

    @property
    def num_images(self) -> int:
        """The images to add."""
        return len(self.added.planned)

    @property
    def layout(self) -> PlanLayout | None:
        """The plan of the images to add, once they are checked; None if there are none."""
        return None if self.rows is None else self.rows.layout

    @property
    def is_checked(self) -> bool:
        """Whether the rows to add are known to be usable."""
        return self.rows is not None or not self.num_images

    def checked(self, store: Store, model: ModelInfos) -> "Extension":
        """Check the rows to add, and their pictures.

        Args:
            store: the run directory.
            model: the job's model, or each of several, with the limits of their prompts.

        Raises:
            ManifestError: a row cannot be used.
            ScorerError: a scorer needs a column that the manifest lost.
            StoreError: the manifest or a picture cannot be read.
        """
        if self.is_checked:
            return self
        check_scored_columns(self.spec, self.growth.files)
        layout = self.record.layout
        rows = check_added_rows(self.spec, model, layout, self.growth, self.added)
        layout = check_inputs(self.spec, rows.layout, EarlierRuns(store.url, store.options))
        return replace(self, rows=replace(rows, layout=layout))

    def warnings(self) -> list[str]:
        """What is said about the prompts of the rows to add."""
        return self.rows.layout.prompts.warnings() if self.rows is not None else []

    def refusal(
        self, url: str, changes: tuple[Change, ...], options: ExtendOptions
    ) -> ManifestGrown | None:
        """Why the run, at this URL, is not extended with these options; None if it is."""
        growth = self.growth
        if options.extend and (options.changed != "refuse" or not len(growth.changed)):
            return None
        return ManifestGrown(url, changes, growth.summary.lines(), advice(growth))

    def lines(self) -> list[str]:
        """What came, went and changed, and what is made of it."""
        making = "makes nothing, and records the manifest"
        if self.num_images:
            making = f"adds {plural(self.num_images, 'image')} to the run"
        return [*self.growth.summary.lines(), making]


def compare(
    store: Store,
    record: RunRecord,
    spec: RunSpec,
    changes: tuple[Change, ...],
    options: ExtendOptions,
) -> Extension:
    """Compare a manifest that has changed with the run, and refuse what was not asked for.

    Args:
        store: the run directory.
        record: of the run.
        spec: the job; only its manifest differs from that of the run.
        changes: how the manifest's files differ.
        options: what is allowed.

    Raises:
        ManifestGrown: the run is not to be extended, or images have changed.
        SpecError, ManifestError: the manifest cannot be used.
        StoreError: the manifest or the plan cannot be read.
    """
    extension = found_growth(store, record, spec, changes, options.changed)
    if refusal := extension.refusal(store.url, changes, options):
        raise refusal
    return extension


def found_growth(
    store: Store,
    record: RunRecord,
    spec: RunSpec,
    changes: tuple[Change, ...],
    changed: Changed = "refuse",
) -> Extension:
    """Compare a manifest that has changed with the run, whatever has changed; see `compare`.

    Raises:
        ManifestGrown: the plan is not complete, so nobody can say what came, went and changed.
    """
    earlier = earlier_editions(store, record.editions)
    try:
        growth = compare_growth(spec, record.infos, record.layout, store, earlier)
    except PlanIncomplete as error:
        back = "Bring the old manifest back once to finish the plan, or give this job another name."
        raise ManifestGrown(store.url, changes, [*map(str, changes), str(error)], back) from error
    return Extension(spec, record, growth, growth.added(changed == "new-variant"), changed)


def advice(growth: Growth) -> str:
    """What can be done about a manifest that has grown."""
    summary = growth.summary
    if not summary.changed.number:
        makes = "records the manifest and makes nothing"
        if summary.came.number:
            makes = f"makes {_all_of(summary.came.number, 'new image')} and no other"
        return f"Extend the run with --extend, which {makes}, or give this job another name."
    again = _all_of(summary.changed.number, "changed image")
    what = "a new variant" if summary.changed.number == 1 else "new variants"
    new = f", and {_all_of(summary.came.number, 'new image')}" if summary.came.number else ""
    text = (
        "Bring the old rows back, give this job another name, or extend the run with --extend "
        f"--changed new-variant, which makes {again} again as {what}{new}; old ones stay."
    )
    if not growth.planner.columns.has_ids:
        text = (
            "Without an id column a row is known by its number, so one that is put in or taken out "
            f"renames all behind it. {text}"
        )
    return text


def _all_of(number: int, what: str) -> str:
    """`the new image` or `the 2 new images`."""
    return f"the {what}" if number == 1 else f"the {plural(number, what)}"


def require_no_new_edition(store: Store, record: RunRecord) -> None:
    """Make sure, under the lease, that nobody has extended the run since it was read.

    Raises:
        RunStopped: another process has.
    """
    if num_editions(store) > len(record.editions):
        raise RunStopped(
            f"{store.url}: another process has extended this run meanwhile; start again"
        )


def add_edition(
    store: Store, extension: Extension, lease: Lease, table: TableManifest | None = None
) -> RunRecord:
    """Write an edition; returns the record of the extended run.

    If another process has added one meanwhile, the run goes on with that, provided that its
    manifest is the same.

    Args:
        store: the run directory.
        extension: what to add, checked.
        lease: of the run.
        table: the table that was passed as the manifest, if any; the run keeps it too.

    Raises:
        ChangedRunError: another process has extended the run with another manifest.
        LeaseLost: another process has taken over the run.
        RunStopped: another process has extended it more than once.
        StoreError: the store failed.
    """
    edition = _kept(store, extension, lease, table)
    lease.fence.require(store)
    winner = create_edition(store, edition)
    if [each.identity for each in winner.manifest] != [each.identity for each in edition.manifest]:
        raise ChangedRunError(store.url, file_changes(winner.manifest, edition.manifest))
    record = extension.record.extended(winner)
    if winner is not edition:
        require_no_new_edition(store, record)
    return record


def _kept(store: Store, extension: Extension, lease: Lease, table: TableManifest | None) -> Edition:
    """Write everything that an edition names; returns the edition."""
    rows, number = extension.rows, len(extension.record.editions) + 1
    name = f"{EDITIONS_FOLDER}/{number:04d}"
    manifest = extension.growth.files
    if table is not None:
        manifest = (table.keep(store, manifest[0]),)
    layout = None
    if rows is not None:
        layout = keep_added_hashes(store, rows.kept(store, f"{name}-rows-"), f"{name}-inputs-")
    details = extension.growth.details(extension.added)
    return Edition(
        number=number,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        by=str(lease.holder),
        changed=extension.changed,
        summary=extension.growth.summary,
        manifest=manifest,
        layout=layout,
        details=keep_details(store, number, details),
    )
