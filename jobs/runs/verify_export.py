"""`verify` of an export: its objects and rows against the runs that it was made of."""

from dataclasses import dataclass, replace

from nightpress.jobs.progress.events import Message
from nightpress.jobs.runs.export import OnExportEvent, export, ignore
from nightpress.jobs.runs.shared import require_free_run
from nightpress.pipelines.errors import RunNotFound
from nightpress.pipelines.export.index import INDEX_FOLDER, listed_entries
from nightpress.pipelines.export.record import EXPORT_FILE, ExportRecord, read_export
from nightpress.pipelines.export.spec import ExportSpec
from nightpress.pipelines.export.summary import SUMMARY_FILE, index_hash, read_summary_file
from nightpress.pipelines.export.verify import (
    ExportCheck,
    ExportDamage,
    ExportFinding,
    orphans,
    verify_shards,
)
from nightpress.pipelines.run_directory.lease import held
from nightpress.pipelines.storage import Options, Store


@dataclass(frozen=True)
class ExportVerified:
    """What checking an export found."""

    url: str
    num_checked: int
    """Images that were read."""
    is_finished: bool
    """Whether the export has been finished since it last changed."""
    findings: tuple[ExportFinding, ...]
    orphans: tuple[str, ...]
    """Objects with images that no index names; the next `nightpress export` deletes them."""
    num_repaired: int = 0
    """Source shards that were exported again."""

    @property
    def is_sound(self) -> bool:
        """Whether it is finished and nothing is wrong, or was repaired."""
        return self.is_finished and not self.findings


def is_export(url: str, storage: Options | None = None) -> bool:
    """Whether there is an export at a URL."""
    store = Store(url, storage or {})
    store.require_answer()
    return store.size(EXPORT_FILE) is not None


def verify_export(
    target: str | ExportSpec,
    on_event: OnExportEvent = ignore,
    *,
    sample: float = 1.0,
    repair: bool = False,
    take_over: bool = False,
    storage: Options | None = None,
) -> ExportVerified:
    """Hold an export against the runs that it was made of.

    Args:
        target: the URL of its directory, or the export.
        on_event: called with every event of a repair.
        sample: share of the images to read.
        repair: export again what is missing, damaged or out of date.
        take_over: for a repair, take over from a process that still works on it.
        storage: fsspec options by protocol, for a URL.

    Raises:
        RunNotFound: there is no export.
        RunHeld, RunStopped ...: of a repair; see `export`.
        StoreError: a store fails.
    """
    url = target if isinstance(target, str) else target.url
    options = (storage or {}) if isinstance(target, str) else target.storage
    store = Store(url, options)
    store.require_answer()
    record = read_export(store)
    if record is None:
        raise RunNotFound(f"{store.url}: no export here ({EXPORT_FILE} is missing)")
    spec = _spec(record, store, target)
    found = _check(store, spec, sample)
    if repair and not (found.is_sound and not found.orphans):
        return _repaired(store, spec, found, on_event, sample, take_over)
    return found


def _spec(record: ExportRecord, store: Store, target: str | ExportSpec) -> ExportSpec:
    """The export as it is named now: at this URL, with these options for its stores."""
    if isinstance(target, ExportSpec):
        return target
    output, _, name = store.url.rstrip("/").rpartition("/")
    options = {**record.spec.storage, **store.options}
    return record.spec.model_copy(update={"output": output, "name": name, "storage": options})


def _check(store: Store, spec: ExportSpec, sample: float) -> ExportVerified:
    stores = tuple(Store(url, spec.storage) for url in spec.runs)
    check = ExportCheck(store, stores, spec.layout, spec.metadata == "full", sample)
    paths, summary = list(listed_entries(store).values()), read_summary_file(store)
    shards = list(verify_shards(check, paths))
    findings = [finding for shard in shards for finding in shard.findings]
    if summary is not None and summary.index != index_hash(paths):
        text = "these are not the index objects that the export was finished with"
        findings.append(ExportFinding(ExportDamage.INDEX, SUMMARY_FILE, INDEX_FOLDER, text))
    return ExportVerified(
        url=store.url,
        num_checked=sum(shard.num_checked for shard in shards),
        is_finished=summary is not None,
        findings=tuple(findings),
        orphans=tuple(orphans(store, [shard.names for shard in shards])),
    )


def _repaired(
    store: Store,
    spec: ExportSpec,
    found: ExportVerified,
    on_event: OnExportEvent,
    sample: float,
    take_over: bool,
) -> ExportVerified:
    """Forget what is wrong, so that the export writes it again, and check once more."""
    damaged = sorted({finding.index for finding in found.findings})
    free = require_free_run(store, take_over, on_event)
    with held(store, free) as lease:
        lease.fence.require(store)
        store.delete(SUMMARY_FILE)
        for path in damaged:
            store.delete(path)
    on_event(Message(f"{len(damaged):,} source shards are exported again"))
    export(spec, on_event, take_over=take_over)
    return replace(_check(store, spec, sample), num_repaired=len(damaged))
