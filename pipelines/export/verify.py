"""Holding an export against its runs: its objects, its rows, and the images that they came from.

It only reads.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from hashlib import sha256
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightpress.pipelines.errors import Damaged, StoreMissing
from nightpress.pipelines.export.finish import unnamed_objects
from nightpress.pipelines.export.images import LOCATION, ShardImages
from nightpress.pipelines.export.index import ShardIndex, StoredObject, read_index
from nightpress.pipelines.export.layouts.registry import READERS
from nightpress.pipelines.export.summary import SUMMARY_FILE, ExportSummary
from nightpress.pipelines.hashing import Hashes, hash64
from nightpress.pipelines.image_files.packing import members_of
from nightpress.pipelines.run_directory.commit import decode_commit, metadata_columns, shard_path
from nightpress.pipelines.run_directory.map_ahead import map_ahead
from nightpress.pipelines.storage import Store

SHARDS_AHEAD = 4
"""Shards that are checked at once."""


class ExportDamage(StrEnum):
    """Kinds of damage to an export."""

    MISSING = "missing"
    """An object of a part, or a file beside the parts, is not in the store."""
    CHANGED = "changed"
    """Its bytes are not those that were written."""
    INDEX = "index"
    """An index object cannot be read."""
    SOURCE = "source"
    """The run has changed since it was exported, or has lost what was exported."""
    ORIGIN = "origin"
    """An image of the export is not the one that its run has."""


@dataclass(frozen=True)
class ExportFinding:
    """One thing that is wrong."""

    damage: ExportDamage
    index: str
    """The index object that says what should be there."""
    path: str
    """The object, or the image as `<object>/<member>`; of a run, its URL."""
    text: str

    def __str__(self) -> str:
        """`data/train-0-00001-....parquet: missing: ...`."""
        return f"{self.path}: {self.damage}: {self.text}"


@dataclass(frozen=True)
class ExportShardVerified:
    """The result for the images of one source shard."""

    num_checked: int
    """Images that were read."""
    findings: tuple[ExportFinding, ...]
    names: Hashes
    """Hashes of the names of its objects."""


@dataclass(frozen=True)
class ExportCheck:
    """How an export is checked."""

    store: Store
    stores: tuple[Store, ...]
    """The directories of its runs."""
    layout: str
    with_facts: bool
    """Whether its images keep what is embedded in those of the runs."""
    sample: float = 1.0
    """Share of the images to read."""


def verify_shards(check: ExportCheck, paths: Sequence[str]) -> Iterator[ExportShardVerified]:
    """Check what some index objects name.

    Raises:
        StoreError: a store fails.
    """
    with ThreadPoolExecutor(SHARDS_AHEAD) as pool:
        yield from map_ahead(pool, partial(_verify, check), paths, SHARDS_AHEAD)


def verify_files(store: Store, summary: ExportSummary) -> list[ExportFinding]:
    """Check the files beside the parts: the card, the tables, what programs read about the set.

    Raises:
        StoreError: the store fails.
    """
    found = []
    for path, digest in summary.files.items():
        data = store.read_if_any(path)
        if data is None:
            text = "it is not in the store"
            found.append(ExportFinding(ExportDamage.MISSING, SUMMARY_FILE, path, text))
        elif sha256(data).hexdigest() != digest:
            text = "it is not what was written"
            found.append(ExportFinding(ExportDamage.CHANGED, SUMMARY_FILE, path, text))
    return found


def orphans(store: Store, names: Sequence[Hashes]) -> list[str]:
    """The objects with images that no index names, in order.

    Args:
        names: hashes of the names that all index objects have.
    """
    named = np.sort(np.concatenate([*names, np.array([2**64 - 1], np.uint64)]))
    return sorted(path for page in unnamed_objects(store, named) for path in page)


def _verify(check: ExportCheck, path: str) -> ExportShardVerified:
    try:
        index = read_index(check.store, path)
    except Damaged as error:
        finding = ExportFinding(ExportDamage.INDEX, path, path, str(error))
        return ExportShardVerified(0, (finding,), np.zeros(0, np.uint64))
    return _ShardCheck(check, path, index).result()


class _ShardCheck:
    """The check of one shard.

    Args:
        check: how.
        path: of its index object.
        index: the index.
    """

    def __init__(self, check: ExportCheck, path: str, index: ShardIndex) -> None:
        self._check, self._path, self._index = check, path, index
        self._source = check.stores[index.source]
        self._findings: list[ExportFinding] = []
        self._num_checked = 0

    def result(self) -> ExportShardVerified:
        """Check everything."""
        commit = self._commit()
        rows = [row for row in self._exported() if _is_chosen(row["image_id"], self._check.sample)]
        by_object: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            by_object.setdefault(row["path"], []).append(row)
        for each in self._index.objects:
            if each.path in by_object or self._check.sample >= 1:
                self._check_object(each, by_object.get(each.path, []), commit)
        names = pa.array([each.path for each in self._index.objects], pa.string())
        return ExportShardVerified(self._num_checked, tuple(self._findings), hash64(names, 0))

    def _exported(self) -> list[dict[str, Any]]:
        rows = self._index.rows
        found: list[dict[str, Any]] = rows.filter(pc.is_valid(rows.column("split"))).to_pylist()
        return found

    def _find(self, damage: ExportDamage, path: str, text: str) -> None:
        self._findings.append(ExportFinding(damage, self._path, path, text))

    def _commit(self) -> Mapping[int, dict[str, Any]]:
        """The rows of the source's commit by their number; none if it is not what was exported."""
        where = f"{self._source.url}/{shard_path(self._index.shard)}"
        data = self._source.read_if_any(shard_path(self._index.shard))
        if data is None:
            self._find(ExportDamage.SOURCE, where, "the commit is not in the store any more")
            return {}
        if sha256(data).hexdigest() != self._index.commit:
            text = "the commit has changed since it was exported; nightpress export goes on with it"
            self._find(ExportDamage.SOURCE, where, text)
            return {}
        part = metadata_columns(decode_commit(self._source, self._index.shard, data), LOCATION)
        return dict(enumerate(part.to_pylist()))

    def _check_object(
        self,
        stored: StoredObject,
        rows: Sequence[dict[str, Any]],
        commit: Mapping[int, dict[str, Any]],
    ) -> None:
        data = self._check.store.read_if_any(stored.path)
        if data is None:
            self._find(ExportDamage.MISSING, stored.path, "it is not in the store")
            return
        if sha256(data).hexdigest() != stored.sha256:
            text = f"{len(data):,} bytes, but {stored.num_bytes:,} others were written"
            self._find(ExportDamage.CHANGED, stored.path, text)
            return
        self._num_checked += len(rows)
        images = _images(self._check.layout, stored.path, data, rows)
        for row in rows:
            wrong = self._wrong(row, images.get(row["member"]), commit)
            if wrong is not None:
                path = "/".join(filter(None, (row["path"], row["member"])))
                self._find(ExportDamage.ORIGIN, path, wrong)

    def _wrong(
        self,
        row: Mapping[str, Any],
        image: bytes | None,
        commit: Mapping[int, dict[str, Any]],
    ) -> str | None:
        """What is wrong with one image; None if it is the one that its run has."""
        if image is None or sha256(image).hexdigest() != row["exported_sha256"]:
            return "the index has another image in this place"
        source = commit.get(row["row"])
        if source is None:
            return None  # said once, of the commit
        if (source["image_id"], source["sha256"]) != (row["image_id"], row["sha256"]):
            return f"the commit has image {source['image_id']} in row {row['row']}"
        if row["exported_sha256"] == source["sha256"]:
            return None
        return self._wrong_copy(image, source)

    def _wrong_copy(self, image: bytes, source: Mapping[str, Any]) -> str | None:
        """What is wrong with an image that lacks what is embedded in that of the run."""
        images = ShardImages(self._source, self._index.shard)
        try:
            expected = images.read(source, with_facts=self._check.with_facts)
        except (Damaged, StoreMissing) as error:
            return f"it cannot be compared: {error}"
        return None if expected == image else "it is not the image of the run without its facts"


def _images(
    layout: str, path: str, data: bytes, rows: Sequence[Mapping[str, Any]]
) -> dict[str | None, bytes]:
    """Member -> bytes of the images in an object; None is the object itself."""
    if not any(row["member"] for row in rows):
        return {None: data}
    wanted = {row["member"] for row in rows}
    read = READERS.get(layout)
    found = members_of(path, data) if read is None else read(data)
    return {name: content for name, content in found if name in wanted}


def _is_chosen(image_id: str, sample: float) -> bool:
    """Whether an image is in a sample; the same on every machine."""
    draw = int.from_bytes(sha256(image_id.encode()).digest()[:8]) / 2**64
    return sample >= 1 or draw < sample
