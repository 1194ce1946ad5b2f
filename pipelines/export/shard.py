"""Exporting one source shard: its images read and checked, its parts and its index written."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from typing import Self

import pyarrow as pa

from nightpress.pipelines.export.captions import Caption
from nightpress.pipelines.export.columns import exported_rows
from nightpress.pipelines.export.commits import read_rows
from nightpress.pipelines.export.decisions import decide, rows_by_split
from nightpress.pipelines.export.image_names import image_names
from nightpress.pipelines.export.images import LOCATION, ShardImages, is_in_small_pack
from nightpress.pipelines.export.index import (
    ShardIndex,
    StoredObject,
    counted,
    index_rows,
)
from nightpress.pipelines.export.layouts.part import (
    ExportedImage,
    Part,
    PartKey,
    Place,
)
from nightpress.pipelines.export.layouts.registry import WRITERS
from nightpress.pipelines.export.plan import ExportPlan, ShardTask
from nightpress.pipelines.export.preferences import with_pairs
from nightpress.pipelines.export.statistics import ShardStatistics
from nightpress.pipelines.storage import READ_THREADS, Store

PART_BYTES = 256 * 2**20
"""A part holds about this much; a process has two parts in memory, as images and as objects."""


@dataclass(frozen=True)
class ShardDone:
    """What a process reports of a shard that it has exported."""

    path: str
    """Path of the shard's index object."""
    num_images: int
    num_dropped: int
    num_bytes: int
    """Written by this process."""


def export_shard(plan: ExportPlan, task: ShardTask) -> ShardDone:
    """Export one shard: its parts first, and then the index object that names them.

    Raises:
        Damaged: the shard's commit or one of its images is not what was written.
        LeaseLost: another process has taken over the export.
        StoreError: a store failed.
    """
    shard = _Shard.read(plan, task)
    with ThreadPoolExecutor(READ_THREADS) as pool:
        for part in shard.parts(pool):
            list(pool.map(lambda each: write_object(plan.store, *each), part.objects))
    if plan.fence is not None:
        plan.fence.require(plan.store)
    index = shard.index()
    path = task.key.path(index.commit)
    write_object(plan.store, path, index.to_parquet())
    num_images = sum(index.num_images.values())
    return ShardDone(path, num_images, len(index.rows) - num_images, index.num_bytes)


