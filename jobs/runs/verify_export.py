"""`verify` of an export: its objects and rows against the runs that it was made of."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

from nightpress.jobs.cluster.connection import cluster, spread_some
from nightpress.jobs.cluster.preflight import require_readable_on_every_node
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
    ExportShardVerified,
    orphans,
    verify_files,
    verify_shards,
)
from nightpress.pipelines.formatting import plural
from nightpress.pipelines.run_directory.lease import held
from nightpress.pipelines.run_directory.record import RUN_FILE
from nightpress.pipelines.storage import Options, Store

SHARDS_A_TASK = 4
"""How many source shards one task of a spread check reads."""


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
    """Objects with images that no index names; the next `nightpress export` deletes them. None are
    looked for if an index is damaged."""
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
    spread: bool = False,
    address: str | None = None,
    take_over: bool = False,
    storage: Options | None = None,
) -> ExportVerified:
    """Hold an export against the runs that it was made of.

    Args:
        target: the URL of its directory, or the export.
        on_event: called with every event of a repair.
        sample: share of the images to read.
        repair: export again what is missing, damaged or out of date.
        spread: read the images in tasks on all nodes of the cluster.
        address: of the Ray cluster; by default the one that the export names.
        take_over: for a repair, take over from a process that still works on it.
        storage: fsspec options by protocol, for a URL.

    Raises:
        RunNotFound: there is no export.
        RunHeld, RunStopped ...: of a repair; see `export`.
        StoreError: a store fails.
    """
    store = _store(target, storage or {})
    record = read_export(store)
    if record is None:
        raise RunNotFound(f"{store.url}: no export here ({EXPORT_FILE} is missing)")
    check = _Check(store, _spec(record, store, target, address), sample, spread)
    found = check.result()
    if repair and not (found.is_sound and not found.orphans):
        return _repaired(check, found, on_event, take_over)
    return found


def _store(target: str | ExportSpec, options: Options) -> Store:
    named = (target, options) if isinstance(target, str) else (target.url, target.storage)
    store = Store(*named)
    store.require_answer()
    return store


def _spec(
    record: ExportRecord, store: Store, target: str | ExportSpec, address: str | None
) -> ExportSpec:
    """The export as it is named now: at this URL, with these options for its stores."""
    if isinstance(target, ExportSpec):
        spec = target
    else:
        output, _, name = store.url.rstrip("/").rpartition("/")
        options = {**record.spec.storage, **store.options}
        moved = {"output": output, "name": name, "storage": options}
        spec = record.spec.model_copy(update=moved)
    if address is None:
        return spec
    nodes = spec.cluster.model_copy(update={"address": address})
    return spec.model_copy(update={"cluster": nodes})


@dataclass(frozen=True)
class _Check:
    """How an export is checked."""

    store: Store
    spec: ExportSpec
    sample: float
    spread: bool

    def result(self) -> ExportVerified:
        """Check everything."""
        paths, summary = list(listed_entries(self.store).values()), read_summary_file(self.store)
        shards = list(self._shards(paths))
        findings = [finding for shard in shards for finding in shard.findings]
        all_named = not any(each.damage is ExportDamage.INDEX for each in findings)
        if summary is not None:
            findings += verify_files(self.store, summary)
        if summary is not None and summary.index != index_hash(paths):
            text = "these are not the index objects that the export was finished with"
            findings.append(ExportFinding(ExportDamage.INDEX, SUMMARY_FILE, INDEX_FOLDER, text))
        return ExportVerified(
            url=self.store.url,
            num_checked=sum(shard.num_checked for shard in shards),
            is_finished=summary is not None,
            findings=tuple(findings),
            orphans=tuple(orphans(self.store, [s.names for s in shards])) if all_named else (),
        )

    def _shards(self, paths: list[str]) -> Iterator[ExportShardVerified]:
        stores = tuple(Store(url, self.spec.storage) for url in self.spec.runs)
        with_facts = self.spec.metadata == "full"
        check = ExportCheck(self.store, stores, self.spec.layout, with_facts, self.sample)
        if not self.spread:
            yield from verify_shards(check, paths)
            return
        with cluster(self.spec.cluster):
            require_readable_on_every_node(self.store, EXPORT_FILE)
            for store in stores:
                require_readable_on_every_node(store, RUN_FILE)
            yield from spread_some(partial(verify_shards, check), paths, SHARDS_A_TASK)


def _repaired(
    check: _Check, found: ExportVerified, on_event: OnExportEvent, take_over: bool
) -> ExportVerified:
    """Forget what is wrong, so that the export writes it again, and check once more."""
    store = check.store
    damaged = sorted({finding.index for finding in found.findings} - {SUMMARY_FILE})
    free = require_free_run(store, take_over, on_event)
    with held(store, free) as lease:
        lease.fence.require(store)
        store.delete(SUMMARY_FILE)
        for path in damaged:
            store.delete(path)
    on_event(Message(f"{plural(len(damaged), 'source shard')} to be exported again"))
    done = export(check.spec, on_event, take_over=take_over)
    return replace(check.result(), num_repaired=done.num_written)
