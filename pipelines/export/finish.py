"""Finishing an export: the files beside its parts, and deleting what no index names any more."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256

import numpy as np
import pyarrow as pa

from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.export.card import CARD_FILE, CardFacts, card
from nightpress.pipelines.export.croissant import CROISSANT_FILE, croissant
from nightpress.pipelines.export.index import INDEX_FOLDER, ShardIndex, read_index
from nightpress.pipelines.export.layouts import diffusiondb
from nightpress.pipelines.export.layouts.part import DATA
from nightpress.pipelines.export.licences import Licence, licences_of
from nightpress.pipelines.export.plan import ExportPlan
from nightpress.pipelines.export.preferences import RowsApart
from nightpress.pipelines.export.record import EXPORT_FILE
from nightpress.pipelines.export.sources import ExportSource
from nightpress.pipelines.export.statistics import ShardStatistics
from nightpress.pipelines.export.summary import (
    SUMMARY_FILE,
    ExportSummary,
    index_hash,
    now_utc,
    state_of,
)
from nightpress.pipelines.export.survey import SURVEY_FOLDER
from nightpress.pipelines.export.table_files import TableFiles, delete_later_files
from nightpress.pipelines.export.tables import (
    BALANCE_FILE,
    DROPPED,
    DROPPED_STEM,
    STATS_FILE,
    balance_table,
    balances,
    dropped_rows,
    stats_table,
)
from nightpress.pipelines.hashing import Hashes, hash64
from nightpress.pipelines.run_directory.map_ahead import map_ahead
from nightpress.pipelines.storage import READ_THREADS, Store


@dataclass
class _Totals:
    """What all index objects say together, added up one by one."""

    dropped: TableFiles
    runs: tuple[str, ...]
    """The names of the runs."""
    statistics: ShardStatistics = field(default_factory=lambda: ShardStatistics({}))
    num_images: dict[str, int] = field(default_factory=dict)
    num_dropped: dict[str, int] = field(default_factory=dict)
    num_bytes: int = 0
    num_objects: int = 0
    names: list[Hashes] = field(default_factory=list)
    apart: RowsApart = field(default_factory=RowsApart)
    """In the layout preference, what of it is not compared."""

    def add(self, index: ShardIndex) -> None:
        """Add one index."""
        self.dropped.add(dropped_rows(index, self.runs))
        self.statistics = ShardStatistics.total([self.statistics, index.statistics])
        for into, counts in (
            (self.num_images, index.num_images),
            (self.num_dropped, index.num_dropped),
        ):
            for name, number in counts.items():
                into[name] = into.get(name, 0) + number
        self.apart.add(index)
        self.num_bytes += index.num_bytes
        self.num_objects += len(index.objects)
        self.names.append(hash64(pa.array([o.path for o in index.objects], pa.string()), 0))


def finish(
    plan: ExportPlan,
    sources: Sequence[ExportSource],
    paths: Sequence[str],
    surveys: Sequence[str] = (),
) -> ExportSummary:
    """Write the files beside the parts, delete what is left over, and say that it is finished.

    Args:
        plan: the export.
        sources: its runs.
        paths: the index objects of all of their shards.
        surveys: their surveys, if the export has any.

    Raises:
        SpecError: no image is selected.
        Damaged: an index object is not what was written.
        LeaseLost: another process has taken over the export.
        StoreError: a store failed.
    """
    files = _Files(plan)
    totals = _added_up(plan, paths, files)
    _require_images(plan, totals, files)
    summary = ExportSummary(
        num_images=totals.num_images,
        num_dropped=totals.num_dropped,
        num_bytes=totals.num_bytes,
        num_objects=totals.num_objects,
        num_rows_apart=totals.apart.number if plan.spec.layout == "preference" else 0,
        commits=state_of(sources),
        index=index_hash(paths),
        finished_at=now_utc(),
    )
    _write_tables(plan, sources, totals, summary, files)
    _delete_left_over(plan, np.concatenate(totals.names), {*paths, *surveys})
    summary = replace(summary, files=files.hashes)
    plan.store.put(SUMMARY_FILE, summary.to_json())
    return summary


class _Files:
    """Writes the files beside the parts while nobody else has taken over, and keeps their hashes.

    Args:
        plan: the export.
    """

    def __init__(self, plan: ExportPlan) -> None:
        self._plan = plan
        self.hashes: dict[str, str] = {}
        """Path -> SHA-256."""

    def put(self, path: str, data: bytes) -> None:
        """Write a file."""
        _require(self._plan)
        self._plan.store.put(path, data)
        self.hashes[path] = sha256(data).hexdigest()

    def finish(self, stem: str, table: TableFiles) -> None:
        """Write the rest of a table; those of its files that a larger one had are deleted."""
        delete_later_files(self._plan.store, stem, len(table.finish()))


def _require_images(plan: ExportPlan, totals: _Totals, files: _Files) -> None:
    """Check that there is an image; an export that never had one goes away, as if never begun."""
    if not any(totals.num_images.values()):
        store = plan.store
        if not any(len(page) for page in store.pages(DATA)):
            _require(plan)
            for path in (*_listed(store), *files.hashes, EXPORT_FILE):
                store.delete(path)
        raise SpecError(
            f"select: no image of {', '.join(plan.spec.runs)} is in the export: "
            + ", ".join(f"{number:,} {reason}" for reason, number in totals.num_dropped.items())
        )


def _require(plan: ExportPlan) -> None:
    if plan.fence is not None:
        plan.fence.require(plan.store)


def _added_up(plan: ExportPlan, paths: Sequence[str], files: _Files) -> _Totals:
    """Read all index objects; writes the tables that may have a row for each image."""
    totals = _Totals(TableFiles(files.put, DROPPED_STEM, DROPPED), plan.names)
    has_table = plan.spec.layout == "diffusiondb"
    table = TableFiles(files.put, diffusiondb.TABLE_STEM, diffusiondb.TABLE) if has_table else None
    with ThreadPoolExecutor(READ_THREADS) as pool:
        read = partial(read_index, plan.store)
        for index in map_ahead(pool, read, paths, READ_THREADS):
            totals.add(index)
            if table is not None:
                for each in filter(diffusiondb.is_part_table, (o.path for o in index.objects)):
                    table.add(diffusiondb.part_table(each, plan.store.read(each)))
    files.finish(DROPPED_STEM, totals.dropped)
    if table is not None:
        files.finish(diffusiondb.TABLE_STEM, table)
    return totals


def _all_licences(plan: ExportPlan, sources: Sequence[ExportSource]) -> list[Licence]:
    """The licences behind all runs, each thing once."""
    found = {
        (each.role, each.fingerprint): each
        for source in sources
        for each in licences_of(source.run.record, plan.spec.storage)
    }
    return list(found.values())


def _write_tables(
    plan: ExportPlan,
    sources: Sequence[ExportSource],
    totals: _Totals,
    summary: ExportSummary,
    files: _Files,
) -> None:
    found = balances(totals.statistics)
    facts = CardFacts(
        spec=plan.spec,
        columns=plan.columns,
        runs=plan.names,
        suffixes=tuple(dict.fromkeys(each.suffix for each in sources)),
        summary=summary,
        balances=found,
        licences=_all_licences(plan, sources),
    )
    files.put(STATS_FILE, stats_table(totals.statistics))
    files.put(BALANCE_FILE, balance_table(found, plan.spec.splits))
    files.put(CROISSANT_FILE, croissant(facts))
    files.put(CARD_FILE, card(facts))


def _delete_left_over(plan: ExportPlan, named: Hashes, paths: set[str]) -> None:
    """Delete the objects that no index names: those of shards that changed, and of killed starts.

    Memory holds a 64-bit hash of each named object and one page of the listing.
    """
    named = np.append(np.sort(named), np.uint64(2**64 - 1))
    with ThreadPoolExecutor(READ_THREADS) as pool:
        for left_over in (
            *unnamed_objects(plan.store, named),
            [path for path in _listed(plan.store) if path not in paths],
        ):
            if left_over:
                _require(plan)
                list(pool.map(plan.store.delete, left_over))


def _listed(store: Store) -> list[str]:
    """The paths of all index objects and surveys."""
    return [path for folder in (INDEX_FOLDER, SURVEY_FOLDER) for path in store.list(folder)]


def unnamed_objects(store: Store, named: Hashes) -> Iterator[list[str]]:
    """The objects with images that no index names, a page at a time.

    Args:
        store: the export.
        named: sorted hashes of the names, with the largest 64-bit number at the end. An object
            whose hash is among them by chance is missed; a named one is never found.
    """
    for page in store.pages(DATA):
        listed = list(page)
        hashes = hash64(pa.array(listed, pa.string()), 0)
        places = np.searchsorted(named[:-1], hashes)
        yield [listed[n] for n in np.flatnonzero(named[places] != hashes)]