class _Shard:
    """One shard while it is exported.

    Args:
        plan, task: see `export_shard`.
        part: the rows of its commit, with every column of the run.
        commit: SHA-256 of the commit.
    """

    def __init__(self, plan: ExportPlan, task: ShardTask, part: pa.Table, commit: str) -> None:
        self._plan, self._task, self._commit = plan, task, commit
        self._decisions = decide(part, plan.spec, task.wanted, task.leaks)
        self._together = 1
        """Images that stay in one part, side by side."""
        self._rows = part.select(LOCATION).to_pylist()
        self._captions = _captions(plan.spec.caption, part)
        self._names = image_names(part, plan.spec.metadata)
        self._by_split = self._ordered(part)
        origin = plan.names[task.source], commit
        self._columns = {
            split: exported_rows(part, rows, plan.columns, plan.spec.layout, origin)
            for split, rows in self._by_split.items()
        }
        self._images = ShardImages(plan.stores[task.source], task.shard)
        self._objects: list[StoredObject] = []
        self._places: dict[int, tuple[Place, str]] = {}
        """Row -> where its image lies in the export, and the SHA-256 of its bytes there."""

    @classmethod
    def read(cls, plan: ExportPlan, task: ShardTask) -> Self:
        """Read the rows of the shard."""
        commit = read_rows(plan, task)
        return cls(plan, task, commit.rows, commit.sha256)

    def _ordered(self, part: pa.Table) -> dict[str, list[int]]:
        """Split -> the rows that are exported in it, in order."""
        rank_by = self._plan.spec.rank_by
        if rank_by is None:
            return rows_by_split(self._decisions)
        self._decisions, pairs = with_pairs(part, self._decisions, rank_by)
        self._together = 2
        found: dict[str, list[int]] = {}
        for pair in pairs:
            found.setdefault(str(self._decisions[pair[0]].split), []).extend(pair)
        return found

    def parts(self, pool: Executor) -> Iterator[Part]:
        """The parts, one after the other; each is released by the time the next is made."""
        for split, rows in self._by_split.items():
            sizes = [self._rows[row]["num_bytes"] for row in rows]
            for number, (start, end) in enumerate(chunks(sizes, PART_BYTES, self._together)):
                columns = self._columns[split].slice(start, end - start)
                yield self._part(self._key(split, number), rows[start:end], columns, pool)

    def _key(self, split: str, number: int) -> PartKey:
        plan, task = self._plan, self._task
        return PartKey(split, task.source, task.shard, number, len(plan.stores), plan.spec.name)

    def _part(self, key: PartKey, rows: Sequence[int], columns: pa.Table, pool: Executor) -> Part:
        without_waiting = all(is_in_small_pack(self._rows[row]) for row in rows)
        images = list((map if without_waiting else pool.map)(self._image, rows))
        part = WRITERS[self._plan.spec.layout](key, images, columns)
        for row, image, place in zip(rows, images, part.places, strict=True):
            self._places[row] = place, sha256(image.data).hexdigest()
        self._objects += [
            StoredObject(path, sha256(data).hexdigest(), len(data)) for path, data in part.objects
        ]
        return part

    def _image(self, row: int) -> ExportedImage:
        values = self._rows[row]
        data = self._images.read(values, with_facts=self._plan.spec.metadata == "full")
        return ExportedImage(self._names[row], data, self._captions[row], row)

    def index(self) -> ShardIndex:
        """What the export holds of the shard, once every part has been made."""
        reasons = [None if each.reason is None else str(each.reason) for each in self._decisions]
        return ShardIndex(
            source=self._task.source,
            shard=self._task.shard,
            commit=self._commit,
            commit_bytes=self._task.commit_bytes,
            objects=tuple(self._objects),
            num_images={split: len(rows) for split, rows in self._by_split.items()},
            num_dropped=counted(reasons),
            statistics=ShardStatistics.of(self._described()),
            rows=index_rows(map(self._index_row, range(len(self._rows)))),
        )

    def _described(self) -> dict[str, pa.Table]:
        """The columns of each split, with the captions, to be counted."""
        tables = {}
        for split, rows in self._by_split.items():
            captions = pa.array([self._captions[row] for row in rows], pa.string())
            columns = self._columns[split]
            tables[split] = pa.table(
                [captions, *columns.columns], names=["caption", *columns.column_names]
            )
        return tables

    def _index_row(self, row: int) -> dict[str, object]:
        values, decision = self._rows[row], self._decisions[row]
        place, exported = self._places.get(row, (None, None))
        return {
            "row": row,
            "image_id": values["image_id"],
            "sha256": values["sha256"],
            "split": decision.split,
            "reason": decision.reason,
            "detail": decision.detail,
            "path": None if place is None else place.path,
            "member": None if place is None else place.member,
            "exported_sha256": exported,
        }


def _captions(template: str, part: pa.Table) -> list[str]:
    """The caption of each row."""
    caption = Caption.parse(template, part.schema)
    if not caption.columns:
        return [caption.render({})] * len(part)
    return [caption.render(row) for row in part.select(sorted(caption.columns)).to_pylist()]


def chunks(sizes: Sequence[int], most_bytes: int, together: int = 1) -> list[tuple[int, int]]:
    """(first, end) of consecutive items that have at most so many bytes.

    Args:
        sizes: bytes of each item.
        most_bytes: what a chunk has at most, unless it is a single group.
        together: how many items form a group, which is never divided.
    """
    found, start, total = list[tuple[int, int]](), 0, 0
    for first in range(0, len(sizes), together):
        size = sum(sizes[first : first + together])
        if first > start and total + size > most_bytes:
            found.append((start, first))
            start, total = first, 0
        total += size
    return [*found, (start, len(sizes))] if sizes else []


def write_object(store: Store, path: str, data: bytes) -> None:
    """Create an object whose name has the hash of its content, or replace one that is damaged."""
    if not store.create(path, data) and store.read(path) != data:
        store.put(path, data)
